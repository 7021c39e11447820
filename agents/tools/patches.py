"""Reads the headers of a patch before git sees it: what names a place outside the tree is refused as a whole."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from contracts.errors import Rejected, TooLarge

if TYPE_CHECKING:
    from collections.abc import Iterator

HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
WORD = re.compile(r'"(?:\\.|[^"\\])*"|\S+')  # a name in quotes may hold spaces
LINK_MODES = ("120000", "160000")
MODE_HEADERS = ("new file mode ", "deleted file mode ", "old mode ", "new mode ")
NAME_HEADERS = ("--- ", "+++ ", "rename from ", "rename to ", "copy from ", "copy to ")


@dataclass(frozen=True)
class PatchLimits:
    """Caps on a patch, so that judging it stays quick."""

    bytes_max: int = 4 << 20
    files_max: int = 1000


def check_patch(patch: str, limits: PatchLimits | None = None) -> None:
    """Raises Rejected (or TooLarge) with the reason where a patch is empty, too large, or names what it must not."""
    caps = limits or PatchLimits()
    if len(patch.encode("utf-8", "surrogateescape")) > caps.bytes_max:
        raise TooLarge(f"the patch is larger than {caps.bytes_max >> 20} MiB", hint="split the task into smaller ones")
    files = hunks = 0
    for line in header_lines(patch):
        files += line.startswith(("diff --git ", "--- "))
        hunks += line.startswith(("@@", "rename to ", "copy to ", "GIT binary patch", *MODE_HEADERS))
        _check_mode(line)
        _check_names(line)
    if not hunks:
        raise Rejected("the patch holds no change", hint="give a unified diff as `git diff` prints it")
    if files > 2 * caps.files_max:
        raise TooLarge(f"the patch touches more than {caps.files_max} files", hint="split the task into smaller ones")


def header_lines(patch: str) -> Iterator[str]:
    """The lines of a patch that are not content of a hunk: a removed line `-- /etc` is not a header `--- /etc`."""
    old = new = 0
    for line in patch.split("\n"):
        if old > 0 or new > 0:
            # a hunk that ends before its counts do is left for git to refuse
            if line[:1] in {" ", "-", "+", "\\", ""} and not line.startswith("diff --git "):
                old -= line[:1] in {" ", "-", ""}
                new -= line[:1] in {" ", "+", ""}
                continue
            old = new = 0
        match = HUNK.match(line)
        if match:
            old, new = int(match[1] or 1), int(match[2] or 1)
        yield line.rstrip("\r")


def check_path(path: str) -> None:
    """Raises Rejected where a path of a tree could lead out of it or into git's own files."""
    if path.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[\\/]", path):
        raise Rejected(f"{path!r} is an absolute path", hint="name files relative to the repository")
    if "\0" in path:
        raise Rejected(f"{path!r} holds a null byte")
    for part in path.replace("\\", "/").split("/"):
        if part == "..":
            raise Rejected(f"{path!r} leaves the repository", hint="name files below the repository's root")
        if is_git_name(part):
            raise Rejected(f"{path!r} lies in git's own folder", hint="leave .git alone")


def is_git_name(part: str) -> bool:
    """Whether some file system would take this name for `.git`: other case, trailing dots, short names, ignored characters."""
    plain = re.sub("[\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]", "", part).casefold().split(":")[0].rstrip(". ")
    return plain in {".git", "git~1"}


def _check_mode(line: str) -> None:
    mode = line.rsplit(" ", 1)[-1]
    if line.startswith((*MODE_HEADERS, "index ")) and mode in LINK_MODES:
        kind = "a symbolic link" if mode == "120000" else "a submodule"
        raise Rejected(f"the patch makes or changes {kind}", hint="only regular files can be changed")


def _check_names(line: str) -> None:
    if line.startswith("diff --git "):
        # both names stand on one line; a space inside a name makes the split unsure, so each word is judged
        words = [_unquoted(word) for word in WORD.findall(line[len("diff --git ") :])]
        names = [re.sub(r"^[ab]/", "", word) for word in words]
    elif line.startswith(NAME_HEADERS):
        raw = _unquoted(line.split(" ", 2)[2] if line.startswith(("rename", "copy")) else line[4:].partition("\t")[0])
        names = [] if raw == "/dev/null" else [re.sub(r"^[ab]/", "", raw) if line[:3] in {"---", "+++"} else raw]
    else:
        return
    for name in names:
        check_path(name)


def _unquoted(name: str) -> str:
    """A name as git quotes it: in double quotes with C escapes, where it holds unusual bytes."""
    if len(name) < 2 or not (name.startswith('"') and name.endswith('"')):
        return name
    raw, _ = codecs.escape_decode(name[1:-1].encode())
    return bytes(raw).decode("utf-8", "replace")
