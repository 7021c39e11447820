"""The program that stands between the harness and a contained command: copy in, confine, run, end everything, hand out.

It is run as a script by the interpreter alone (`python -I -S -B confinement.py CONFIG CONTROL LIFELINE`, three descriptors),
inside bubblewrap or directly on the host, and so imports nothing but the standard library. What it hands out on CONTROL is the
word `started` and a tar stream: `status.json`, `report`, and the changed files under `tree/`. When LIFELINE closes, the harness is gone or
has had enough: everything is killed. Any step of confining that fails ends the run before the command starts.
"""

# It works on descriptors and on paths of any depth, before and behind walls; pathlib would be loaded for nothing.
# ruff: noqa: PTH101, PTH102, PTH103, PTH104, PTH106, PTH108, PTH115, PTH123, PTH208, PTH211

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import hashlib
import io
import json
import os
import resource
import select
import signal
import stat
import struct
import sys
import tarfile
import time
from typing import IO, Any, NoReturn

JUNK_FOLDERS = frozenset({"__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache"})
JUNK_SUFFIX = ".pyc"
STARTED = b"started\n"  # first on CONTROL once the walls are up: what breaks off after it is the command's doing
DEPTH_MAX = 128
ENTRIES_MAX = 200_000
CHUNK_BYTES = 1 << 20
WATCH_SECONDS = 0.25
UID_FIRST = 60_000  # below it are real users; never switched to, never signalled

PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_SECCOMP, PR_CAPBSET_DROP = 4, 8, 22, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 36, 38, 47, 2
SECCOMP_MODE_FILTER = 2
CAP_DAC_READ_SEARCH = 2
CAP_LAST = 63
CAPSET = {"x86_64": 126, "aarch64": 91}
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446

READ_FILE, READ_DIR, EXECUTE, WRITE_FILE = 1 << 2, 1 << 3, 1 << 0, 1 << 1
MAKE_CHAR, MAKE_BLOCK = 1 << 6, 1 << 11
FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
ON_FILES = READ_FILE | WRITE_FILE | EXECUTE | 1 << 14  # the rights that a rule on a single file may carry
TCP_RIGHTS, SCOPES = 0b11, 0b11

Config = dict[str, Any]
Snapshot = dict[str, tuple[str, str]]  # path: (kind, digest of content and executable bit, or the link's target)

libc = ctypes.CDLL(None, use_errno=True)


class CannotConfineError(Exception):
    """A wall could not be put up, so the command is not run."""


def main() -> None:
    config_fd, control_fd, lifeline_fd = (int(word) for word in sys.argv[1:4])
    with open(config_fd, "rb") as file:
        config: Config = json.load(file)
    os.set_inheritable(control_fd, False)
    os.set_inheritable(lifeline_fd, False)
    steward = Steward(config, lifeline_fd)
    with open(control_fd, "wb") as control:
        try:
            steward.run(control)
        except (CannotConfineError, OSError) as error:
            Outcome({"refused": f"{error}"}).write(control)
        finally:
            steward.end_everything()
            if config["scratch"]:
                remove_tree(config["scratch"])


