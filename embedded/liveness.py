"""Who is alive: one locked file per process in the run folder, freed by the kernel the moment its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from pathlib import Path
from typing import Final, Self

from contracts.errors import Busy, Refused
from embedded.lock import FileLock, holder

SUFFIX: Final = ".alive"
ACQUIRE_SECONDS: Final = 0.25
"""A look by `is_alive` takes a shared lock for an instant, so one failed attempt does not prove a rival."""


class Presence:
    """Proof that this process lives, under a name of letters, digits and `._-:@`; held until `close` or death.

    Raises Busy, naming the pid, if another living process goes by the same name in this run folder.
    """

    def __init__(self, run_folder: Path, name: str) -> None:
        self.name = name
        self.path = _path(run_folder, name)
        run_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = self._acquire()

    def _acquire(self) -> FileLock:
        deadline = time.monotonic() + ACQUIRE_SECONDS
        while True:
            lock = FileLock(self.path)
            if lock.try_acquire() and _is_current(lock):
                return lock
            lock.close()
            if time.monotonic() >= deadline:
                raise Busy(
                    f"{self.name} is running already ({holder(self.path)})", hint="stop it, or choose another name"
                )
            time.sleep(0.002)

    def is_current(self) -> bool:
        """False once the file was removed or replaced: others take this process for dead."""
        return self._lock.held and _is_current(self._lock)

    def close(self) -> None:
        """Be gone: the file is removed, others see it at once. Safe to call twice."""
        if self.is_current():
            self.path.unlink(missing_ok=True)
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_alive(run_folder: Path, name: str) -> bool:
    """Whether a process holds the presence of this name now."""
    try:
        descriptor = os.open(_path(run_folder, name), os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def living(run_folder: Path) -> list[str]:
    """The names of all that live, sorted; what the dead left behind is removed."""
    names = sorted(path.name.removesuffix(SUFFIX) for path in run_folder.glob(f"*{SUFFIX}"))
    alive = [name for name in names if is_alive(run_folder, name)]
    for name in set(names) - set(alive):
        bury(run_folder, name)
    return alive


def bury(run_folder: Path, name: str) -> None:
    """Remove the file of a dead process; one that came back meanwhile is left alone."""
    path = _path(run_folder, name)
    if not path.exists():
        return
    lock = FileLock(path)
    with contextlib.closing(lock):
        if lock.try_acquire() and _is_current(lock):
            path.unlink(missing_ok=True)


def _is_current(lock: FileLock) -> bool:
    """False if the file was removed between opening and locking it: then the lock guards nothing."""
    try:
        return lock.path.stat().st_ino == lock.inode
    except (FileNotFoundError, NotADirectoryError):
        return False


def _path(run_folder: Path, name: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9._:@-]{1,200}", name) or name.startswith("."):
        raise Refused(f"{name!r} cannot name a process", hint="use letters, digits and . _ - : @")
    return run_folder / f"{name}{SUFFIX}"
