"""What a contained command leaves behind, read from its tar stream with suspicion and compared with the tree it began from."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.errors import Refused

JUNK_FOLDERS = frozenset({"__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache"})
JUNK_SUFFIX = ".pyc"
PREFIX = "tree/"
SMALLER = "let the command change less, or split the task"
KINDS = {
    tarfile.SYMTYPE: "a link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.DIRTYPE: "a folder",
    tarfile.FIFOTYPE: "a pipe, socket or device",
}


@dataclass(frozen=True, slots=True)
class Changed:
    """The new content of one regular file."""

    content: bytes
    executable: bool


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """The stream, parsed: how the command ended, its report, and the paths that differ from the tree."""

    status: dict[str, Any]
    report: bytes | None
    changed: dict[str, Changed]
    deleted: tuple[str, ...]


def read_stream(stream: bytes, tree: Path) -> LeftBehind:
    """Parse the stream; raise Refused for anything but plain files with plain names inside the tree."""
    status: dict[str, Any] = {}
    report: bytes | None = None
    changed: dict[str, Changed] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(stream), mode="r:") as tar:
            for member in tar:
                if member.type not in {tarfile.REGTYPE, tarfile.AREGTYPE} or member.issparse():
                    raise refusal(
                        f"{KINDS.get(member.type, 'something that is no file')} ({member.name.removeprefix(PREFIX)!r})"
                    )
                file = tar.extractfile(member)
                content = file.read() if file is not None else b""
                if member.name == "status.json":
                    status = dict(json.loads(content))
                elif member.name == "report":
                    report = content
                else:
                    changed[checked_name(member.name)] = Changed(content, executable=bool(member.mode & 0o100))
    except (tarfile.TarError, ValueError, EOFError, OSError, OverflowError) as error:
        raise Refused(f"the sandbox's answer cannot be read: {error}", code="sandbox_failed") from error
    if not status:
        raise Refused("the sandbox ended without saying how the command ended", code="sandbox_failed")
    return LeftBehind(
        status=status,
        report=report,
        changed={name: new for name, new in changed.items() if new != _present(tree, name)},
        deleted=_deleted(status, tree),
    )


def checked_name(member: str) -> str:
    """The path relative to the tree, if it is one that may be written back."""
    name = member.removeprefix(PREFIX)
    parts = name.split("/")
    if not member.startswith(PREFIX) or any(part in {"", ".", ".."} for part in parts):
        raise refusal(f"a file outside the tree ({member!r})")
    if any(part.lower() == ".git" for part in parts):
        raise refusal(f"a git folder ({name!r})")
    if not name.isprintable() or "\\" in name:
        raise refusal(f"a file with unprintable characters in its name ({name!r})")
    return name


def refusal(what: str, hint: str = "only regular files inside the tree are taken over") -> Refused:
    return Refused(f"the command left {what}", hint=hint, code="output_refused")


def is_junk(name: str) -> bool:
    """Caches of interpreters and tools, which are no change to a project."""
    return name.endswith(JUNK_SUFFIX) or not JUNK_FOLDERS.isdisjoint(name.split("/"))


def _deleted(status: dict[str, Any], tree: Path) -> tuple[str, ...]:
    names = [str(name) for name in status.get("deleted", [])]
    checked = {checked_name(PREFIX + name) for name in names if not is_junk(name)}
    return tuple(sorted(name for name in checked if (tree / name).is_symlink() or (tree / name).is_file()))


def _present(tree: Path, name: str) -> Changed | None:
    """The file as the tree has it; nothing is read through a link, for what is new in its place is a change."""
    path = tree / name
    above = path.relative_to(tree).parents
    if path.is_symlink() or not path.is_file() or any((tree / folder).is_symlink() for folder in above if folder.parts):
        return None
    return Changed(path.read_bytes(), executable=bool(path.stat().st_mode & 0o100))
