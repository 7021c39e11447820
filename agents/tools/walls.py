"""The walls round a contained command: bubblewrap, Landlock with seccomp, or (on a person's word) none.

All three start the same program, `confinement.py`, which copies, confines, ends everything and hands out; they differ in the
walls they ask it for and in what they put round it.
"""

from __future__ import annotations

import base64
import contextlib
import os
import platform
import random
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.tools import confinement, seccomp
from agents.tools.contained import DEFAULT_LIMITS, REPORT_BYTES_MAX, Job, Limits, Ran, Run, memory_file
from agents.tools.environment import Environment, steward_python
from contracts.errors import Refused

REPORT = "{report}"  # in `argv` and `env` this stands for the path of the report inside the sandbox
TMP_BYTES, SHM_BYTES = 64 << 20, 16 << 20
FRESH_UIDS = (2_000_000_000, 2_100_000_000)  # above every range that distributions hand out
SPARE_UIDS = (64_000, 65_000)  # where a container maps no more than 65,536
SYSTEM_FOLDERS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
SYSTEM_EXTRAS = (
    "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/etc/ssl/certs", "/etc/ssl/openssl.cnf",
    "/etc/mime.types", "/nix/store",
)  # fmt: skip
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
STEWARD_INSIDE, TREE_INSIDE = "/run/steward.py", "/run/tree"
WORK, TMP, SHM = "/w", "/tmp", "/dev/shm"  # noqa: S108 - inside bubblewrap these are file systems of its own


class _Confined:
    """What the backends share: they differ in the walls they ask for and in the command that starts the steward."""

    name = ""
    strength = ""

    async def run(
        self,
        argv: Sequence[str],
        *,
        tree: Path,
        environment: Environment,
        limits: Limits = DEFAULT_LIMITS,
        env: Mapping[str, str] = {},
        collect_changes: bool = False,
        report: str | None = None,
    ) -> Ran:
        if not argv:
            raise Refused("there is no command to run", code="sandbox_refused")
        if report is not None and not re.fullmatch(r"[A-Za-z0-9._-]{1,80}", report):
            raise Refused(f"{report!r} is no plain file name for a report", code="sandbox_refused")
        job = Job(tuple(argv), tree.resolve(), environment, limits, dict(env), collect_changes, report)
        if not job.tree.is_dir():
            raise Refused(f"there is no folder {tree}", code="sandbox_refused")
        with contextlib.ExitStack() as opened:
            command, config, fds = self._prepare(job, opened)
            return await Run(job, command, config, fds).ran()

    def _prepare(self, job: Job, opened: contextlib.ExitStack) -> tuple[list[str], dict[str, Any], list[int]]:
        """The command that starts the steward, its configuration, and the descriptors that command inherits."""
        raise NotImplementedError


def _config(job: Job, *, work: str, tmp: str, **walls: Any) -> dict[str, Any]:
    """The steward's configuration; `walls` overrides what an unconfined run would have."""
    report = f"{tmp}/{job.report}" if job.report else None
    python_path = [
        f"{work}/{root}".removesuffix("/.") for root in job.environment.python_path if (job.tree / root).is_dir()
    ]
    folders = [*map(str, job.environment.path), "/usr/local/bin", "/usr/bin", "/bin"]
    env = {
        "PATH": ":".join(dict.fromkeys(folders)),
        "HOME": tmp,
        "TMPDIR": tmp,
        "USER": "sandbox",
        "LOGNAME": "sandbox",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": ":".join(python_path),
        **job.env,
    }
    argv = [str(job.environment.python) if job.argv[0] in {"python", "python3"} else job.argv[0], *job.argv[1:]]
    return {
        "tree": str(job.tree),
        "work": work,
        "own_folders": [work, tmp],
        "scratch": "",
        "argv": [word.replace(REPORT, report) if report else word for word in argv],
        "env": {name: value.replace(REPORT, report) if report else value for name, value in env.items()},
        "limits": {
            "memory_bytes": job.limits.memory_bytes,
            "cpu_seconds": job.limits.cpu_seconds,
            "file_bytes": job.limits.file_bytes,
            "disk_bytes": job.limits.disk_bytes,
            "changes_bytes": job.limits.changes_bytes,
            "processes": job.limits.processes,
            "tasks": job.limits.processes,
        },
        "collect": job.collect,
        "report": report,
        "report_bytes": REPORT_BYTES_MAX,
        "pid_namespace": False,
        "host_pid_namespace": str(Path("/proc/self/ns/pid").readlink()),
        "uids": [],
        "keep_reading": False,
        "landlock": None,
        "seccomp": "",
        **walls,
    }


