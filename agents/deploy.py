"""The deploy role: staging at once, production only what was approved, by digest; rolls back by itself."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from agents.tools.deploy_tools import ApprovalCheck, DeliverRequest, DeployTools, ReleaseRequest, ReleaseResult
from contracts.codec import EPOCH, MICROSECOND
from contracts.envelope import Event
from contracts.events import (
    ApprovalRequested,
    DeploymentRolledBack,
    ProductionDeployed,
    StagingDeployed,
    TaskEscalated,
    TaskFailed,
    TaskSucceeded,
)
from contracts.topology import APPROVAL_SECONDS

REASONS_MAX = 8


async def handle(event: Event, state: Any, tools: DeployTools) -> list[Event]:
    """Answer a passed review with staging and a question, a grant with production, a denial with the end."""
    match state.step:
        case "reviewed" | "rolled_back":
            return await stage(event, state, tools)
        case "staged" | "expired":
            return [event.cause(await ask(event, state, tools, await tools.recall(state.review_id)))]
        case "approved":
            return await answer(event, state, tools)
        case "denied":
            denial: Any = (await tools.recall(state.approval.decision_id)).payload
            reason = f"{denial.operator or 'the operator'} denied it" + (f": {denial.reason}" if denial.reason else "")
            return [event.cause(TaskFailed(reason=reason, reason_code="denied"))]
        case _:
            return []


async def stage(event: Event, state: Any, tools: DeployTools) -> list[Event]:
    """Staging first; then a person, or production where the project's policy needs none."""
    result = await tools.release(
        ReleaseRequest(environment="staging", commit=state.head_commit, digest=state.digest, round=state.rollbacks),
        why="the review passed exactly this digest",
    )
    if not result.healthy:
        return taken_back(event, state, "staging", result)
    staged = event.cause(
        StagingDeployed(
            digest=result.digest,
            commit=state.head_commit,
            path=result.path,
            previous_digest=result.previous_digest,
            health=result.health,
            effect_key=result.effect_key,
        )
    )
    review = await tools.recall(state.review_id)
    if await needs_person(tools, review):
        return [staged, event.cause(await ask(event, state, tools, review))]
    return [staged, *await release(event, state, tools, approval_id=None)]


async def needs_person(tools: DeployTools, review: Event) -> bool:
    """The project's policy over typed values: always, never, or only where a gate or the plan saw a risk."""
    passed: Any = review.payload
    settings = (await tools.project()).settings
    risky = passed.risk == "high" or bool(passed.needs_person)
    return settings.approval == "always" or (settings.approval == "risky" and risky)


async def answer(event: Event, state: Any, tools: DeployTools) -> list[Event]:
    """Production on a grant that counts; on one that does not, the same question to somebody else."""
    granted = state.approval.decision_id
    checked = await tools.check_approval(ApprovalCheck(approval_id=granted), why="who approved, and may they")
    if checked.objection:
        review = await tools.recall(state.review_id)
        return [event.cause(await ask(event, state, tools, review, objection=checked.objection))]
    return await release(event, state, tools, approval_id=granted)


async def ask(event: Event, state: Any, tools: DeployTools, review: Event, *, objection: str = "") -> ApprovalRequested:
    """The question to a person, bound to the digest, with its expiry; `objection` says why the last answer did not count."""
    del event
    passed: Any = review.payload
    settings = (await tools.project()).settings
    more = len(passed.needs_person) - REASONS_MAX
    said = (*passed.needs_person[:REASONS_MAX], *((f"and {more} more, see the review",) if more > 0 else ()))
    reasons = (*((objection,) if objection else ()), f"policy: {settings.approval}", *said)
    expires = EPOCH + await tools.now_us() * MICROSECOND + timedelta(seconds=APPROVAL_SECONDS)
    return ApprovalRequested(
        digest=state.digest, commit=state.head_commit, risk=passed.risk, reasons=reasons, expires_at=expires
    )


async def release(event: Event, state: Any, tools: DeployTools, *, approval_id: str | None) -> list[Event]:
    """Production, then the branch; success is said in the same commit."""
    result = await tools.release(
        ReleaseRequest(
            environment="production",
            commit=state.head_commit,
            digest=state.digest,
            round=state.rollbacks,
            approval_id=approval_id,
        ),
        why=f"approved by {approval_id}" if approval_id else "the project's policy asks nobody",
    )
    if not result.healthy:
        return taken_back(event, state, "production", result)
    delivered = await tools.deliver(DeliverRequest(commit=state.head_commit), why="the release holds")
    deployed = ProductionDeployed(
        digest=result.digest,
        commit=state.head_commit,
        path=result.path,
        branch=delivered.branch,
        previous_digest=result.previous_digest,
        health=result.health,
        approval_id=approval_id,
        effect_key=result.effect_key,
    )
    done = TaskSucceeded(
        digest=result.digest, commit=state.head_commit, branch=delivered.branch, summary=f"live in {result.path}"
    )
    return [event.cause(deployed), event.cause(done)]


def taken_back(event: Event, state: Any, environment: str, result: ReleaseResult) -> list[Event]:
    """The release did not hold: what was before is live again, and a person is asked."""
    rolled = DeploymentRolledBack.model_validate(
        {
            "environment": environment,
            "digest": result.digest,
            "restored_digest": result.previous_digest,
            "reason": result.health,
            "effect_key": result.effect_key,
        }
    )
    asked = TaskEscalated(
        role="deploy",
        reason=f"{environment} was rolled back: {result.health}",
        reason_code="rolled_back",
        hint=f"gavotte resume {state.task_id} tries again",
    )
    return [event.cause(rolled), event.cause(asked)]
