"""The planning role: is the task in bounds, and how will it be done? Each file it names exists."""

from __future__ import annotations

import shlex
from typing import Any

from agents.tools.planning_tools import PatchRequest, PlanDraft, PlanningTools, Survey, SurveyRequest
from contracts.envelope import Event
from contracts.errors import NeedsPerson
from contracts.events import PlanProposed, PlanRejected, PlanStep, TaskFailed
from contracts.prompts import Prompt


async def handle(event: Event, state: Any, tools: PlanningTools, prompt: Prompt) -> list[Event]:
    """Answer a submission with a plan, or with the reason why there is none."""
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
    draft = await draft_plan(submission, state, tools, survey, prompt)
    unknown = ungrounded(draft, survey) if state.author == "model" else []  # a patch may well make a folder
    if unknown:
        raise NeedsPerson(
            f"the plan names files that do not exist: {', '.join(unknown)}",
            hint=f"gavotte resume {state.task_id} --set description=...",
        )
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


def refuse(event: Event, reason: str, code: str, hint: str) -> list[Event]:
    """Out of bounds: the plan is refused and the task ends, in one commit. The task's outcome is a single line."""
    outcome = reason.partition("\n")[0]
    return [
        event.cause(PlanRejected(reason=reason, reason_code=code, hint=hint)),
        event.cause(TaskFailed(reason=f"{outcome} ({hint})" if hint else outcome, reason_code=code)),
    ]


async def draft_plan(submission: Any, state: Any, tools: PlanningTools, survey: Survey, prompt: Prompt) -> PlanDraft:
    """The plan by author: a model drafts it; a command or a patch says itself what it touches."""
    if state.author == "model":
        return await tools.draft_plan(survey, prompt)
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


def ungrounded(draft: PlanDraft, survey: Survey) -> list[str]:
    """Files of a model's plan that are neither there nor new beside something that is."""
    if survey.files_total > len(survey.files):
        return []
    known = set(survey.files)
    folders = {path.rpartition("/")[0] for path in survey.files} | {""}
    return [
        path
        for path in draft.files
        if not any(mark in path for mark in "*?[") and path not in known and path.rpartition("/")[0] not in folders
    ]
