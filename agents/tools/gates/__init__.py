"""Gates: rules on a change that hold before any opinion is asked. `judge` runs them all.

A blocker turns the change down. A major finding is lawful but needs a person before production. Minor ones and infos are
told to the author. The rules read text and syntax; they run nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.tools.gates.behaviour import judge_behaviour
from agents.tools.gates.care import judge_care
from agents.tools.gates.change import Change, ChangedFile, read_change
from agents.tools.gates.kept_tests import judge_tests
from agents.tools.gates.paths import grounded_scope, in_scope, is_named, judge_protected, judge_scope, judge_size
from agents.tools.gates.texts import judge_secrets, judge_text
from contracts.events import Finding, GateResult

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "GATES",
    "Change",
    "ChangedFile",
    "grounded_scope",
    "in_scope",
    "is_named",
    "judge",
    "needs_person",
    "passed",
    "read_change",
]

GATES: dict[str, str] = {
    "scope": "only files that the plan names",
    "protected": "files that decide what runs and how it is tested",
    "tests": "tests of the base stay and count",
    "secrets": "no key is added or collected",
    "unsafe": "nothing dangerous or hidden is done",
    "text": "what is read is what runs",
    "care": "no known slip is made",
    "size": "a person can read it",
}
"""Each gate and what it holds, in the order of the results."""

FINDINGS_MAX = 50
ORDER = {"blocker": 0, "major": 1, "minor": 2, "info": 3}


def judge(change: Change) -> tuple[GateResult, ...]:
    """One result per gate; a gate passes where it has no blocker."""
    rules = (
        judge_scope,
        judge_protected,
        judge_tests,
        judge_behaviour,
        judge_secrets,
        judge_text,
        judge_care,
        judge_size,
    )
    found = [one for rule in rules for one in rule(change)]
    return tuple(_result(gate, [one for one in found if one.gate == gate]) for gate in GATES)


def passed(results: Iterable[GateResult]) -> bool:
    """Whether no gate turned the change down."""
    return all(result.passed for result in results)


def needs_person(results: Iterable[GateResult]) -> tuple[str, ...]:
    """Why a person must look before production; empty where nothing asks for one."""
    majors = (one for result in results for one in result.findings if one.severity == "major")
    return tuple(dict.fromkeys(f"{one.file}: {one.message}" if one.file else one.message for one in majors))


def _result(gate: str, findings: list[Finding]) -> GateResult:
    distinct = sorted(dict.fromkeys(findings), key=lambda one: (ORDER[one.severity], one.file or "", one.line or 0))
    blockers = [one for one in distinct if one.severity == "blocker"]
    worst = distinct[0] if distinct else None
    summary = f"{worst.file}: {worst.message}" if worst else "nothing found"
    if len(distinct) > 1:
        summary += f" (and {len(distinct) - 1} more)"
    return GateResult(gate=gate, passed=not blockers, summary=summary, findings=tuple(distinct[:FINDINGS_MAX]))
