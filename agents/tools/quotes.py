"""What a reader of a change may say: each finding quotes the diff, or it does not count.

A quote is looked up in the diff and not believed: file and line come from where it stands. Blanks do not matter, nor do
the marks of added and removed lines.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import BaseModel

from contracts.events import Finding
from contracts.harmless import harmless_lines

GATE: Final = "reader"
FINDINGS_MAX: Final = 20
TEXT_CHARACTERS_MAX: Final = 1000
LETTERS_MIN: Final = 3
"""A quote with fewer letters and digits stands in any diff."""
HUNK: Final = re.compile(r"@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@")
SEVERITIES: Final = ("blocker", "major", "minor", "info")
WEIGHTY: Final = frozenset({"blocker", "major"})


class ReaderFinding(BaseModel):
    """One thing that would go wrong. `evidence` quotes the lines of the diff that it is about, word for word."""

    severity: Literal["blocker", "major", "minor", "info"]
    message: str
    evidence: str = ""
    file: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True)
class DiffLine:
    """One line of a hunk: `number` is that of the new file, or of the old one for what was removed."""

    file: str
    number: int
    mark: str
    text: str


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Findings that quote the diff, the weightiest first, and those that do not, with the reason."""

    findings: tuple[Finding, ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def weighty(self) -> tuple[Finding, ...]:
        """Those that a change is turned down for."""
        return tuple(finding for finding in self.findings if finding.severity in WEIGHTY)

    def count(self) -> str:
        """How many were dropped and why; empty where none was."""
        reasons = Counter(said.rpartition(": ")[2] for said in self.dropped)
        told = ", ".join(f"{number} as {why}" for why, number in reasons.items())
        return f"findings dropped: {told}" if told else ""


def calibrated(findings: Iterable[ReaderFinding], diff: str) -> Calibrated:
    """The findings held against the diff."""
    lines = list(lines_of(diff))
    kept: list[Finding] = []
    dropped: list[str] = []
    for finding in findings:
        if (found := place(finding.evidence, lines, finding.file)) is None:
            why = "the quote is not in the diff" if finding.evidence.strip() else "there is no quote"
            dropped.append(f"{finding.message[:TEXT_CHARACTERS_MAX]}: {why}")
        else:
            kept.append(_placed(finding, found))
    kept.sort(key=lambda one: SEVERITIES.index(one.severity))
    dropped += [f"{one.message}: there are more than {FINDINGS_MAX}" for one in kept[FINDINGS_MAX:]]
    return Calibrated(tuple(kept[:FINDINGS_MAX]), tuple(dropped))


def place(quote: str, lines: Sequence[DiffLine], file: str | None) -> DiffLine | None:
    """The first line of the diff that is quoted, in `file` if it stands there; None where the quote is not in the diff."""
    wanted = [forms for line in quote.splitlines() if (forms := _forms(line))]
    if sum(character.isalnum() for character in quote) < LETTERS_MIN or not wanted:
        return None
    found: DiffLine | None = None
    for marks in ("+- ", "+ ", "- "):
        side = [line for line in lines if line.mark in marks]
        for start in range(len(side) - len(wanted) + 1):
            rows = side[start : start + len(wanted)]
            if rows[0].file == rows[-1].file and all(map(_says, rows, wanted)):
                if file in {None, rows[0].file}:
                    return rows[0]
                found = found or rows[0]
    return found


def lines_of(diff: str) -> Iterator[DiffLine]:
    """The lines inside the hunks of a unified diff, as a reader was shown them."""
    file, old, new, inside = "", 0, 0, False
    for line in diff.split("\n"):
        if line.startswith("diff --git "):
            file, inside = "", False
        elif not inside and line.startswith(("--- ", "+++ ")):
            name = line[4:].strip().strip('"')
            file = file if name == "/dev/null" else name[2:]
        elif hunk := HUNK.match(line):
            old, new, inside = int(hunk[1]), int(hunk[2]), True
        elif inside and line[:1] in {"+", "-", " ", ""}:
            mark = line[:1] or " "
            yield DiffLine(file, old if mark == "-" else new, mark, _plain(harmless_lines(line[1:])))
            old += mark != "+"
            new += mark != "-"


def _forms(line: str) -> set[str]:
    """What a quoted line may mean: as it is, and without a mark in front. Headers of a diff are no lines of it."""
    plain = line.strip()
    if plain.startswith(("diff --git ", "@@ ", "--- a/", "+++ b/", "```")):
        return set()
    return {form for form in (_plain(plain), _plain(plain[1:]) if plain[:1] in {"+", "-"} else "") if form}


def _says(line: DiffLine, forms: set[str]) -> bool:
    return any(form in line.text for form in forms)


def _plain(text: str) -> str:
    return " ".join(text.split())


def _placed(finding: ReaderFinding, found: DiffLine) -> Finding:
    return Finding(
        gate=GATE,
        severity=finding.severity,
        message=finding.message[:TEXT_CHARACTERS_MAX],
        file=found.file,
        line=found.number,
        evidence=finding.evidence[:TEXT_CHARACTERS_MAX],
    )