class Steward:
    """One run, from the copy of the tree to the last byte handed out."""

    def __init__(self, config: Config, lifeline_fd: int) -> None:
        self.config = config
        self.lifeline_fd = lifeline_fd
        self.uid: int | None = None
        self.started = False

    def run(self, control: IO[bytes]) -> None:
        _prctl(PR_SET_DUMPABLE, 0)  # same user or not, nobody reads our memory or descriptors
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        if self.config["pid_namespace"] and os.readlink("/proc/self/ns/pid") == self.config["host_pid_namespace"]:
            raise CannotConfineError("the command would share the host's processes")
        self.uid = next((uid for uid in self.config["uids"] if can_become(uid)), None)
        for folder in self.config["own_folders"]:
            os.makedirs(folder, exist_ok=True)
        before = copy_tree(self.config["tree"], self.config["work"], self.uid)
        if self.uid is not None:
            for folder in self.config["own_folders"]:
                os.chown(folder, self.uid, self.uid)
            if self.config["scratch"]:
                os.chmod(self.config["scratch"], 0o711)  # noqa: S103 - it may pass through, no more
        status = self._run_command(control)
        self.end_everything()
        self._outcome(status, before).write(control)

    def _run_command(self, control: IO[bytes]) -> dict[str, Any]:
        ruleset = make_ruleset(self.config["landlock"]) if self.config["landlock"] else None
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        error_read, error_write = os.pipe()
        child = os.fork()
        if child == 0:
            start_command(self.config, self.uid, ruleset, error_write)
        self.started = True
        os.close(error_write)
        with open(error_read, encoding="utf-8") as errors:
            if complaint := errors.read():
                raise CannotConfineError(complaint)
        control.write(STARTED)
        control.flush()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)  # only the command holds the output from here on, so that its end is the output's end
        os.dup2(null, 2)
        return self._supervise(child, wake_read)

    def _supervise(self, child: int, wake_fd: int) -> dict[str, Any]:
        poll = select.poll()
        poll.register(wake_fd, select.POLLIN)
        poll.register(self.lifeline_fd, select.POLLIN | select.POLLHUP)
        watch_due = time.monotonic() + WATCH_SECONDS
        while True:
            for fd, _ in poll.poll(WATCH_SECONDS * 1000):
                if fd == self.lifeline_fd:
                    raise CannotConfineError("the harness let go")
                os.read(fd, 4096)
            if (status := reap(child)) is not None:
                return {"exit_code": exit_code(status), "stopped": ""}
            if time.monotonic() >= watch_due:
                if stopped := self._over_limit():
                    return {"exit_code": 128 + signal.SIGKILL, "stopped": stopped}
                watch_due = time.monotonic() + WATCH_SECONDS

    def _over_limit(self) -> str:
        """Limits that the kernel does not hold for a tree of processes, looked at a few times a second."""
        limits = self.config["limits"]
        if self.config["scratch"] and (reason := disk_over(self.config["scratch"], limits["disk_bytes"])):
            return reason
        contained = self._contained()
        if len(contained) > limits["processes"]:  # the kernel's limit knows exceptions, such as root
            return f"the command started more than {limits['processes']} processes"
        if memory_over(contained, limits["memory_bytes"]):
            return f"the processes together held more than {limits['memory_bytes']} bytes of memory"
        return ""

    def _contained(self) -> list[int]:
        if self.config["pid_namespace"]:
            return [pid for pid in all_processes() if pid not in {1, os.getpid()}]
        return descendants(os.getpid())

    def end_everything(self) -> None:
        """No process of the command is alive afterwards, whatever it ignored, detached or is still forking."""
        if not self.started:
            return
        if self.config["pid_namespace"]:
            kill_all_visible(self.config["host_pid_namespace"])
        elif self.uid is not None:
            kill_all_of(self.uid)
        else:
            kill_descendants()
        reap(-1)

    def _outcome(self, status: dict[str, Any], before: Snapshot) -> Outcome:
        outcome = Outcome(status)
        if self.config["report"]:
            outcome.add("report", self.config["report"], self.config["report_bytes"])
        if self.config["collect"] and not status["stopped"]:
            collect(self.config["work"], before, outcome, self.config["limits"]["changes_bytes"])
        return outcome


class Outcome:
    """What is handed out, gathered by name first so that the status can say what is wrong with it."""

    def __init__(self, status: dict[str, Any]) -> None:
        self.status = status
        self.files: list[tuple[str, str]] = []  # member, path
        self.others: list[tarfile.TarInfo] = []

    def add(self, member: str, path: str, bytes_max: int) -> None:
        try:
            facts = os.lstat(path)
        except OSError:
            return
        if stat.S_ISREG(facts.st_mode) and facts.st_size <= bytes_max:
            self.files.append((member, path))

    def write(self, control: IO[bytes]) -> None:
        with tarfile.open(fileobj=control, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            status = json.dumps(self.status).encode()
            member = tarfile.TarInfo("status.json")
            member.size = len(status)
            tar.addfile(member, io.BytesIO(status))
            for other in self.others:
                tar.addfile(other)
            for name, path in self.files:
                with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                    facts = os.fstat(file.fileno())
                    member = tarfile.TarInfo(name)
                    member.size = facts.st_size
                    member.mode = 0o755 if facts.st_mode & stat.S_IXUSR else 0o644
                    tar.addfile(member, file)


# --- copy in and hand out ---------------------------------------------------------------------------------------------


def copy_tree(source: str, target: str, uid: int | None) -> Snapshot:
    """Copy regular files, folders and links, without any `.git`; answer what was there, to tell changes by."""
    snapshot: Snapshot = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        for entry in os.scandir(f"{source}/{folder}"):
            path = f"{folder}{entry.name}"
            copy = f"{target}/{path}"
            if entry.name.lower() == ".git":
                continue
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), copy)
                snapshot[path] = ("link", os.readlink(entry.path))
            elif entry.is_dir(follow_symlinks=False):
                os.mkdir(copy, 0o755)
                folders.append(f"{path}/")
            elif entry.is_file(follow_symlinks=False):
                snapshot[path] = ("file", copy_file(entry.path, copy))
            else:
                continue
            if uid is not None:
                os.chown(copy, uid, uid, follow_symlinks=False)
    return snapshot


