"""The review role: deterministic gates first, then the tests, then a reader that is not the author."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from agents.tools.quotes import GATE, Calibrated, calibrated
from agents.tools.review_tools import ChangeUnderReview, ReviewDraft, ReviewTools, TestsRequest, TestsVerdict
from contracts.envelope import Event
from contracts.events import ChangeProposed, ChangesRequested, Finding, GateResult, ReviewPassed
from contracts.prompts import Prompt

SUMMARY_CHARACTERS_MAX: Final = 1000
PART_READ: Final = "the change is larger than what a model may be told (model.context_tokens): a part of it was read"


async def handle(event: Event, state: Any, tools: ReviewTools, prompt: Prompt) -> list[Event]:
    """Answer a proposed change with a pass on its digest, or with findings. No opinion before the evidence."""
    change: Any = event.payload if event.type == "ChangeProposed" else (await tools.recall(state.change_id)).payload
    plan: Any = (await tools.recall(state.plan_id)).payload
    if change.head_commit == change.base_commit:
        return [event.cause(turn_down(change, (unapplied(change),), None))]
    applies = GateResult(gate="applies", passed=True, summary=f"{len(change.files)} files")
    rules = await tools.judge_rules(
        ChangeUnderReview(base=change.base_commit, head=change.head_commit, author=state.author, files=plan.files),
        why="no rule is for the author to judge",
    )
    gates = (applies, *rules.gates)
    if not all(gate.passed for gate in gates):
        return [event.cause(turn_down(change, gates, None))]
    tests = await tools.judge_tests(
        TestsRequest(
            base=change.base_commit,
            head=change.head_commit,
            author=state.author,
            base_report=plan.base_evidence.report_digest if plan.base_evidence else "",
        ),
        why="the system runs the tests; nobody's word counts",
    )
    gates = (*gates, tests.gate)
    if not tests.gate.passed:
        return [event.cause(turn_down(change, gates, tests))]
    if state.author != "model" or not tools.has_model:
        return [event.cause(passed(change, plan, gates, tests, rules.needs_person, (), "every gate passed"))]
    reading = await read(change, tools, prompt, tests)
    gates = (*gates, reading.gate)
    if not reading.gate.passed:
        return [event.cause(turn_down(change, gates, tests))]
    notes = reading.gate.findings
    majors = (f"{one.file}: {one.message}" for one in notes if one.severity == "major")
    person = (*rules.needs_person, *majors, *(() if reading.whole else (PART_READ,)))
    return [event.cause(passed(change, plan, gates, tests, person, notes, reading.gate.summary))]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model found in the change, held against the diff: the gate `reader`."""

    draft: ReviewDraft
    held: Calibrated
    whole: bool = True

    @property
    def unfounded(self) -> bool:
        """Whether it asks for changes and lost what it had to say for want of a quote."""
        return self.draft.verdict == "changes" and not self.held.weighty and bool(self.held.dropped)

    @property
    def gate(self) -> GateResult:
        """Findings decide, not the verdict: a blocker turns down, and so does a major one where changes are asked for."""
        blocks = any(one.severity == "blocker" for one in self.held.findings)
        turned_down = blocks or (self.draft.verdict == "changes" and bool(self.held.weighty))
        said = [
            self.draft.summary[:SUMMARY_CHARACTERS_MAX] or "read",
            self.held.count(),
            "" if self.whole else PART_READ,
        ]
        if self.draft.verdict == "changes" and not turned_down:
            said.append("changes were asked for without a finding that weighs enough: taken as notes")
        summary = "; ".join(part for part in said if part)
        return GateResult(gate=GATE, passed=not turned_down, summary=summary, findings=self.held.findings)


async def read(change: ChangeProposed, tools: ReviewTools, prompt: Prompt, tests: TestsVerdict) -> Reading:
    """The model's reading; where it asks for changes without a quote that holds, it is asked once more."""
    diff = await tools.text(change.diff)
    whole = await tools.shows_whole(prompt, diff)
    draft = await tools.read_change(prompt, diff, tests.gate.summary)
    reading = Reading(draft, calibrated(draft.findings, diff), whole)
    if not reading.unfounded:
        return reading
    draft = await tools.read_change(prompt, diff, tests.gate.summary, reading.held.dropped)
    return Reading(draft, calibrated(draft.findings, diff), whole)


def unapplied(change: ChangeProposed) -> GateResult:
    """The gate that a patch fails which does not apply to its base."""
    finding = Finding(gate="applies", severity="blocker", message=change.summary)
    return GateResult(gate="applies", passed=False, summary=change.summary, findings=(finding,))


def turn_down(change: ChangeProposed, gates: tuple[GateResult, ...], tests: TestsVerdict | None) -> ChangesRequested:
    """What failed, gate by gate, for the author to act on."""
    failed = [gate for gate in gates if not gate.passed]
    return ChangesRequested(
        revision=change.revision,
        head_commit=change.head_commit,
        digest=change.digest,
        gates=gates,
        findings=tuple(finding for gate in failed for finding in gate.findings),
        evidence=tests.evidence if tests else None,
        summary="; ".join(f"{gate.gate}: {gate.summary}" for gate in failed),
    )


def passed(
    change: ChangeProposed,
    plan: Any,
    gates: tuple[GateResult, ...],
    tests: TestsVerdict,
    needs_person: tuple[str, ...],
    findings: tuple[Finding, ...],
    summary: str,
) -> ReviewPassed:
    """The pass, bound to the digest that was judged."""
    return ReviewPassed(
        revision=change.revision,
        head_commit=change.head_commit,
        digest=change.digest,
        gates=gates,
        findings=findings,
        evidence=tests.evidence,
        base_evidence=tests.base_evidence,
        risk=plan.risk,
        needs_person=needs_person,
        summary=summary,
    )
