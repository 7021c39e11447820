"""The one way into a stream: what is checked before an event is appended, and what it does to the deliveries around it.

Whether the event comes from an operator, from the bus or from a role makes no difference here.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Final

from contracts.envelope import Event
from contracts.errors import Conflict, Illegal, NotFound
from contracts.events import TERMINAL_TYPES
from contracts.ids import SYSTEM_TASK
from contracts.topology import CORE_AGENTS
from state_store import leases
from state_store.fold import TaskState
from state_store.port import Encoded, Recorded
from state_store.queries import SQL
from state_store.streams import Head, Streams, next_state

CORE_ROLES: Final = frozenset(agent.role for agent in CORE_AGENTS)
"""The roles of the dance. Others write annotations and may do so after the end."""
_CORE_ROLES_JSON: Final = json.dumps(sorted(CORE_ROLES))

DECISIONS: Final = frozenset({"ApprovalGranted", "ApprovalDenied"})


def admit(
    conn: sqlite3.Connection,
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
        check_word(conn, head, event, now_us)
        state = next_state(head, event)
    if event.type in TERMINAL_TYPES:
        _check_effects(conn, event)
    recorded = streams.append(conn, head, encoded, state, now_us)
    _follow(conn, head, event, now_us)
    return recorded


def check_word(conn: sqlite3.Connection, head: Head, event: Event, now_us: int) -> None:
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
        _check_lift(conn, event)
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


def _check_lift(conn: sqlite3.Connection, event: Event) -> None:
    payload: Any = event.payload
    found = leases.kill_by_event(conn, payload.kill_id)
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


def _check_effects(conn: sqlite3.Connection, event: Event) -> None:
    row = conn.execute(SQL["open_effect"], (event.task_id,)).fetchone()
    if row is not None:
        raise Conflict(
            f"task {event.task_id} cannot end while it is unknown whether {row[0]} happened",
            hint="it is asked again on the next delivery",
            code="open_effect",
        )


def _follow(conn: sqlite3.Connection, head: Head, event: Event, now_us: int) -> None:
    payload: Any = event.payload
    match event.type:
        case "TaskResumed":
            conn.execute(SQL["resume_parked"], {"task_id": head.task_id, "basis": head.sequence, "now_us": now_us})
        case "BudgetRaised":
            conn.execute(SQL["raise_parked"], {"task_id": head.task_id, "basis": head.sequence, "now_us": now_us})
        case "KillRaised":
            target = (payload.target or event.task_id) if payload.scope == "task" else payload.target
            conn.execute(SQL["kill_insert"], (event.id, payload.scope, target, payload.reason))
        case "KillLifted":
            conn.execute(SQL["kill_lift"], (event.id, payload.kill_id))
            conn.execute(SQL["lift_parked"], {"now_us": now_us})
        case "TaskSucceeded" | "TaskFailed" | "TaskCancelled":
            _end(conn, event, now_us)


def _end(conn: sqlite3.Connection, event: Event, now_us: int) -> None:
    conn.execute(
        SQL["close_open"],
        {
            "task_id": event.task_id,
            "roles": _CORE_ROLES_JSON,
            "reason": f"the task ended with {event.type}",
            "now_us": now_us,
        },
    )
    conn.execute(SQL["drop_leases"], {"task_id": event.task_id, "roles": _CORE_ROLES_JSON})