def copy_file(source: str, target: str) -> str:
    digest = hashlib.sha256()
    with open(source, "rb") as reader, open(target, "xb") as writer:
        facts = os.fstat(reader.fileno())
        while chunk := reader.read(CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
        os.fchmod(writer.fileno(), 0o755 if facts.st_mode & stat.S_IXUSR else 0o644)
    os.utime(target, ns=(facts.st_mtime_ns, facts.st_mtime_ns))
    return f"{digest.hexdigest()} {bool(facts.st_mode & stat.S_IXUSR)}"


def digest_of(path: str) -> str:
    digest = hashlib.sha256()
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        facts = os.fstat(file.fileno())
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return f"{digest.hexdigest()} {bool(facts.st_mode & stat.S_IXUSR)}"


def collect(work: str, before: Snapshot, outcome: Outcome, bytes_max: int) -> None:
    """Add what differs from the copy. Nothing runs any more, so nothing moves under our hands."""
    seen: set[str] = set()
    folders, entries, total = [("", 0)], 0, 0
    while folders:
        folder, depth = folders.pop()
        for entry in list_folder(f"{work}/{folder}"):
            entries += 1
            path = f"{folder}{entry.name}"
            if is_junk(entry):
                continue
            if entries > ENTRIES_MAX or depth > DEPTH_MAX:
                outcome.status["excess"] = "too many files or too deep folders"
                return
            if entry.is_dir(follow_symlinks=False):
                folders.append((f"{path}/", depth + 1))
                if entry.name.lower() == ".git":
                    outcome.others.append(_other(path, stat.S_IFDIR))
                continue
            seen.add(path)
            size = changed_bytes(entry, before.get(path), path, outcome)
            total += size
            if total > bytes_max:
                outcome.status["excess"] = f"more than {bytes_max} bytes of changes"
                outcome.files = [item for item in outcome.files if item[0] == "report"]
                return
    outcome.status["deleted"] = sorted(set(before) - seen)


def changed_bytes(entry: os.DirEntry[str], old: tuple[str, str] | None, path: str, outcome: Outcome) -> int:
    """Add the entry to the outcome if it is new or not what it was; answer the bytes it brings."""
    facts = entry.stat(follow_symlinks=False)
    if entry.is_symlink():
        if old != ("link", os.readlink(entry.path)):
            outcome.others.append(_other(path, stat.S_IFLNK, os.readlink(entry.path)))
        return 0
    if not stat.S_ISREG(facts.st_mode):
        outcome.others.append(_other(path, stat.S_IFMT(facts.st_mode)))
        return 0
    if not facts.st_mode & stat.S_IRUSR:
        os.chmod(entry.path, 0o600 | facts.st_mode & 0o100)
    if old == ("file", digest_of(entry.path)):
        return 0
    if facts.st_nlink > 1:
        outcome.others.append(_other(path, stat.S_IFREG))
        return 0
    outcome.files.append((f"tree/{path}", entry.path))
    return facts.st_size + 512


def _other(path: str, kind: int, target: str = "") -> tarfile.TarInfo:
    """A member without content for what is no plain file, so that the reader can say what it refuses."""
    member = tarfile.TarInfo(f"tree/{path}")
    kinds = {stat.S_IFLNK: tarfile.SYMTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFREG: tarfile.LNKTYPE}
    member.type = kinds.get(kind, tarfile.FIFOTYPE)
    member.linkname = target
    return member


def is_junk(entry: os.DirEntry[str]) -> bool:
    return entry.name in JUNK_FOLDERS or entry.name.endswith(JUNK_SUFFIX)


def list_folder(path: str) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(path))
    except PermissionError:
        os.chmod(path, 0o700)
        return list(os.scandir(path))


