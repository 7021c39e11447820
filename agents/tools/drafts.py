"""A change in the making: the base with edits on top, in memory, as a pure function of both."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from pydantic import BaseModel, ConfigDict

from agents.tools.gates import in_scope
from agents.tools.patches import check_path
from contracts.errors import Rejected
from contracts.redaction import MASK

FILE_BYTES_MAX: Final = 256 * 1024


class Edit(BaseModel):
    """Replace `find`, which must occur exactly once, by `replace`; an empty `find` writes the whole file, `delete` removes it."""

    model_config = ConfigDict(extra="forbid")

    path: str
    find: str = ""
    replace: str = ""
    delete: bool = False


class BadEdit(ValueError):
    """An edit that cannot be taken. The text says why, in words for its author."""


@dataclass(frozen=True)
class Draft:
    """The texts that differ from `base` by path, None for a file that is gone. `scope` are the patterns that edits keep to, None for any path."""

    base: str
    scope: tuple[str, ...] | None = None
    texts: Mapping[str, str | None] = field(default_factory=dict)
    edits: tuple[Edit, ...] = ()

    @property
    def digest(self) -> str:
        """What the tree is known by: the same texts give the same digest, however they came about."""
        total = hashlib.sha256(self.base.encode())
        for path, text in sorted(self.texts.items()):
            said = "gone" if text is None else f"{len(text)}\0{text}"
            total.update(f"\0{path}\0{said}".encode("utf-8", "surrogatepass"))
        return total.hexdigest()[:40]

    def check(self, edit: Edit) -> None:
        """Raises BadEdit where the edit may not be made, whatever the file holds."""
        try:
            check_path(edit.path)
        except Rejected as error:
            raise BadEdit(str(error)) from None
        if self.scope is not None and not in_scope(edit.path, self.scope):
            raise BadEdit(f"{edit.path!r} is none of the files of the plan: {', '.join(self.scope)}")
        if MASK in edit.replace and MASK not in edit.find:
            raise BadEdit(f"the edit of {edit.path!r} writes a masked secret")
        if edit.delete and (edit.find or edit.replace):
            raise BadEdit(f"{edit.path!r} is to be deleted, so there is nothing to find or to replace in it")
        if sum(len(one.replace) for one in (*self.edits, edit)) > FILE_BYTES_MAX:
            raise BadEdit(f"the edits hold more than {FILE_BYTES_MAX >> 10} KiB")

    def edited(self, edit: Edit, at_base: str | None) -> Draft:
        """The draft with one edit more; `at_base` is the file's text at the base, None for none. Raises BadEdit."""
        self.check(edit)
        before = self.texts.get(edit.path, at_base)
        if before is None and (edit.find or edit.delete):
            raise BadEdit(f"there is no file {edit.path!r} to edit")
        found = (before or "").count(edit.find) if edit.find else 0
        if edit.find and found != 1:
            raise BadEdit(f"the text to replace occurs {found} times in {edit.path!r}, it must occur once")
        after: str | None = (before or "").replace(edit.find, edit.replace) if edit.find else edit.replace
        if edit.delete:
            after = None
        texts = {path: text for path, text in self.texts.items() if path != edit.path}
        if after != at_base:
            texts[edit.path] = after
        return replace(self, texts=texts, edits=(*self.edits, edit))

    def diff(self, at_base: Mapping[str, str | None]) -> str:
        """What the draft changes, as a unified diff against texts of the base."""
        return "".join(line for path in sorted(self.texts) for line in self._diff_of(path, at_base.get(path)))

    def _diff_of(self, path: str, before: str | None) -> Iterator[str]:
        old, new = [(text or "").splitlines(keepends=True) for text in (before, self.texts[path])]
        was = "/dev/null" if before is None else f"a/{path}"
        now = "/dev/null" if self.texts[path] is None else f"b/{path}"
        for line in difflib.unified_diff(old, new, was, now):
            yield line if line.endswith("\n") else f"{line}\n"
