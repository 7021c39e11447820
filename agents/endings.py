"""What the worker says on its own, in the name of the task's owner: cancelled, escalated, exhausted, overdue."""

from __future__ import annotations

from contracts.codec import EPOCH, MICROSECOND
from contracts.envelope import Event
from contracts.errors import Exhausted, GavotteError
from contracts.events import (
    ApprovalExpired,
    BudgetExhausted,
    TaskCancelled,
    TaskEscalated,
    TaskFailed,
)
from state_store.fold import TaskState, owner

REASON_CHARACTERS_MAX = 2000


def cancelled(event: Event, state: TaskState) -> Event:
    """The owner's answer to TaskCancelRequested."""
    return event.cause(TaskCancelled(reason=state.cancel_reason, requested_by=state.cancel_operator))


def escalated(event: Event, role: str, error: BaseException, code: str) -> Event:
    """The task pauses for a person because this role cannot go on."""
    hint = error.hint if isinstance(error, GavotteError) else ""
    reason = error.message if isinstance(error, GavotteError) else f"{type(error).__name__}: {error}"
    return event.cause(
        TaskEscalated(
            role=role, reason=reason[:REASON_CHARACTERS_MAX], reason_code=code, hint=hint[:REASON_CHARACTERS_MAX]
        )
    )


def exhausted(event: Event, role: str, error: Exhausted) -> Event:
    """The task pauses and asks for a larger budget."""
    return event.cause(
        BudgetExhausted.model_validate(
            {
                "axis": error.axis,
                "limit": error.limit,
                "spent": error.spent,
                "reserved": error.reserved,
                "wanted": error.wanted,
                "role": role,
            }
        )
    )


def overdue(event: Event, state: TaskState) -> list[Event]:
    """What follows when a state outlasts its deadline; nothing where the task has moved on."""
    role = owner(state)
    if role is None:
        return []
    if state.pause is not None:
        reason = f"nobody answered in time: {state.pause.reason}"
        return [event.cause(TaskFailed(reason=reason, reason_code="escalation_expired"))]
    if state.step == "awaiting_approval" and state.approval is not None:
        moment = EPOCH + state.approval.expires_at_us * MICROSECOND
        reason = f"the approval of {state.approval.digest} was not given in time"
        return [
            event.cause(
                ApprovalExpired(request_id=state.approval.request_id, digest=state.approval.digest, expired_at=moment)
            ),
            event.cause(
                TaskEscalated(
                    role=role,
                    reason=reason,
                    reason_code="approval_expired",
                    hint=f"gavotte resume {state.task_id} asks again",
                )
            ),
        ]
    reason = f"{role} did not finish step {state.step} in time"
    return [
        event.cause(TaskEscalated(role=role, reason=reason, reason_code="overdue", hint=f"gavotte why {state.task_id}"))
    ]