def remove_tree(root: str) -> None:
    """Remove a folder of any depth: sub-folders are moved up before they are emptied, so paths stay short."""
    folders, count = [root], 0
    while folders:
        folder = folders.pop()
        for entry in list_folder(folder):
            if entry.is_dir(follow_symlinks=False):
                count += 1
                os.chmod(entry.path, 0o700)
                os.rename(entry.path, f"{root}/.moved-{count}")
                folders.append(f"{root}/.moved-{count}")
            else:
                os.unlink(entry.path)
        if folder != root:
            os.rmdir(folder)
    os.rmdir(root)


# --- confining --------------------------------------------------------------------------------------------------------


def start_command(config: Config, uid: int | None, ruleset: int | None, error_fd: int) -> NoReturn:
    """In the child: put up the walls, then become the command. A wall that fails is told on `error_fd`."""
    try:
        os.setsid()
        _prctl(PR_SET_DUMPABLE, 1)  # only so that our own /proc entries are ours again
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        prefer_for_oom()
        close_others({0, 1, 2, error_fd, ruleset})
        os.chdir(config["work"])
        os.umask(0o022)
        set_limits(config["limits"])
        give_up_privileges(uid, keep_reading=config["keep_reading"])
        _prctl(PR_SET_NO_NEW_PRIVS, 1)
        if ruleset is not None:
            _syscall(LANDLOCK_RESTRICT, ruleset, 0)
            os.close(ruleset)
        if config["seccomp"]:
            install_seccomp(base64.b64decode(config["seccomp"]))
    except BaseException as error:  # noqa: BLE001
        os.write(error_fd, f"{type(error).__name__}: {error}".encode())
        os._exit(126)
    try:
        os.execvpe(config["argv"][0], config["argv"], config["env"])  # noqa: S606
    except OSError as error:
        os.write(2, f"cannot run {config['argv'][0]}: {error.strerror}\n".encode())
    os._exit(127)


def set_limits(limits: dict[str, int]) -> None:
    for kind, value in (
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NPROC, limits["tasks"]),
        (resource.RLIMIT_NOFILE, 1024),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        lowered = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (lowered, lowered))


def prefer_for_oom() -> None:
    """When the machine runs out of memory, the kernel shall take this command and not the agents."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")
    except OSError:
        pass


def close_others(kept: set[int | None]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                continue


def can_become(uid: int) -> bool:
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def give_up_privileges(uid: int | None, *, keep_reading: bool) -> None:
    """Become `uid` where we may; hold no capability, but the one to read what is granted where modes forbid it."""
    kept = 1 << CAP_DAC_READ_SEARCH if keep_reading and uid is not None else 0
    if os.geteuid() == 0:
        for capability in range(CAP_LAST + 1):
            if not kept >> capability & 1:
                libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    if uid is not None:
        if uid < UID_FIRST:
            raise CannotConfineError(f"{uid} is not a user id of ours")
        if kept:
            _prctl(PR_SET_KEEPCAPS, 1)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        if os.getresuid() != (uid, uid, uid):
            raise CannotConfineError("the user id could not be given up")
    set_capabilities(kept)
    if kept:
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH)


def set_capabilities(kept: int) -> None:
    header = struct.pack("=Ii", 0x20080522, 0)
    data = struct.pack("=6I", kept, kept, kept, 0, 0, 0)
    _syscall(CAPSET[os.uname().machine], ctypes.c_char_p(header), ctypes.c_char_p(data))


def make_ruleset(landlock: dict[str, Any]) -> int:
    """A Landlock ruleset that grants reading and writing below the named paths, and nothing else."""
    abi = landlock["abi"]
    rights = FILE_RIGHTS[min(abi, max(FILE_RIGHTS))]
    attribute = struct.pack("=Q", rights)
    if abi >= 4:
        attribute += struct.pack("=Q", TCP_RIGHTS)
    if abi >= 6:
        attribute += struct.pack("=Q", SCOPES)
    ruleset = _syscall(LANDLOCK_CREATE, ctypes.c_char_p(attribute), len(attribute), 0)
    reading, listing = READ_FILE | READ_DIR | EXECUTE, READ_DIR
    writing = rights & ~(MAKE_CHAR | MAKE_BLOCK)
    for granted, paths in (
        (reading, landlock["read"]),
        (listing, landlock["list"]),
        (READ_FILE | WRITE_FILE, landlock["devices"]),
        (writing, landlock["write"]),
    ):
        for path in paths:
            grant(ruleset, path, granted & rights)
    return ruleset


def grant(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no grant
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= ON_FILES
        _syscall(LANDLOCK_ADD, ruleset, 1, ctypes.c_char_p(struct.pack("=Qi", rights, fd)), 0)
    finally:
        os.close(fd)


def install_seccomp(program: bytes) -> None:
    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    filled = Program(len(program) // 8, program)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filled), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the kernel refused the filter of system calls")


def _prctl(option: int, *values: int) -> None:
    words = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    if libc.prctl(option, *words) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option} failed")


def _syscall(number: int, *arguments: Any) -> int:
    words = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    answer = int(libc.syscall(ctypes.c_long(number), *words))
    if answer < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}: {os.strerror(ctypes.get_errno())}")
    return answer


# --- processes --------------------------------------------------------------------------------------------------------


def exit_code(status: int) -> int:
    """The shell's way: 128 + n for a command that ended by signal n."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def reap(child: int) -> int | None:
    """Collect whoever has ended; the wait status of `child` if it was among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = status


def kill_all_visible(host_namespace: str) -> None:
    """In a PID namespace of our own: everyone but us and its first process."""
    if os.readlink("/proc/self/ns/pid") != host_namespace:
        _kill_everyone()


def kill_all_of(uid: int) -> None:
    """Every process of a user id that is ours alone, at one stroke of the kernel, so that no fork escapes."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            if uid >= UID_FIRST and os.getresuid() == (uid, uid, uid):
                _kill_everyone()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _kill_everyone() -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)


