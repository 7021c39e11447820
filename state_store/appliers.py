"""What each type of event changes in a task's state, and how much of its payload that takes.

A payload is an event's own, or a value's first fields as they were recorded: dicts and lists, where the event has models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from contracts.errors import Illegal
from contracts.events import Budget

if TYPE_CHECKING:
    from state_store.fold import TaskState


class Pause(BaseModel):
    """Why a task stands still and what lets it go on."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["escalated", "budget"]
    role: str
    reason: str
    reason_code: str = ""
    hint: str = ""
    since_us: int = 0


class Approval(BaseModel):
    """A request for approval and what became of it."""

    model_config = ConfigDict(frozen=True)

    request_id: str
    digest: str
    expires_at_us: int
    decision: Literal["open", "granted", "denied", "expired"] = "open"
    operator: str = ""
    self_approved: bool = False
    decision_id: str | None = None


class Release(BaseModel):
    """What is live in an environment because of this task."""

    model_config = ConfigDict(frozen=True)

    digest: str
    path: str
    rolled_back: bool = False


class Told(Protocol):
    """What the fold needs to know of an event besides its payload; envelopes have it."""

    @property
    def id(self) -> str: ...

    @property
    def type(self) -> str: ...

    @property
    def time_us(self) -> int: ...

    @property
    def role(self) -> str: ...


def _submitted(_: TaskState, told: Told, p: Any) -> dict[str, Any]:
    return {
        "submission_id": told.id,
        "submitted_at_us": told.time_us,
        "title": p.title,
        "task_type": p.task_type,
        "author": p.author,
        "repository": p.repository,
        "project_id": p.project_id,
        "project_digest": p.project_digest,
        "base_commit": p.base_commit,
        "submitter": p.submitter,
        "scope": tuple(p.scope),
        "revisions_max": p.revisions_max,
        "budget": _budget(p.budget),
    }


def _budget(given: Budget | dict[str, int]) -> Budget:
    return given if isinstance(given, Budget) else Budget.model_validate(given)


def _planned(_: TaskState, told: Told, __: Any) -> dict[str, Any]:
    return {"plan_id": told.id}


def _proposed(_: TaskState, told: Told, p: Any) -> dict[str, Any]:
    return {
        "change_id": told.id,
        "revisions": p.revision,
        "head_commit": p.head_commit,
        "digest": p.digest,
        "branch": p.branch,
    }


def _reviewed(_: TaskState, told: Told, __: Any) -> dict[str, Any]:
    return {"review_id": told.id}


def _asked(_: TaskState, told: Told, p: Any) -> dict[str, Any]:
    expires = int(p.expires_at.timestamp() * 1_000_000)
    return {"approval": Approval(request_id=told.id, digest=p.digest, expires_at_us=expires)}


def _decided(decision: str, state: TaskState, told: Told, p: Any) -> dict[str, Any]:
    if state.approval is None:
        return {}
    if p.request_id != state.approval.request_id or p.digest != state.approval.digest:
        raise Illegal(f"{told.type} answers {p.request_id} over {p.digest}, asked was {state.approval.request_id}")
    update = {
        "decision": decision,
        "operator": getattr(p, "operator", ""),
        "self_approved": getattr(p, "self_approved", False),
        "decision_id": told.id,
    }
    return {"approval": state.approval.model_copy(update=update)}


def _granted(state: TaskState, told: Told, p: Any) -> dict[str, Any]:
    return _decided("granted", state, told, p)


def _denied(state: TaskState, told: Told, p: Any) -> dict[str, Any]:
    return _decided("denied", state, told, p)


def _expired(state: TaskState, told: Told, p: Any) -> dict[str, Any]:
    return _decided("expired", state, told, p)


def _released(environment: str, state: TaskState, p: Any) -> dict[str, Any]:
    return {"releases": {**state.releases, environment: Release(digest=p.digest, path=p.path)}}


def _staging(state: TaskState, _: Told, p: Any) -> dict[str, Any]:
    return _released("staging", state, p)


def _production(state: TaskState, _: Told, p: Any) -> dict[str, Any]:
    return _released("production", state, p)


def _rolled_back(state: TaskState, _: Told, p: Any) -> dict[str, Any]:
    known = state.releases.get(p.environment)
    release = known.model_copy(update={"rolled_back": True}) if known else None
    releases = {**state.releases, p.environment: release} if release else state.releases
    return {"releases": releases, "rollbacks": state.rollbacks + 1}


