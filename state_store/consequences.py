"""The one way into a stream: what is checked before an event is appended, and what it does to the deliveries around it.

Whether the event comes from an operator, from the bus or from a role makes no difference here.
"""

from __future__ import annotations

import json
from typing import Any, Final

from contracts.envelope import Event
from contracts.errors import Conflict, Illegal, NotFound
from contracts.events import TERMINAL_TYPES
from contracts.ids import SYSTEM_TASK
from contracts.topology import CORE_AGENTS
from state_store import leases
from state_store.fold import TaskState
from state_store.port import Encoded, Recorded
from state_store.streams import Head, Streams, next_state
from state_store.transaction import Transaction

CORE_ROLES: Final = frozenset(agent.role for agent in CORE_AGENTS)
"""The roles of the dance. Others write annotations and may do so after the end."""
_CORE_ROLES_JSON: Final = json.dumps(sorted(CORE_ROLES))

DECISIONS: Final = frozenset({"ApprovalGranted", "ApprovalDenied"})


async def admit(
    tx: Transaction,
    streams: Streams,
    head: Head,
    encoded: Encoded,
    now_us: int,
    *,
    state: TaskState | None = None,
) -> Recorded:
    """Check an event, append it after the head and let it have its effect.

    `state` is the state after it, where that is known. Raises Illegal, Conflict or NotFound before anything is written.
    """
    event = encoded.event
    if event.task_id != head.task_id:
        raise Illegal(f"{event.type} {event.id} is of task {event.task_id}, not of {head.task_id}")
    if state is None:
        await check_word(tx, head, event, now_us)
        state = next_state(head, event)
    if event.type in TERMINAL_TYPES:
        await _check_effects(tx, event)
    recorded = await streams.append(tx, head, encoded, state, now_us)
    await _follow(tx, head, event, now_us)
    return recorded


async def check_word(tx: Transaction, head: Head, event: Event, now_us: int) -> None:
    """What the table of transitions cannot know: clocks, earlier decisions, kills, tasks that are not there."""
    if event.type in DECISIONS:
        check_decision(head.state, event, now_us)
    elif event.type == "TaskSubmitted" and head.sequence:
        raise Conflict(
            f"task {head.task_id} was submitted before, as event {head.state.submission_id}",
            hint=f"gavotte show {head.task_id}; another task needs another idempotency key",
        )
    elif event.type == "KillRaised":
        _check_kill(event)
    elif event.type == "KillLifted":
        await _check_lift(tx, event)
    elif head.sequence == 0 and event.type != "TaskSubmitted" and head.task_id != SYSTEM_TASK:
        raise Illegal(f"{event.type} names task {head.task_id}, which does not exist", hint="gavotte tasks lists them")


def check_decision(state: TaskState, event: Event, now_us: int) -> None:
    """A decision is the first one on its request, and in time by the store's clock."""
    approval = state.approval
    payload: Any = event.payload
    if approval is None or payload.request_id != approval.request_id:
        return
    if approval.decision in {"granted", "denied"}:
        raise Conflict(
            f"approval {approval.request_id} was {approval.decision} before by {approval.operator or 'an operator'}"
            f" (event {approval.decision_id})",
            hint=f"gavotte show {state.task_id}",
        )
    if approval.decision == "expired" or now_us >= approval.expires_at_us:
        raise Illegal(f"approval {approval.request_id} has expired", hint=f"gavotte resume {state.task_id} asks again")


def _check_kill(event: Event) -> None:
    payload: Any = event.payload
    home = (payload.target or event.task_id) if payload.scope == "task" else SYSTEM_TASK
    if event.task_id != home:
        raise Illegal(f"KillRaised of scope {payload.scope} belongs into the stream of {home}, not of {event.task_id}")


async def _check_lift(tx: Transaction, event: Event) -> None:
    payload: Any = event.payload
    found = await leases.kill_by_event(tx, payload.kill_id)
    if found is None:
        raise NotFound(
            f"no kill was raised by event {payload.kill_id}", hint="gavotte lift names those that are active"
        )
    kill, lifted_by = found
    if lifted_by is not None:
        raise Conflict(f"kill {payload.kill_id} was lifted before, by event {lifted_by}")
    home = kill.target if kill.scope == "task" else SYSTEM_TASK
    if event.task_id != home:
        raise Illegal(f"KillLifted of {payload.kill_id} belongs into the stream of {home}, not of {event.task_id}")


async def _check_effects(tx: Transaction, event: Event) -> None:
    row = await tx.row("open_effect", (event.task_id,))
    if row is not None:
        raise Conflict(
            f"task {event.task_id} cannot end while it is unknown whether {row[0]} happened",
            hint="it is asked again on the next delivery",
            code="open_effect",
        )


async def _follow(tx: Transaction, head: Head, event: Event, now_us: int) -> None:
    payload: Any = event.payload
    match event.type:
        case "TaskResumed":
            await tx.run("resume_parked", {"task_id": head.task_id, "basis": head.sequence, "now_us": now_us})
        case "BudgetRaised":
            await tx.run("raise_parked", {"task_id": head.task_id, "basis": head.sequence, "now_us": now_us})
        case "KillRaised":
            target = (payload.target or event.task_id) if payload.scope == "task" else payload.target
            await tx.run("kill_insert", (event.id, payload.scope, target, payload.reason))
        case "KillLifted":
            await tx.run("kill_lift", (event.id, payload.kill_id))
            await tx.run("lift_parked", {"now_us": now_us})
        case "TaskSucceeded" | "TaskFailed" | "TaskCancelled":
            await _end(tx, event, now_us)


async def _end(tx: Transaction, event: Event, now_us: int) -> None:
    values = ended(event.task_id, event.type, now_us)
    await tx.run("close_open", values)
    await tx.run("drop_leases", values)


def ended(task_id: str, type_: str, now_us: int) -> dict[str, Any]:
    """What `close_open` and `drop_leases` are told when an event of this type ends a task."""
    reason = f"the task ended with {type_}"
    return {"task_id": task_id, "roles": _CORE_ROLES_JSON, "reason": reason, "now_us": now_us}
