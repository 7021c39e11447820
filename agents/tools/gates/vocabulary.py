"""The names by which Python code does what a reviewer should know: modules, calls, variables, places on a machine."""

from __future__ import annotations

import re

Kind = str
"""The family of a signal, a key of the rules in `behaviour.py`."""

NETWORK_MODULES = {
    "socket", "ssl", "http.client", "http.server", "urllib.request", "urllib3", "requests", "httpx", "httpx2", "aiohttp", "ftplib",
    "smtplib", "poplib", "imaplib", "telnetlib", "nntplib", "xmlrpc", "socketserver", "paramiko", "websockets", "websocket",
    "webbrowser", "grpc", "boto3", "botocore", "pycurl", "dns", "multiprocessing.connection", "tornado.httpclient", "scapy",
}  # fmt: skip
RUNNER_MODULES = {"pytest", "_pytest", "pluggy", "unittest", "nose", "coverage"}
NATIVE_MODULES = {"ctypes", "cffi", "_ctypes", "mmap"}
STD_LIB_PATCHED = {"builtins", "__builtins__", "_pytest", "pytest", "unittest", "pluggy"}

CALLS: tuple[tuple[Kind, str], ...] = (
    ("exec", r"(builtins\.)?(eval|exec|execfile)|(builtins\.)?compile|runpy\..*|code\.(interact|InteractiveInterpreter.*)|types\.(CodeType|FunctionType)"),
    ("shell", r"os\.(system|popen|exec\w+|spawn\w+|posix_spawn\w*)|pty\.spawn|subprocess\.(getoutput|getstatusoutput)|asyncio\.create_subprocess_shell"),
    ("process", r"subprocess\.(run|call|check_call|check_output|Popen)|asyncio\.create_subprocess_exec|os\.fork(pty)?|multiprocessing\.(Process|Pool|get_context\(\).*)|concurrent\.futures\.ProcessPoolExecutor"),
    ("thread", r"threading\.(Thread|Timer)|_thread\.start_new(_thread)?|concurrent\.futures\.ThreadPoolExecutor"),
    ("unpickle", r"(pickle|cPickle|_pickle|dill|cloudpickle|joblib|torch|marshal)\.(load|loads|Unpickler)|shelve\.open|jsonpickle\.decode|(pandas|pd)\.read_pickle|yaml\.(unsafe_load|unsafe_load_all|full_load)"),
    ("network", r"asyncio\.(open_connection|start_server|open_unix_connection)|.*\.(create_connection|create_datagram_endpoint|urlopen|urlretrieve)"),
    ("hook", r"atexit\.register|signal\.(signal|set_wakeup_fd|setitimer|alarm)|sys\.(settrace|setprofile|addaudithook|set_asyncgen_hooks)|threading\.(settrace|setprofile)|faulthandler\.register|readline\.set_\w+"),
    ("global", r"os\.(chdir|umask|putenv|unsetenv|setuid|setgid|nice)|locale\.setlocale|random\.seed|sys\.(setrecursionlimit|setswitchinterval|set_int_max_str_digits)|socket\.setdefaulttimeout|logging\.(disable|basicConfig|captureWarnings)|warnings\.(filterwarnings|simplefilter)|gc\.(disable|freeze|set_threshold)|time\.tzset|asyncio\.set_event_loop(_policy)?|decimal\.setcontext|mimetypes\.init|resource\.setrlimit|ssl\._create_default_https_context"),
    ("write", r"os\.(remove|unlink|rename|renames|replace|mkdir|makedirs|rmdir|removedirs|symlink|link|chmod|chown|truncate|mkfifo)|shutil\.(rmtree|copy\w*|move|make_archive|unpack_archive|chown)|tempfile\.(mkstemp|mkdtemp|NamedTemporaryFile)"),
    ("exit", r"sys\.exit|exit|quit|builtins\.(exit|quit)"),
    ("kill", r"os\.(_exit|abort|kill|killpg)|signal\.(raise_signal|pthread_kill)"),
    ("introspection", r"sys\.(_getframe|_current_frames)|inspect\.(stack|currentframe|getouterframes|trace)|gc\.(get_objects|get_referrers|get_referents)|traceback\.extract_stack"),
    ("whoami", r"socket\.(gethostname|getfqdn|gethostbyname)|platform\.(node|uname)|getpass\.getuser|os\.(getlogin|uname|getuid|geteuid|getgroups)|uuid\.getnode|pwd\.\w+"),
    ("environ", r"os\.getenv|os\.environ\.(get|pop|setdefault|__getitem__)|os\.getenvb"),
    ("home", r"os\.path\.(expanduser|expandvars)|pathlib\.Path\.home|.*\.expanduser|pathlib\.Path\(\)\.expanduser"),
    ("insecure", r"ssl\._create_unverified_context|tempfile\.mktemp|.*\.(disable_warnings)|hashlib\.md4|django\.utils\.safestring\.mark_safe"),
    ("sleep", r"time\.sleep"),
    ("print", r"print|sys\.(stdout|stderr)\.write|input"),
)  # fmt: skip
COMPILED_CALLS = tuple((kind, re.compile(pattern)) for kind, pattern in CALLS)
CLOCK = re.compile(
    r"time\.(time|time_ns|localtime|gmtime|ctime|strftime)|(datetime\.)*(datetime|date)\.(now|today|utcnow)|(.*\.)?(utcnow|today)"
)
CLOCK_PARTS = {
    "year",
    "month",
    "day",
    "hour",
    "weekday",
    "isoweekday",
    "minute",
    "tm_year",
    "tm_mon",
    "tm_hour",
    "tm_wday",
}
SECRET_NAME = re.compile(
    r"(?i)(^|_)(passw(or)?d|passwd|pwd|secret|api_?key|private_?key|credentials?|signature|hmac|otp|passphrase)s?($|_)"
)
SECRET_VARIABLE = re.compile(r"(?i)KEY|TOKEN|SECRET|PASSW|CREDENTIAL")
CREDENTIALS = re.compile(
    r"\.ssh(/|$)|\bid_(rsa|dsa|ecdsa|ed25519)\b|\.aws/|\.netrc$|\.git-credentials|\.docker/config|/etc/(shadow|passwd|sudoers)|\.kube/config|"
    r"\.pypirc|\.npmrc|\.gnupg|/proc/(self|\d+)/environ|Login Data|cookies\.sqlite|\.config/gcloud|\.azure/|wallet\.dat|\.bash_history|\.config/gh/"
)
PERSISTENCE = re.compile(
    r"autostart|\.(bash|zsh)(rc|_profile|env)\b|\.profile$|\bcrontab\b|/etc/cron|cron\.d\b|LaunchAgents|LaunchDaemons|systemd/(user|system)|"
    r"CurrentVersion\\+Run|authorized_keys|/etc/rc\.local|/etc/init\.d|(site|user)customize|\.pth$|\.git/hooks|\bschtasks\b|\blaunchctl\b|"
    r"Start Menu|\.config/fish|\.xinitrc|\.config/systemd"
)
TEST_MARKS = re.compile(r"^_?pytest$|PYTEST_|^unittest$|^hypothesis$|^CI$|GITHUB_ACTIONS")
WRITE_METHODS = {"write_text", "write_bytes", "touch", "unlink", "rmdir", "symlink_to", "hardlink_to", "rename"}
LOG_METHODS = {"debug", "info", "warning", "error", "critical", "exception", "log", "print", "write"}
