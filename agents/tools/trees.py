"""Trees of files: how git lists them, how they are written to disk, and the digest that names their content."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from contracts.errors import Rejected, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LINK, SUBMODULE, EXECUTABLE, REGULAR = "120000", "160000", "100755", "100644"


@dataclass(frozen=True)
class TreeEntry:
    """One path of a tree; `size_bytes` is 0 for a submodule. `mode` is git's, for instance 100644."""

    path: str
    mode: str
    blob: str
    size_bytes: int


@dataclass(frozen=True)
class TreeChange:
    """One path that differs between two trees. A mode or blob of an absent side is all zeros."""

    path: str
    kind: Literal["added", "changed", "deleted"]
    old_mode: str
    new_mode: str
    old_blob: str
    new_blob: str


def digest_of(entries: Iterable[tuple[str, str, str]]) -> str:
    """The digest over (mode, path, sha256 of content) of a tree's files, in the order of the paths' bytes."""
    total = hashlib.sha256()
    for mode, path, content in sorted(entries, key=lambda entry: os.fsencode(entry[1])):
        total.update(f"{mode} {content} ".encode() + os.fsencode(path) + b"\0")
    return f"sha256:{total.hexdigest()}"


def folder_digest(folder: Path) -> str:
    """The digest of a folder's regular files, comparable with `GitStore.tree_digest`. A link in it never matches any tree."""
    entries: list[tuple[str, str, str]] = []
    for at, folders, files in os.walk(folder):
        for name in (*files, *(f for f in folders if (Path(at) / f).is_symlink())):
            path = Path(at) / name
            relative = str(path.relative_to(folder))
            if path.is_symlink():
                entries.append((LINK, relative, hashlib.sha256(os.fsencode(path.readlink())).hexdigest()))
                continue
            with path.open("rb") as content:
                mode = EXECUTABLE if os.fstat(content.fileno()).st_mode & 0o100 else REGULAR
                entries.append((mode, relative, hashlib.file_digest(content, "sha256").hexdigest()))
    return digest_of(entries)


def parse_listing(listing: bytes) -> tuple[TreeEntry, ...]:
    """Reads `ls-tree -r -z -l`: `mode type name size<TAB>path`."""
    entries = []
    for record in listing.split(b"\0")[:-1]:
        head, _, path = record.partition(b"\t")
        mode, _, blob, size = head.decode().split()
        if size == "BAD":
            hint = "a damaged or partial clone: clone it in full (without --filter), or run git fsck"
            raise Rejected(f"the content of {os.fsdecode(path)!r} is missing", hint=hint)
        entries.append(TreeEntry(os.fsdecode(path), mode, blob, 0 if size == "-" else int(size)))
    return tuple(entries)


def parse_change(head: bytes, path: bytes) -> TreeChange:
    """Reads one record of `--raw -z`: `:mode mode name name status`."""
    old_mode, new_mode, old_blob, new_blob, status = head.decode().lstrip(":").split()
    kind: Literal["added", "changed", "deleted"] = (
        "added" if status == "A" else "deleted" if status == "D" else "changed"
    )
    return TreeChange(os.fsdecode(path), kind, old_mode, new_mode, old_blob, new_blob)


def written_mode(mode: str) -> str:
    return EXECUTABLE if mode == EXECUTABLE else REGULAR


def write_files(into: Path, batch: Sequence[tuple[TreeEntry, bytes]]) -> None:
    """Writes regular files that were not there: nothing is followed or overwritten."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    for entry, content in batch:
        path = into / entry.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(path, flags, 0o755 if entry.mode == EXECUTABLE else 0o644), "wb") as file:
                file.write(content)
        except OSError as error:
            hint = "free some disk space, or check the folder's permissions"
            raise Unavailable(f"{path} cannot be written: {error.strerror}", hint=hint) from error
