"""The timeline: one line for an event, in words, from nothing but the event itself."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from console.harmless import clipped
from console.words import count, short_digest

if TYPE_CHECKING:
    from contracts.events import Evidence, FileChange, Finding

DETAIL_CHARACTERS_MAX: Final = 160
FINDINGS_SHOWN: Final = 3


@dataclass(frozen=True)
class Line:
    """`who` did `what`; `detail` in words, `below` holds further lines that belong to it. All are harmless."""

    who: str
    what: str
    detail: str = ""
    below: tuple[str, ...] = ()


def line_of(type_: str, role: str, payload: Any, *, me: str = "") -> Line:
    """The line of an event; `payload` is a dict where this build has no class for it (a further agent's), or None."""
    who = _person(payload, me) if role in {"operator", "client"} else clipped(role, 40)
    words = WORDS.get(type_)
    if words is None or payload is None or isinstance(payload, dict):
        return Line(who, clipped(type_, 60), clipped(_fields(payload or {}), DETAIL_CHARACTERS_MAX))
    detail, *below = words(payload)
    return Line(
        who,
        type_,
        clipped(detail, DETAIL_CHARACTERS_MAX),
        tuple(clipped(text, DETAIL_CHARACTERS_MAX) for text in below),
    )


def _fields(payload: dict[str, Any]) -> str:
    """The fields of an event that nobody here has words for; lists are counted, what is empty is left out."""
    shown = [
        f"{name} {len(value) if isinstance(value, list | dict) else value}"
        for name, value in payload.items()
        if value not in ("", None)
    ]
    return ", ".join(shown)


def tests(evidence: Evidence | None) -> str:
    """What a run of the tests showed, in words."""
    if evidence is None:
        return ""
    total = evidence.passed + len(evidence.failed)
    if not evidence.failed:
        return count(total, "test") if evidence.green else evidence.summary or "no tests ran"
    return f"{len(evidence.failed)} of {count(total, 'test')} {'fails' if len(evidence.failed) == 1 else 'fail'}"


def changed(files: Sequence[FileChange]) -> str:
    """The files of a change with their lines: `money.py +2 -1`; where no lines are counted, what happened to it."""
    shown = [
        f"{file.path} +{file.added} -{file.removed}" if file.added or file.removed else f"{file.path} {file.kind}"
        for file in files[:3]
    ]
    rest = [f"and {len(files) - 3} more"] if len(files) > 3 else []
    return ", ".join(shown + rest)


def _person(payload: Any, me: str) -> str:
    name = getattr(payload, "operator", "") or getattr(payload, "submitter", "")
    return "you" if not name or name == me else clipped(name, 40)


def _submitted(p: Any) -> list[str]:
    given = {"command": f"by command: {shlex.join(p.command)}", "patch": "by a given patch", "model": ""}
    return [given[p.author]]


def _planned(p: Any) -> list[str]:
    named = f"{count(len(p.tests), 'test')} named, " if p.tests else ""
    base = f", {tests(p.base_evidence)} at the base" if p.base_evidence is not None else ""
    return [f"{_within(p.files)}, {named}risk {p.risk}{base}"]


def _within(files: Sequence[str]) -> str:
    """What a plan may touch: so many files, or the patterns that say which."""
    if tuple(files) == ("**",):
        return "any file"
    patterns = [path for path in files if any(mark in path for mark in "*?[")]
    return f"within {', '.join(files)}" if patterns else count(len(files), "file")


def _rejected(p: Any) -> list[str]:
    return [p.reason, *([f"try: {p.hint}"] if p.hint else [])]


def _proposed(p: Any) -> list[str]:
    return [f"#{p.revision} {changed(p.files) or p.summary}"]


def _passed(p: Any) -> list[str]:
    words = [count(len(p.gates), "gate")]
    if p.evidence is not None:
        words.append(tests(p.evidence))
    detail = ", ".join(words)
    if p.base_evidence is not None and p.evidence is not None:
        was = "green" if p.base_evidence.green else "red"
        detail += f"; was {was}, is {'green' if p.evidence.green else 'red'}"
    if p.needs_person:
        detail += f"; needs a person: {', '.join(p.needs_person)}"
    return [detail]


def _asked_for_changes(p: Any) -> list[str]:
    failed = [gate for gate in p.gates if not gate.passed]
    ran = tests(p.evidence) if p.evidence is not None and p.evidence.failed else ""
    said = [f"{gate.gate}: {ran if ran and 'tests' in gate.gate else gate.summary}" for gate in failed]
    detail = "; ".join(said) or p.summary or "see the findings"
    weighty: list[Finding] = [f for f in p.findings if f.severity in {"blocker", "major"}] or list(p.findings)
    below = [text for text in map(_finding, weighty[:FINDINGS_SHOWN]) if text not in detail]
    rest = len(weighty) - FINDINGS_SHOWN
    return [detail, *below, *([f"and {rest} more: gavotte log --json"] if rest > 0 else [])]


def _finding(found: Finding) -> str:
    place = f"{found.file}:{found.line}: " if found.file and found.line else f"{found.file}: " if found.file else ""
    evidence = f": {found.evidence}" if found.evidence and found.evidence not in found.message else ""
    return f"{place}{found.message}{evidence}"


def _staged(p: Any) -> list[str]:
    passed = "health check passed" if p.health.endswith("passed") else p.health
    return [f"{_place(p.path)}{f', {passed}' if passed else ''}"]


def _place(path: str) -> str:
    """The last two names of a release's path: the project and the environment."""
    return "/".join(path.rstrip("/").split("/")[-2:])


def _approval_asked(p: Any) -> list[str]:
    reasons = f" ({'; '.join(p.reasons)})" if p.reasons else ""
    return [f"{short_digest(p.digest)}  waits for a person{reasons}"]


def _granted(p: Any) -> list[str]:
    signed = "signed, " if p.signature is not None else ""
    edited = f", with {', '.join(f'{name}={value}' for name, value in p.values.items())}" if p.values else ""
    return [f"{signed}bound to {short_digest(p.digest)}{edited}", *([p.note] if p.note else [])]


def _denied(p: Any) -> list[str]:
    return [p.reason or f"refused {short_digest(p.digest)}"]


def _produced(p: Any) -> list[str]:
    return [f"{_place(p.path)} -> {short_digest(p.digest)}{', and a new branch' if p.branch else ''}"]


def _rolled_back(p: Any) -> list[str]:
    back = f", {short_digest(p.restored_digest)} is live again" if p.restored_digest else ", nothing is live"
    return [f"{p.environment}: {p.reason}{back}"]


def _escalated(p: Any) -> list[str]:
    return [p.reason, *([f"try: {p.hint}"] if p.hint else [])]


def _exhausted(p: Any) -> list[str]:
    rest = [f"{count} {word}" for word, count in (("held", p.reserved), ("wanted", p.wanted)) if count]
    return [", ".join([f"{p.axis}: {p.spent} of {p.limit}", *rest])]


def _raised(p: Any) -> list[str]:
    b = p.budget
    return [f"{b.tokens} tokens, {b.steps} steps, {b.wall_seconds // 60} min, ${b.cost_microdollars / 1e6:.2f}"]


def _killed(p: Any) -> list[str]:
    return [f"{p.scope} {p.target}".strip() + (f": {p.reason}" if p.reason else "")]


def _corrected(p: Any) -> list[str]:
    return [", ".join([*(f"{name}={value}" for name, value in p.corrections.items()), p.note]).strip(", ")]


def _reason(p: Any) -> list[str]:
    return [p.reason]


WORDS: Final[dict[str, Callable[[Any], list[str]]]] = {
    "TaskSubmitted": _submitted,
    "TaskCancelRequested": _reason,
    "PlanProposed": _planned,
    "PlanRejected": _rejected,
    "ChangeProposed": _proposed,
    "ReviewPassed": _passed,
    "ChangesRequested": _asked_for_changes,
    "StagingDeployed": _staged,
    "ApprovalRequested": _approval_asked,
    "ApprovalGranted": _granted,
    "ApprovalDenied": _denied,
    "ApprovalExpired": lambda p: [f"nobody decided over {short_digest(p.digest)} in time"],
    "ProductionDeployed": _produced,
    "DeploymentRolledBack": _rolled_back,
    "TaskSucceeded": lambda _: [""],
    "TaskFailed": _reason,
    "TaskCancelled": _reason,
    "TaskEscalated": _escalated,
    "TaskResumed": _corrected,
    "BudgetExhausted": _exhausted,
    "BudgetRaised": _raised,
    "KillRaised": _killed,
    "KillLifted": lambda p: [p.note],
}
"""type -> its detail, and the lines below it."""
