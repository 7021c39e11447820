"""What the gates look at: each file of a change with its content before and after, parsed once."""

from __future__ import annotations

import ast
import re
import warnings
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

from agents.tools.gates.signals import Signal, signals
from contracts.events import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agents.tools.workspace import GitStore

Severity = Literal["blocker", "major", "minor", "info"]
TEXT_BYTES_MAX = 1 << 20
"""Larger files are judged by path and size alone."""

DEPTH_MAX = 200
"""Deeper syntax counts as unreadable: the rules walk it by recursion."""

DOC_SUFFIXES = {".md", ".rst", ".txt", ".adoc"}
TEST_NAME = re.compile(r"(^tests?\.py|^test_.*\.py|.*_test\.(py|go)|.*\.(test|spec)\.[jt]sx?|.*Tests?\.(java|kt|cs))$")
TEST_FOLDERS = {"test", "tests", "__tests__", "spec"}


@dataclass(frozen=True)
class ChangedFile:
    """One path: `before` is None for an added file, `after` for a deleted one. Modes are git's, as text."""

    path: str
    before: bytes | None
    after: bytes | None
    old_mode: str = "100644"
    new_mode: str = "100644"

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def suffix(self) -> str:
        """The ending of the name, in lower case."""
        return PurePosixPath(self.path).suffix.lower()

    @property
    def kind(self) -> Literal["added", "changed", "deleted"]:
        """What happened to the path."""
        return "added" if self.before is None else "deleted" if self.after is None else "changed"

    @property
    def is_binary(self) -> bool:
        """Whether either side is no text."""
        return any(side is not None and _text(side) is None for side in (self.before, self.after))

    @property
    def is_document(self) -> bool:
        """Prose for people: it runs nowhere. A list of requirements is no prose, whatever its ending."""
        return self.suffix in DOC_SUFFIXES and not re.match(r"(requirements|constraints|robots|CMakeLists)", self.name)

    @property
    def is_python(self) -> bool:
        """Whether Python would import or run it."""
        return self.suffix in {".py", ".pyi", ".pyw"}

    @property
    def is_test(self) -> bool:
        """Whether a test runner would collect it."""
        return is_test_path(self.path)

    @cached_property
    def old_text(self) -> str:
        """The text before; empty for an added or binary file."""
        return _text(self.before) or "" if self.before is not None else ""

    @cached_property
    def new_text(self) -> str:
        """The text after; empty for a deleted or binary file."""
        return _text(self.after) or "" if self.after is not None else ""

    @cached_property
    def added_lines(self) -> tuple[tuple[int, str], ...]:
        """Lines after (number from 1, text) that the file did not hold before; a moved line is not new."""
        held = Counter(self.old_text.splitlines())
        added = []
        for number, line in enumerate(self.new_text.splitlines(), 1):
            if held[line]:
                held[line] -= 1
            else:
                added.append((number, line))
        return tuple(added)

    @cached_property
    def removed_count(self) -> int:
        """How many lines went away."""
        return sum((Counter(self.old_text.splitlines()) - Counter(self.new_text.splitlines())).values())

    @cached_property
    def old_tree(self) -> ast.Module | None:
        """The syntax before, or None where there is none."""
        return _parsed(self.old_text) if self.before is not None else None

    @cached_property
    def new_tree(self) -> ast.Module | None:
        """The syntax after, or None where it does not parse."""
        return _parsed(self.new_text) if self.after is not None else None

    @cached_property
    def old_signals(self) -> list[Signal]:
        """What the module did before."""
        return signals(self.old_tree) if self.is_python else []

    @cached_property
    def new_signals(self) -> list[Signal]:
        """What the module does after."""
        return signals(self.new_tree) if self.is_python else []

    def line(self, number: int) -> str:
        """One line after, for evidence, without control characters."""
        lines = self.new_text.splitlines()
        return visible(lines[number - 1].strip())[:200] if 0 < number <= len(lines) else ""


@dataclass(frozen=True)
class Change:
    """A change with what is needed to judge it: the plan's file patterns, the task's words, and the base to read from.

    An empty `scope` allows every path. `read_base` answers the content of a path at the base, or None.
    """

    files: tuple[ChangedFile, ...]
    scope: tuple[str, ...] = ()
    author: str = "model"
    task_text: str = ""
    base_paths: frozenset[str] = frozenset()
    read_base: Callable[[str], bytes | None] = field(default=lambda _path: None)
    scope_is_given: bool = False
    """Whether a person set the scope, and not a plan."""

    def mentions(self, *words: str) -> bool:
        """Whether the task itself speaks of one of these words."""
        return any(re.search(rf"(?<!\w){re.escape(word)}", self.task_text, re.IGNORECASE) for word in words)


async def read_change(git: GitStore, base: str, head: str) -> tuple[ChangedFile, ...]:
    """The files that differ between two commits of the store; contents above the cap are read as empty binaries."""
    changes = await git.changes(base, head)
    contents = await git.read_blobs([blob for change in changes for blob in (change.old_blob, change.new_blob)])

    def side(blob: str) -> bytes | None:
        if not blob.strip("0"):
            return None
        content = contents[blob]
        return content if len(content) <= TEXT_BYTES_MAX else b"\0 too large to read"

    return tuple(ChangedFile(c.path, side(c.old_blob), side(c.new_blob), c.old_mode, c.new_mode) for c in changes)


def is_test_path(path: str) -> bool:
    """Whether a path is one that test runners collect, or lies in a folder of tests."""
    pure = PurePosixPath(path)
    return bool(TEST_NAME.match(pure.name)) or (pure.suffix == ".py" and bool(TEST_FOLDERS & set(pure.parts[:-1])))


def finding(gate: str, severity: Severity, message: str, file: ChangedFile, line: int | None = None) -> Finding:
    """A finding at a place of a changed file, with the line as evidence."""
    evidence = file.line(line) if line else ""
    return Finding(gate=gate, severity=severity, message=message, file=visible(file.path), line=line, evidence=evidence)


def visible(text: str) -> str:
    """The text with everything that is not plainly printable written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def constants(trees: Iterable[ast.Module | None]) -> set[str]:
    """The `repr` of every literal in the trees, for telling whether a value comes from the tests."""
    found: set[str] = set()
    for tree in trees:
        for node in ast.walk(tree) if tree is not None else ():
            if isinstance(node, ast.Constant | ast.List | ast.Tuple | ast.Dict | ast.UnaryOp):
                try:
                    found.add(repr(ast.literal_eval(node)))
                except (ValueError, TypeError, SyntaxError, RecursionError):
                    continue
    return found


def parsed(source: bytes) -> ast.Module | None:
    """The syntax of a file's bytes, or None."""
    return _parsed(_text(source) or "")


def _text(content: bytes) -> str | None:
    if b"\0" in content:
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def _depth(tree: ast.AST) -> int:
    """How deep the syntax nests, counted without recursion."""
    depth, level = 0, [tree]
    while level:
        depth, level = depth + 1, [child for node in level for child in ast.iter_child_nodes(node)]
    return depth


def _parsed(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
            return tree if _depth(tree) <= DEPTH_MAX else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