class Bubblewrap(_Confined):
    """Namespaces of its own: no network, no other processes, a file system made of what is named here."""

    name = "bubblewrap"
    strength = "strong"

    def __init__(self, executable: str) -> None:
        self.executable = executable

    def _prepare(self, job: Job, opened: contextlib.ExitStack) -> tuple[list[str], dict[str, Any], list[int]]:
        as_root = os.geteuid() == 0
        uids = _fresh_uids() if as_root else []
        arch = seccomp.machine()
        config = _config(
            job,
            work=WORK,
            tmp=TMP,
            tree=TREE_INSIDE,
            pid_namespace=True,
            uids=uids,
            keep_reading=as_root and not _readable_by_all(job.environment, with_parents=False),
            seccomp=_encoded(seccomp.assemble(seccomp.namespaced_rules(), arch)),
        )
        if not as_root and not _counts_per_namespace():
            config["limits"]["tasks"] += _tasks_of(os.getuid())
        fds: list[int] = []
        user = uids[0] if as_root else 65534
        argv = [
            self.executable,
            *(self._as_root() if as_root else self._as_user()),
            *["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"],
            *["--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"],
            *_file_system(job, user, fds, opened),
            "--chdir", "/",
            "--", str(steward_python()[0]), "-I", "-S", "-B", STEWARD_INSIDE,
        ]  # fmt: skip
        return argv, config, fds

    @staticmethod
    def _as_user() -> list[str]:
        return ["--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"]

    @staticmethod
    def _as_root() -> list[str]:
        """No user namespace: the steward gives up root for a user id of its own, so that limits per user bite."""
        kept = [
            "SETUID",
            "SETGID",
            "SETPCAP",
            "CHOWN",
            "FOWNER",
            "DAC_OVERRIDE",
            "DAC_READ_SEARCH",
            "KILL",
            "SYS_PTRACE",
        ]
        return ["--cap-drop", "ALL", *(word for name in kept for word in ("--cap-add", f"CAP_{name}"))]


def _file_system(job: Job, user: int, fds: list[int], opened: contextlib.ExitStack) -> list[str]:
    """Bubblewrap's words for what the command sees: the system and the environment read-only, three capped places to write."""

    def data(text: str) -> str:
        fds.append(memory_file(text.encode(), opened))
        return str(fds[-1])

    def etc(name: str, text: str) -> list[str]:
        return ["--perms", "0644", "--file", data(text), f"/etc/{name}"]

    shown = {*job.environment.read_only, steward_python()[1], *filter(Path.exists, map(Path, SYSTEM_EXTRAS))}
    return [
        *("--ro-bind", "/usr", "/usr", "--dir", "/etc"),
        *_system_folders(),
        *etc("passwd", f"sandbox:x:{user}:{user}:sandbox:/tmp:/bin/sh\n"),
        *etc("group", f"sandbox:x:{user}:\n"),
        *etc("hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n"),
        *("--proc", "/proc", "--dev", "/dev"),
        *("--perms", "1777", "--size", str(SHM_BYTES), "--tmpfs", SHM),
        *("--perms", "1777", "--size", str(TMP_BYTES), "--tmpfs", TMP),
        *("--size", str(job.limits.disk_bytes), "--tmpfs", WORK),
        *(word for path in sorted(shown) if not path.is_relative_to("/usr") for word in _bound(path, path)),
        *(word for path in job.environment.hidden for word in _emptied(path, data)),
        *_bound(confinement.__file__, STEWARD_INSIDE),
        *_bound(job.tree, TREE_INSIDE),
        *("--remount-ro", "/dev", "--remount-ro", "/"),
    ]


def _system_folders() -> list[str]:
    words: list[str] = []
    for folder in map(Path, SYSTEM_FOLDERS):
        if folder.is_symlink():
            words += ["--symlink", str(folder.readlink()), str(folder)]
        elif folder.is_dir():
            words += ["--ro-bind", str(folder), str(folder)]
    return words


def _bound(source: str | Path, target: str | Path) -> list[str]:
    """Read-only at `target`; the folders above are made by name, as bubblewrap would make them for their owner only."""
    above = reversed(Path(target).parents[:-1])
    return [*(word for folder in above for word in ("--dir", str(folder))), "--ro-bind", str(source), str(target)]


def _emptied(path: Path, data: Callable[[str], str]) -> list[str]:
    """An empty folder or file in its place."""
    return (
        ["--tmpfs", str(path), "--remount-ro", str(path)] if path.is_dir() else ["--ro-bind-data", data(""), str(path)]
    )


