"""Bodies: bytes too large for an event or a row, stored once under their sha256."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from contracts.crashpoints import crashpoint
from contracts.errors import Corrupt, Refused, Unavailable
from contracts.events import INLINE_BYTES_MAX
from embedded.lock import FileLock
from state_store.transaction import Transaction

LOCK_TIMEOUT_SECONDS: Final = 30.0

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


def digest_of(raw: bytes) -> str:
    """`sha256:` and the hex."""
    return "sha256:" + hashlib.sha256(raw).hexdigest()


class Bodies:
    """Small bodies are rows, large ones files of mode 0600 in `folder`; without a folder all are rows."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def fits_row(self, raw: bytes) -> bool:
        return self.folder is None or len(raw) <= INLINE_BYTES_MAX

    async def put_row(self, tx: Transaction, raw: bytes) -> str:
        """Store a small body in the transaction at hand."""
        digest = digest_of(raw)
        await tx.run("body_put", (digest, raw))
        return digest

    async def put_file(self, raw: bytes) -> str:
        """Store a large body durably before anything names it."""
        digest = digest_of(raw)
        path = self._path(digest)
        crashpoint("store.body_file.before")
        await asyncio.to_thread(self._keep_file, path, raw)
        crashpoint("store.body_file.after")
        return digest

    async def read(self, tx: Transaction, digest: str) -> bytes | None:
        """The bytes of a digest, or None; raises Corrupt where they are not what the digest says."""
        row = await tx.row("body_by_digest", (digest,))
        raw: bytes | None = row[0] if row else self._read_file(digest)
        if raw is not None and digest_of(raw) != digest:
            raise Corrupt(f"body {digest} was changed on the disk", hint="restore the bodies folder from the backup")
        return raw

    def bytes_of(self, digest: str) -> bytes:
        """The file of a digest as it is, empty where there is none."""
        return self._read_file(digest) or b""

    def files_before(self, before_us: int) -> dict[str, int]:
        """Files last stored before a moment: digest -> size in bytes."""
        found = {}
        for path in [] if self.folder is None else self.folder.glob("??/*"):
            digest = f"sha256:{path.name}"
            with contextlib.suppress(FileNotFoundError):
                state = path.stat()
                if _DIGEST.fullmatch(digest) and state.st_mtime_ns // 1000 < before_us:
                    found[digest] = state.st_size
        return found

    def remove_file(self, digest: str, before_us: int) -> int:
        """Remove a file unless it was stored again meanwhile; returns the bytes that are free now."""
        path = self._path(digest)
        with self._alone(), contextlib.suppress(FileNotFoundError):
            state = path.stat()
            if state.st_mtime_ns // 1000 < before_us:
                path.unlink()
                return state.st_size
        return 0

    def _keep_file(self, path: Path, raw: bytes) -> None:
        """Write the file, or say of the one that is there that it is needed again: retention looks at its time."""
        with self._alone():
            if path.exists():
                os.utime(path)
                return
        _write(path, raw)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody removes a file while another process says that it is needed."""
        assert self.folder is not None  # noqa: S101  # callers asked fits_row
        lock = _lock_in(self.folder)
        try:
            lock.acquire(LOCK_TIMEOUT_SECONDS)
            yield
        finally:
            lock.close()

    def _read_file(self, digest: str) -> bytes | None:
        if self.folder is None or not _DIGEST.fullmatch(digest):
            return None
        with contextlib.suppress(FileNotFoundError):
            return self._path(digest).read_bytes()
        return None

    def _path(self, digest: str) -> Path:
        assert self.folder is not None  # noqa: S101  # callers asked fits_row
        name = digest.removeprefix("sha256:")
        return self.folder / name[:2] / name


def _write(path: Path, raw: bytes) -> None:
    """Under another name first, flushed, then renamed: a body is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
        _sync_folder(path.parent.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise Unavailable(f"cannot write the body {path}: {error.strerror}", hint="free disk space") from error


def _lock_in(folder: Path) -> FileLock:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return FileLock(folder.with_name(f"{folder.name}.lock"))
    except (OSError, Refused) as error:
        raise Unavailable(f"cannot write into {folder}: {error}", hint="free disk space") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