def _cancel_requested(_: TaskState, __: Told, p: Any) -> dict[str, Any]:
    return {"cancel_requested": True, "cancel_reason": p.reason, "cancel_operator": p.operator}


def _escalated(state: TaskState, told: Told, p: Any) -> dict[str, Any]:
    pause = Pause(
        kind="escalated",
        role=p.role,
        reason=p.reason,
        reason_code=p.reason_code,
        hint=p.hint,
        since_us=told.time_us,
    )
    return {"pause": pause, "escalations": state.escalations + 1}


def _exhausted(state: TaskState, told: Told, p: Any) -> dict[str, Any]:
    role = p.role or told.role
    reason = f"budget of {p.axis} is spent: {p.spent} of {p.limit}"
    if p.wanted:
        held = f", {p.reserved} held for calls without an outcome" if p.reserved else ""
        reason = f"{reason}{held}, and the next step may need {p.wanted}"
    pause = Pause(
        kind="budget",
        role=role,
        reason=reason,
        reason_code=f"budget_{p.axis}",
        hint=f"gavotte budget raise {state.task_id}",
        since_us=told.time_us,
    )
    return {"pause": pause}


def _resumed(state: TaskState, _: Told, p: Any) -> dict[str, Any]:
    changes: dict[str, Any] = {"pause": None, "corrections": {**state.corrections, **p.corrections}}
    revisions = p.corrections.get("revisions_max")
    if revisions is not None:
        if not (revisions.isascii() and revisions.isdigit()):
            raise Illegal(f"the correction revisions_max={revisions!r} is not a whole number")
        changes["revisions_max"] = int(revisions)
    if "title" in p.corrections:
        changes["title"] = p.corrections["title"]
    return changes


def _raised(state: TaskState, _: Told, p: Any) -> dict[str, Any]:
    paused = state.pause is not None and state.pause.kind == "budget"
    return {"budget": _budget(p.budget), **({"pause": None} if paused else {})}


def _succeeded(_: TaskState, __: Told, p: Any) -> dict[str, Any]:
    return {"outcome": p.summary or "done", "outcome_code": "succeeded"}


def _failed(_: TaskState, __: Told, p: Any) -> dict[str, Any]:
    return {"outcome": p.reason, "outcome_code": p.reason_code}


def _cancelled(_: TaskState, __: Told, p: Any) -> dict[str, Any]:
    return {"outcome": p.reason or "cancelled", "outcome_code": "cancelled"}


APPLY: Final[dict[str, Callable[[TaskState, Told, Any], dict[str, Any]]]] = {
    "TaskSubmitted": _submitted,
    "PlanProposed": _planned,
    "ChangeProposed": _proposed,
    "ReviewPassed": _reviewed,
    "ChangesRequested": _reviewed,
    "ApprovalRequested": _asked,
    "ApprovalGranted": _granted,
    "ApprovalDenied": _denied,
    "ApprovalExpired": _expired,
    "StagingDeployed": _staging,
    "ProductionDeployed": _production,
    "DeploymentRolledBack": _rolled_back,
    "TaskCancelRequested": _cancel_requested,
    "TaskEscalated": _escalated,
    "BudgetExhausted": _exhausted,
    "TaskResumed": _resumed,
    "BudgetRaised": _raised,
    "TaskSucceeded": _succeeded,
    "TaskFailed": _failed,
    "TaskCancelled": _cancelled,
}

READ: Final = {
    "TaskSubmitted": "submitter",
    "ChangeProposed": "digest",
    "ApprovalRequested": "expires_at",
    "ApprovalGranted": "self_approved",
    "ApprovalDenied": "operator",
    "ApprovalExpired": "digest",
    "StagingDeployed": "path",
    "ProductionDeployed": "path",
    "DeploymentRolledBack": "digest",
    "TaskCancelRequested": "operator",
    "TaskEscalated": "hint",
    "BudgetExhausted": "wanted",
    "TaskResumed": "corrections",
    "BudgetRaised": "budget",
    "TaskSucceeded": "summary",
    "TaskFailed": "reason_code",
    "TaskCancelled": "reason",
}
"""type -> the last field of its payload that is looked at; of types that are not here, the envelope is enough."""
