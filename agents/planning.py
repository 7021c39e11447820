"""The planning role: is the task in bounds, and how will it be done? What a plan names is there, or it is asked again."""

from __future__ import annotations

import shlex
from typing import Any, Final

from agents.tools.planning_tools import (
    PatchRequest,
    PlanDraft,
    PlanningTools,
    Survey,
    SurveyRequest,
    TriageVerdict,
)
from contracts.envelope import Event
from contracts.events import PlanProposed, PlanRejected, PlanStep, TaskEscalated, TaskFailed
from contracts.prompts import Prompt

REPAIRS_MAX: Final = 2
"""How often a model may mend a plan that is not grounded."""
REASON_CHARACTERS_MAX: Final = 300
OUT_OF_BOUNDS: Final = {
    "not_a_change": "it asks for no change to files of the repository",
    "secrets": "it asks for secrets",
    "production": "it asks for access to production or to other systems",
    "disables_review": "it asks to weaken or pass by tests, reviews or approvals",
    "outside": "it is about files outside of the repository",
}
"""What triage refuses, in words for whoever submitted it."""


async def handle(event: Event, state: Any, tools: PlanningTools, prompt: Prompt, triage: Prompt) -> list[Event]:
    """Answer a submission with a plan, or with the reason why there is none."""
    if state.author == "model" and (verdict := await tools.triage(triage)).out_of_bounds:
        return refuse(event, *out_of_bounds(verdict))
    submission: Any = (
        (await tools.recall(state.submission_id)).payload if event.type != "TaskSubmitted" else event.payload
    )
    survey = await tools.survey(
        SurveyRequest(repository=state.repository, commit=state.base_commit),
        why="see what is there and what its tests say",
    )
    if survey.problem:
        return refuse(event, survey.problem, survey.problem_code, survey.hint)
    if state.author == "command" and survey.evidence is not None and not survey.evidence.green:
        failed = ", ".join(survey.evidence.failed[:5])
        reason = (
            f"a command must leave green tests green, and they are not at the base: {failed or survey.evidence.summary}"
        )
        return refuse(event, reason, "base_not_green", "mend the tests first, or submit the change as a patch")
    draft, faults = await draft_plan(submission, state, tools, survey, prompt)
    if faults:
        return [event.cause(escalated(state, faults))]
    return [
        event.cause(
            PlanProposed(
                summary=draft.summary,
                steps=draft.steps,
                files=draft.files,
                tests=draft.tests,
                test_command=survey.test_command,
                risk=draft.risk,
                base_commit=state.base_commit,
                base_evidence=survey.evidence,
            )
        )
    ]


def out_of_bounds(verdict: TriageVerdict) -> tuple[str, str, str]:
    """Reason, code and hint of a task that triage refuses."""
    said = " ".join(verdict.reason.split())[:REASON_CHARACTERS_MAX]
    reason = f"the task is out of bounds: {OUT_OF_BOUNDS[verdict.out_of_bounds]}"
    return (
        f"{reason}: {said}" if said else reason,
        f"out_of_bounds_{verdict.out_of_bounds}",
        "submit it again as a change to files of this repository",
    )


def escalated(state: Any, faults: list[str]) -> TaskEscalated:
    """No plan holds: a person says more clearly what is wanted."""
    return TaskEscalated(
        role="planning",
        reason=f"{REPAIRS_MAX + 1} plans did not fit the repository; the last: {'; '.join(faults[:3])}",
        reason_code="ungrounded_plan",
        hint=f"gavotte resume {state.task_id} --set description=...",
    )


def refuse(event: Event, reason: str, code: str, hint: str) -> list[Event]:
    """Out of bounds: the plan is refused and the task ends, in one commit. The task's outcome is a single line."""
    outcome = reason.partition("\n")[0]
    return [
        event.cause(PlanRejected(reason=reason, reason_code=code, hint=hint)),
        event.cause(TaskFailed(reason=f"{outcome} ({hint})" if hint else outcome, reason_code=code)),
    ]


async def draft_plan(
    submission: Any, state: Any, tools: PlanningTools, survey: Survey, prompt: Prompt
) -> tuple[PlanDraft, list[str]]:
    """The plan by author, and what is wrong with it: a command or a patch says itself what it touches."""
    if state.author == "model":
        return await planned(state, tools, survey, prompt)
    return await given(submission, state, tools), []  # a patch may well make a folder


async def planned(state: Any, tools: PlanningTools, survey: Survey, prompt: Prompt) -> tuple[PlanDraft, list[str]]:
    """A model's plan; asked for again with the reasons where it speaks of what is not there."""
    draft = await tools.draft_plan(state.base_commit, survey, prompt, None, ())
    for _ in range(REPAIRS_MAX):
        faults = await tools.faults_of(draft, state.base_commit, survey)
        if not faults:
            return draft, []
        draft = await tools.draft_plan(state.base_commit, survey, prompt, draft, faults)
    return draft, await tools.faults_of(draft, state.base_commit, survey)


async def given(submission: Any, state: Any, tools: PlanningTools) -> PlanDraft:
    """The plan of a task that brings its command or its patch."""
    if state.author == "command":
        words = shlex.join(submission.command)
        files = tuple(state.scope) or ("**",)
        steps = (PlanStep(title=f"run {words}"), PlanStep(title="show that the same tests pass before and after"))
        return PlanDraft(summary=f"Run {words} and keep every test green", files=files, steps=steps)
    allowed: tuple[str, ...] = tuple(state.scope)
    if not state.scope:
        about = await tools.scope_patch(
            PatchRequest(base=state.base_commit, patch=submission.patch), why="bound what may be touched"
        )
        allowed = about.files
    steps = (
        PlanStep(title="apply the submitted patch"),
        PlanStep(title="judge it by rules and by the tests of the base"),
    )
    return PlanDraft(summary=state.title or "Apply the submitted patch", files=allowed, steps=steps)
