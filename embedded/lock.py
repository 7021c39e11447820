"""A lock between processes that the kernel frees when its holder dies: flock on a file of its own.

SQLite's own locks are no substitute: its versions up to 3.51.2 can corrupt a WAL file when one connection writes while
another checkpoints, so both happen under this lock. Never lock the database file itself: closing any descriptor
of it drops the locks that SQLite holds there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import weakref
from pathlib import Path
from typing import NoReturn

from contracts.errors import Refused, Unavailable

PAUSE_SECONDS_MIN = 0.000_05
PAUSE_SECONDS_MAX = 0.002


class FileLock:
    """An exclusive lock on `path`, which is created if missing. One thread of a process uses an object at a time.

    A child made by fork gets no share in it: its copy of the descriptor is closed at once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise Refused(
                f"cannot open {path}: {error.strerror}", hint="the folder must exist and be writable by this user"
            ) from error
        self.held = False
        _open_locks.add(self)

    def try_acquire(self) -> bool:
        """Take the lock if it is free; returns whether it is held now."""
        if self._descriptor < 0:
            raise Unavailable(f"the lock {self.path} is closed")
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.held = True
        return True

    def acquire(self, timeout_seconds: float) -> None:
        """Take the lock, or raise Unavailable naming the holder after the timeout, or as soon as it is closed."""
        if self.try_acquire():
            return
        deadline = time.monotonic() + timeout_seconds
        pause = PAUSE_SECONDS_MIN
        while not self.try_acquire():
            if time.monotonic() >= deadline:
                self.refuse(timeout_seconds)
            time.sleep(pause)
            pause = min(pause * 1.5, PAUSE_SECONDS_MAX)

    def refuse(self, timeout_seconds: float) -> NoReturn:
        """Raise what whoever waited in vain is told: Unavailable, naming the holder."""
        raise Unavailable(
            f"{self.path} is held by {holder(self.path)} for more than {timeout_seconds:g} s",
            hint="that process is busy or stopped: wait, or end it",
        )

    def release(self) -> None:
        """Let go; harmless if the lock is not held."""
        self.held = False
        if self._descriptor >= 0:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go and close the descriptor; safe to call twice."""
        self.held = False
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    @property
    def inode(self) -> int:
        """Which file the descriptor stands for; it may have been unlinked meanwhile."""
        return os.fstat(self._descriptor).st_ino


def holder(path: Path) -> str:
    """Who holds the lock on the file, for messages: 'pid 123', or 'another process' where the kernel does not say."""
    with contextlib.suppress(OSError, ValueError):
        inode = path.stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if "->" not in words and words[1] == "FLOCK" and int(words[5].rsplit(":", 1)[1]) == inode:
                return f"pid {words[4]}"
    return "another process"


_open_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _leave_to_parent() -> None:
    for lock in list(_open_locks):
        lock.close()


os.register_at_fork(after_in_child=_leave_to_parent)
