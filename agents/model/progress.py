"""Whether work goes on: what counts is evidence that was not there before, and not motion.

Evidence is a result of the tests that was not seen yet, a line of a file that was not shown yet, or a state of the tree
that there was not yet. Edits count only while tests learn something from them: after as many runs without a new result
as turns are allowed without evidence, one more change of the tree proves nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

UNUSABLE = "an answer that could not be used"
REPEATED_EDIT = "a tree that was there before"
REPEATED_READING = "reading what was shown before"
REPEATED_RESULT = "tests that say the same as before"
MANY_EDITS = "edits that change no result of the tests"
FAILED = "a call that failed"


@dataclass(slots=True)
class Turn:
    """What one turn brought: lines that were shown, trees after each edit, results of tests, calls that failed.

    A result is the sorted names of what failed, empty where all is green. A turn without any call was unusable.
    """

    lines: set[str] = field(default_factory=set)
    trees: list[str] = field(default_factory=list)
    results: list[tuple[str, ...]] = field(default_factory=list)
    failed: int = 0
    read: bool = False

    def shows(self, path: str, lines: Iterable[str]) -> None:
        """Lines of a file that the turn brought to light; empty ones say nothing."""
        self.read = True
        self.lines |= lines_of(path, lines)


class Progress:
    """Measures turns against all that is known. `idle_max` turns in a row without evidence, and the work is stuck."""

    def __init__(self, idle_max: int, *, tree: str, result: tuple[str, ...] | None = None) -> None:
        self.idle = 0
        self._idle_max = idle_max
        self._trees = {tree}
        self._results = set() if result is None else {result}
        self._lines: set[str] = set()
        self._runs_in_vain = 0
        self._why: Counter[str] = Counter()

    def knows(self, path: str, lines: Iterable[str]) -> None:
        """Lines that were shown without being asked for, or that the model wrote itself."""
        self._lines |= lines_of(path, lines)

    def take(self, turn: Turn) -> bool:
        """Whether the turn brought evidence; what it brought is known from now on."""
        results = [result for result in turn.results if result not in self._results]
        self._runs_in_vain = 0 if results else self._runs_in_vain + len(turn.results)
        trees = [tree for tree in turn.trees if tree not in self._trees]
        new_tree = bool(trees) and self._runs_in_vain < self._idle_max
        evidence = bool(results or new_tree or turn.lines - self._lines)
        reasons = self._reasons(turn, trees)
        self._results.update(results)
        self._trees.update(turn.trees)
        self._lines |= turn.lines
        self.idle = 0 if evidence else self.idle + 1
        if evidence:
            self._why.clear()
        else:
            self._why.update(reasons)
        return evidence

    @property
    def stuck(self) -> bool:
        """Whether too many turns in a row brought nothing."""
        return self.idle >= self._idle_max

    @property
    def reason(self) -> str:
        """What the turns without evidence were spent on, the most frequent first."""
        said = ", ".join(f"{number} x {what}" for what, number in self._why.most_common())
        return f"{self.idle} turns brought nothing new: {said}"

    def _reasons(self, turn: Turn, new_trees: list[str]) -> set[str]:
        told = {
            REPEATED_READING: turn.read,
            REPEATED_RESULT: bool(turn.results),
            REPEATED_EDIT: len(turn.trees) > len(new_trees),
            MANY_EDITS: bool(new_trees),
            FAILED: turn.failed > 0,
        }
        return {what for what, holds in told.items() if holds} or {UNUSABLE}


def lines_of(path: str, lines: Iterable[str]) -> set[str]:
    """Lines of a file as names by which they are known again."""
    return {
        hashlib.sha256(f"{path}\0{line.strip()}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
        for line in lines
        if line.strip()
    }
