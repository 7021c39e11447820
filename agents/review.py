"""The review role: deterministic gates first, then the tests, then a reader that is not the author."""

from __future__ import annotations

from typing import Any

from agents.tools.review_tools import ChangeUnderReview, ReviewTools, TestsRequest, TestsVerdict
from contracts.envelope import Event
from contracts.events import ChangeProposed, ChangesRequested, Finding, GateResult, ReviewPassed
from contracts.prompts import Prompt


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
    reading = await tools.read_change(prompt, await tools.text(change.diff), turn=state.revisions - 1)
    quoted = tuple(finding for finding in reading.findings if finding.evidence)
    if reading.verdict == "changes" and quoted:
        gates = (*gates, GateResult(gate="reader", passed=False, summary=reading.summary, findings=quoted))
        return [event.cause(turn_down(change, gates, tests))]
    gates = (*gates, GateResult(gate="reader", passed=True, summary=reading.summary))
    return [event.cause(passed(change, plan, gates, tests, rules.needs_person, quoted, reading.summary))]


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