def kill_descendants() -> None:
    """Stop them all until no new one appears, then kill: a stopped process cannot fork out of the way."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        hit: set[int] = set()
        while fresh := [pid for pid in descendants(os.getpid()) if pid not in hit]:
            for pid in fresh:
                _signal(pid, number)
            hit.update(fresh)
    deadline = time.monotonic() + 5
    while descendants(os.getpid()) and time.monotonic() < deadline:
        reap(-1)
        for pid in descendants(os.getpid()):
            _signal(pid, signal.SIGKILL)
        time.sleep(0.005)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def all_processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def descendants(ancestor: int) -> list[int]:
    """Living descendants (zombies are not), by one look at the process table."""
    children: dict[int, list[int]] = {}
    for pid in all_processes():
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
        except OSError:
            continue
        children.setdefault(int(parent), []).append(pid if state not in (b"Z", b"X") else -pid)
    found: list[int] = []
    waiting = [ancestor]
    while waiting:
        for child in children.get(waiting.pop(), []):
            waiting.append(abs(child))
            if child > 0:
                found.append(child)
    return found


def memory_over(pids: list[int], bytes_max: int) -> bool:
    """Two looks: resident pages first, as they are cheap; then the shares, which do not count a forked page twice."""
    page = os.sysconf("SC_PAGE_SIZE")
    resident = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm", "rb") as file:
                fields = file.read().split()
            resident += (int(fields[1]) - int(fields[2])) * page
        except (OSError, IndexError):
            continue
    return resident > bytes_max and sum(share_bytes(pid) for pid in pids) > bytes_max


def share_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return sum(int(line.split()[1]) * 1024 for line in file if line.startswith(b"Pss_Anon:"))
    except (OSError, ValueError):
        return 0


def disk_over(root: str, bytes_max: int) -> str:
    """Why the folder is over its limits, or nothing. The tree may be moving, so errors are passed over."""
    total, entries = 0, 0
    folders = [(root, 0)]
    while folders:
        folder, depth = folders.pop()
        try:
            with os.scandir(folder) as listing:
                for entry in listing:
                    entries += 1
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append((entry.path, depth + 1))
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return "the command made folders nested too deep"
        if depth > DEPTH_MAX:
            return "the command made folders nested too deep"
        if total > bytes_max:
            return f"the command wrote more than {bytes_max} bytes"
        if entries > ENTRIES_MAX:
            return f"the command made more than {ENTRIES_MAX} files"
    return ""


if __name__ == "__main__":
    main()
