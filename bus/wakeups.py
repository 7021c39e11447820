"""Wake-ups between processes: a datagram to a Unix socket after the commit, so that nobody polls for news.

A wake-up says only of what kind the news is, and may be lost; those who wait also look by themselves now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from contracts.errors import Refused

ADDRESS_BYTES_MAX: Final = 107
"""What the kernel takes as the path of a Unix socket on Linux, without the closing zero."""
SUFFIX: Final = ".wake"
RECORDS: Final = "r"
GROUPS: Final = "g"


class WakeUps:
    """One socket of this process to be woken by, and one to wake others with; `on_wake` gets the kind of the news."""

    def __init__(self, folder: Path, on_wake: Callable[[str], None]) -> None:
        self.address = ""
        """Where to send a wake-up for this process; empty until `listen`."""
        self._folder = folder
        self._on_wake = on_wake
        self._inbox: socket.socket | None = None
        self._outbox: socket.socket | None = None

    def listen(self) -> None:
        """Begin to be woken, in the running event loop."""
        if self._inbox is not None:
            return
        path = _short_path(self._folder)
        self._inbox = _datagram_socket()
        self._inbox.bind(os.fspath(path))
        path.chmod(0o600)
        self.address = os.fspath(path)
        asyncio.get_running_loop().add_reader(self._inbox, self._read)

    def wake(self, addresses: Iterable[str], kind: str) -> None:
        """Wake these to RECORDS or GROUPS; who is gone, or has wake-ups enough to read, is passed over."""
        for address in addresses:
            if address == self.address:
                self._on_wake(kind)
                continue
            if self._outbox is None:
                self._outbox = _datagram_socket()
            with contextlib.suppress(OSError):
                self._outbox.sendto(kind.encode(), address)

    def close(self) -> None:
        """Be woken no more; safe to call twice."""
        if self._outbox is not None:
            self._outbox.close()
            self._outbox = None
        if self._inbox is not None:
            asyncio.get_running_loop().remove_reader(self._inbox)
            self._inbox.close()
            self._inbox = None
            remove(self.address)

    def _read(self) -> None:
        kinds = set()
        with contextlib.suppress(OSError):  # nothing left to read
            while self._inbox is not None:
                kinds.add(self._inbox.recv(16))
        for kind in kinds:
            self._on_wake(kind.decode("ascii", "replace"))


def remove(address: str) -> None:
    """Remove the socket of a process that is gone."""
    if address.endswith(SUFFIX):
        with contextlib.suppress(OSError):
            Path(address).unlink()


def _datagram_socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made


def _short_path(folder: Path) -> Path:
    """A free name in the folder, or, where its path is too long for a socket, in one of ours among temporary files."""
    name = secrets.token_hex(4)
    path = folder.absolute() / f"{name}{SUFFIX}"
    if _fits(path):
        return path
    digest = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:12]
    for parent in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108  # a folder of our own in it, checked below
        path = parent / f"gavotte-{os.getuid()}" / f"{digest}-{name}{SUFFIX}"
        if _fits(path):
            _own_folder(path.parent)
            return path
    raise Refused(f"no path short enough for a socket near {folder}", hint="set TMPDIR to a short path")


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= ADDRESS_BYTES_MAX


def _own_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not folder.is_dir() or folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise Refused(
            f"{folder} is not a private folder of this user", hint="remove it, or set TMPDIR to another place"
        )