class LandlockSandbox(_Confined):
    """Rules of the kernel on files and system calls. It shares the host's process table and temporary disk.

    No loopback, no /proc, no shared memory; with version 1 (Linux before 5.19) no renaming from one folder to another.
    """

    name = "landlock+seccomp"
    strength = "weaker"

    def __init__(self, abi: int, *, give_up_root: bool = True) -> None:
        self.abi = abi
        self.give_up_root = give_up_root  # off only to try, as root, the rules for a user who is not

    def _prepare(self, job: Job, _opened: contextlib.ExitStack) -> tuple[list[str], dict[str, Any], list[int]]:
        scratch = _scratch_folder()
        uids = [uid for uid in _fresh_uids() if confinement.can_become(uid)] if self.give_up_root else []
        work, tmp = f"{scratch}/w", f"{scratch}/t"
        shown = {*job.environment.read_only, *map(Path, (*SYSTEM_FOLDERS, *SYSTEM_EXTRAS, "/usr"))}
        grants = [_without(path, job.environment.hidden) for path in sorted(shown)]
        config = _config(
            job,
            work=work,
            tmp=tmp,
            scratch=scratch,
            uids=uids[:1],
            keep_reading=not _readable_by_all(job.environment, with_parents=True),
            landlock={
                "abi": self.abi,
                "read": [path for granted, _ in grants for path in granted],
                "list": [path for _, listed in grants for path in listed],
                "devices": DEVICES,
                "write": [work, tmp],
            },
            seccomp=_encoded(
                seccomp.assemble(seccomp.bare_rules(landlock_abi=self.abi, own_user=bool(uids)), seccomp.machine())
            ),
        )
        if not uids:
            config["limits"]["tasks"] += _tasks_of(os.getuid())
        return _direct_steward(), config, []


class UnsafeSandbox(_Confined):
    """No walls at all: the command may do whatever this user may. Only a clean environment, a copy, and limits."""

    name = "none (unsafe)"
    strength = "none"

    def _prepare(self, job: Job, _opened: contextlib.ExitStack) -> tuple[list[str], dict[str, Any], list[int]]:
        scratch = _scratch_folder()
        config = _config(job, work=f"{scratch}/w", tmp=f"{scratch}/t", scratch=scratch)
        config["limits"]["tasks"] += _tasks_of(os.getuid())
        return _direct_steward(), config, []


def _encoded(program: bytes) -> str:
    return base64.b64encode(program).decode("ascii")


def _direct_steward() -> list[str]:
    return [str(steward_python()[0]), "-I", "-S", "-B", confinement.__file__]


def _scratch_folder() -> str:
    """A folder that the steward fills and removes. As root it must lie where another user can go."""
    parent = Path(tempfile.gettempdir()).resolve()
    if os.geteuid() == 0 and not all(_mode(folder) & 0o001 for folder in (parent, *parent.parents)):
        parent = Path("/var/tmp")  # noqa: S108 - the folder made in it is ours alone
    return tempfile.mkdtemp(prefix="gavotte-run-", dir=parent)


def _fresh_uids() -> list[int]:
    """As root: a user id that no one has, so that limits per user count this run alone, and one for small containers."""
    if os.geteuid() != 0:
        return []
    return [random.SystemRandom().randrange(*FRESH_UIDS), random.SystemRandom().randrange(*SPARE_UIDS)]


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _readable_by_all(environment: Environment, *, with_parents: bool) -> bool:
    """Whether a user id that owns nothing can use the environment. Looks at folders, not at every file."""
    for prefix in environment.read_only:
        sites = [*prefix.glob("lib*/python*"), *prefix.glob("lib*/python*/site-packages")]
        folders = [
            prefix,
            prefix / "bin",
            *sites,
            *(entry for site in sites for entry in site.iterdir() if entry.is_dir()),
        ]
        if not all(_mode(folder) & 0o005 == 0o005 for folder in folders if folder.exists()):
            return False
        if with_parents and not all(_mode(folder) & 0o001 for folder in prefix.parents):
            return False
    return bool(_mode(environment.python) & 0o001)


def _without(path: Path, hidden: tuple[Path, ...]) -> tuple[list[str], list[str]]:
    """The paths to grant so that all under `path` is granted but what is hidden, and the folders between, to be listed."""
    if path in hidden:
        return [], []
    if not any(place.is_relative_to(path) for place in hidden):
        return [str(path)], []
    granted: list[str] = []
    listed = [str(path)]
    for entry in sorted(path.iterdir()):
        more, folders = _without(entry, hidden)
        granted += more
        listed += folders
    return granted, listed


def _tasks_of(uid: int) -> int:
    """Threads this user has running; the kernel's limit counts them together with the command's."""
    total = 0
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            if entry.stat().st_uid == uid:
                total += len(os.listdir(f"{entry.path}/task"))  # noqa: PTH208
    return total


def _counts_per_namespace() -> bool:
    """Since Linux 5.14 the limit on processes counts per user namespace."""
    numbers = re.match(r"(\d+)\.(\d+)", platform.release())
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= (5, 14)
