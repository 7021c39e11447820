"""The coding role: turns a plan into a commit on the task's branch, and a review's findings into the next one."""

from __future__ import annotations

from typing import Any

from agents.tools.authoring import Authoring, Written
from agents.tools.coding_tools import Authored, CodingTools, CommandRequest, PatchOnBase
from contracts.envelope import Event
from contracts.events import Body, ChangeProposed, Finding, TaskEscalated, TaskFailed
from contracts.prompts import Prompt

SAID_CHARACTERS_MAX = 300


async def handle(event: Event, state: Any, tools: CodingTools, prompt: Prompt) -> list[Event]:
    """Answer a plan or a request for changes with a change, or say why there is none."""
    findings = await asked_for(event, state, tools)
    if state.step == "revising" and state.author != "model":
        return [event.cause(TaskFailed(reason=turned_down(findings), reason_code="changes_requested"))]
    if state.step == "revising" and state.revisions >= state.revisions_max:
        return [event.cause(out_of_revisions(state, findings))]
    revision = state.revisions + 1
    evidence = None
    submission: Any = (await tools.recall(state.submission_id)).payload
    if state.author == "command":
        authored = await tools.run_command(
            CommandRequest(base=state.base_commit, command=submission.command), why="the task's author is this command"
        )
    elif state.author == "patch":
        authored = await tools.apply_patch(
            PatchOnBase(base=state.base_commit, patch=submission.patch), why="the task brings its patch"
        )
        if authored.problem:
            return [event.cause(unapplied(state, submission.patch, authored, revision))]
    else:
        written = await write(state, tools, prompt, findings)
        authored, evidence = written.authored, written.evidence
    if authored.problem or authored.diff is None:
        return [event.cause(no_change(state, authored))]
    return [
        event.cause(
            ChangeProposed(
                revision=revision,
                author=state.author,
                summary=state.title,
                base_commit=state.base_commit,
                head_commit=authored.head_commit,
                branch=authored.branch,
                digest=authored.digest,
                files=authored.files,
                diff=authored.diff,
                evidence=evidence,
            )
        )
    ]


async def asked_for(event: Event, state: Any, tools: CodingTools) -> tuple[Finding, ...]:
    """What the last review found, also where a person resumed the task after it."""
    if state.step != "revising":
        return ()
    review: Any = event.payload if event.type == "ChangesRequested" else (await tools.recall(state.review_id)).payload
    findings: tuple[Finding, ...] = review.findings
    return findings


async def write(state: Any, tools: CodingTools, prompt: Prompt, findings: tuple[Finding, ...]) -> Written:
    """Have the model write the change, turn by turn."""
    plan: Any = (await tools.recall(state.plan_id)).payload
    last_change = ""
    if state.step == "revising":
        turned_down_change: Any = (await tools.recall(state.change_id)).payload
        last_change = await tools.text(turned_down_change.diff)
    return await Authoring(tools, prompt, state.base_commit, plan, findings, last_change).write()


def unapplied(state: Any, patch: Body, authored: Authored, revision: int) -> ChangeProposed:
    """A patch that does not apply is proposed as it came: the gate `applies` turns it down with git's reason."""
    return ChangeProposed(
        revision=revision,
        author=state.author,
        summary=authored.problem,
        base_commit=state.base_commit,
        head_commit=state.base_commit,
        branch="",
        digest="",
        diff=patch,
    )


def no_change(state: Any, authored: Authored) -> TaskFailed | TaskEscalated:
    """Nothing to propose: a model's task asks a person, any other ends."""
    reason = authored.problem or "there is no change"
    said = " ".join(authored.output.split())
    if said:
        reason += f": {said}" if len(said) <= SAID_CHARACTERS_MAX else f": … {said[-SAID_CHARACTERS_MAX:]}"
    if authored.hint:
        reason += f" ({authored.hint})"
    if state.author == "model":
        hint = f"gavotte resume {state.task_id} --set description=..."
        return TaskEscalated(role="coding", reason=reason, reason_code=authored.problem_code or "no_change", hint=hint)
    return TaskFailed(reason=reason, reason_code=authored.problem_code or "no_change")


def turned_down(findings: tuple[Finding, ...]) -> str:
    """The review's reasons in one line: a given command or patch cannot be revised."""
    weighty = [f for f in findings if f.severity in {"blocker", "major"}]
    said = [f"{f.gate}: {f'{f.file}: ' if f.file and f.file not in f.message else ''}{f.message}" for f in weighty[:3]]
    rest = f"; and {len(weighty) - 3} more" if len(weighty) > 3 else ""
    return "review turned the change down: " + ("; ".join(said) or "see the findings") + rest


def out_of_revisions(state: Any, findings: tuple[Finding, ...]) -> TaskEscalated:
    """The cap on revisions is spent: a person decides whether to allow more."""
    return TaskEscalated(
        role="coding",
        reason=f"{state.revisions} of {state.revisions_max} revisions were turned down; last: {turned_down(findings)}",
        reason_code="revisions_spent",
        hint=f"gavotte resume {state.task_id} --set revisions_max={state.revisions_max + 2}",
    )
