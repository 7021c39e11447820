"""Follows the events of one task as they are recorded, from the store alone: losing the bus's news only delays."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from console.timeline import Line, line_of

if TYPE_CHECKING:
    from agents.wiring import Runtime
    from state_store.fold import TaskState
    from state_store.port import Recorded

PERSON_STATUSES: Final = frozenset({"waiting", "escalated"})


@dataclass(frozen=True)
class Seen:
    """An event with its payload (None where this build does not know the type) and the state right after it."""

    recorded: Recorded
    payload: Any
    state: TaskState
    plain: dict[str, Any] | None = None
    """Its fields where there is no class for them: a further agent's event."""

    def line(self, me: str = "") -> Line:
        """The event in words; `me` is the operator who reads it."""
        envelope = self.recorded.envelope
        return line_of(envelope.type, envelope.role, self.payload or self.plain, me=me)


def decoded(runtime: Runtime, recorded: Recorded) -> Any:
    """The payload of a stored event; None where this build has no class for it."""
    from contracts.events import latest_version

    latest = latest_version(recorded.envelope.type)
    if latest is None or recorded.envelope.version > latest:
        return None
    return runtime.codec.decode(recorded.envelope, recorded.value).payload


def plain(runtime: Runtime, recorded: Recorded) -> dict[str, Any] | None:
    """The fields of a stored event by its own schema alone; None where that is not known here."""
    from contracts.errors import Skew

    try:
        fields: dict[str, Any] = runtime.codec.decode_plain(recorded.value)[2]
    except Skew:
        return None
    return fields


def seen_of(runtime: Runtime, stream: list[Recorded], state: TaskState) -> list[Seen]:
    """Fold recorded events onto a state, one by one."""
    from contracts.envelope import Event
    from state_store.fold import evolve, moves

    found = []
    for recorded in stream:
        payload = decoded(runtime, recorded)
        if moves(recorded.envelope.type) and payload is not None:
            state = evolve(state, Event(recorded.envelope, payload), recorded.sequence)
        else:
            state = state.model_copy(update={"sequence": recorded.sequence})
        found.append(Seen(recorded, payload, state, plain(runtime, recorded) if payload is None else None))
    return found


async def history(runtime: Runtime, task_id: str, *, upto: int | None = None) -> list[Seen]:
    """All events of a task so far, in order."""
    from state_store.fold import TaskState

    return seen_of(runtime, await runtime.store.stream(task_id, upto=upto), TaskState(task_id=task_id))


async def follow(runtime: Runtime, task_id: str) -> AsyncGenerator[Seen, None]:
    """The events of a task as they come, for ever; the caller leaves when it has seen enough."""
    from state_store.fold import TaskState

    state, position = TaskState(task_id=task_id), 0
    while True:
        position = await runtime.store.news(position)
        stream = await runtime.store.stream(task_id)
        new = [recorded for recorded in stream if recorded.sequence > state.sequence]
        for seen in seen_of(runtime, new, state):
            state = seen.state
            yield seen
