"""Streams of events: reading them, folding them, and the one statement that appends."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple

from contracts.codec import Codec
from contracts.envelope import Envelope, Event, role_of
from contracts.errors import Conflict, Corrupt, GavotteError
from contracts.ids import SYSTEM_TASK
from state_store.appliers import READ
from state_store.audit import GENESIS, chained_hash, recorded
from state_store.fold import FOLD_VERSION, Fold, TaskState, evolve, unknown
from state_store.port import Encoded, Recorded
from state_store.transaction import Clash, Row, Transaction

__all__ = ["Head", "Streams", "recorded"]

_ALL = sys.maxsize


_READ: Final = json.dumps(sorted(READ))


@dataclass(slots=True)
class Head:
    """The end of a task's stream within one transaction; `append` moves it on."""

    task_id: str
    sequence: int
    hash: str
    state: TaskState


class Line(NamedTuple):
    """What a view follows from, of one event: a row of `told_after`. None stands for what the fold does not read."""

    task_id: str
    sequence: int
    type: str
    version: int
    id: str
    time_us: int
    source: str | None
    correlation_id: str | None
    position: int
    recorded_at_us: int
    hash: str
    value: bytes | None

    @property
    def role(self) -> str:
        if self.source is None:
            raise ValueError(f"the source of {self.type} is not fetched: `told_after` must name it")
        return role_of(self.source)


class Story(NamedTuple):
    """A whole stream: its two ends, and the state at the later one."""

    first: Line
    last: Line
    state: TaskState


class Streams:
    """The events of all tasks. `codec` decodes what the fold needs to see."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec

    async def read(self, tx: Transaction, task_id: str, upto: int | None = None) -> list[Recorded]:
        """The events of a task in order."""
        rows = await tx.rows("stream_upto", (task_id, _ALL if upto is None else upto))
        return [recorded(row) for row in rows]

    async def event(self, tx: Transaction, event_id: str) -> Recorded | None:
        row = await tx.row("event_by_id", (event_id,))
        return None if row is None else recorded(row)

    async def tail(self, tx: Transaction, after_position: int, limit: int) -> list[Recorded]:
        """Events of all tasks behind a position."""
        return [recorded(row) for row in await tx.rows("tail", (after_position, limit))]

    async def envelopes(self, tx: Transaction, after_position: int, limit: int) -> list[tuple[int, Envelope]]:
        """The same without payloads, by their positions."""
        rows = await tx.rows("envelopes", (after_position, limit))
        return [(row[0], Envelope._make(row[1:])) for row in rows]

    async def head(self, tx: Transaction, task_id: str) -> Head:
        """The end of the stream with the state there; sequence 0 for a task that is not there."""
        row = await tx.row("head", (task_id,))
        return await self.head_from(tx, task_id, *(row or (None, None, None, None, None)))

    async def head_from(
        self,
        tx: Transaction,
        task_id: str,
        sequence: int | None,
        hash_: str | None,
        view_sequence: int | None,
        view_version: int | None,
        view_state: str | None,
    ) -> Head:
        """The same from columns that were read already: the view's state where it is of this build and at the head."""
        if sequence is None or hash_ is None:
            return Head(task_id, 0, GENESIS, unknown(task_id))
        if view_state is not None and view_sequence == sequence and view_version == FOLD_VERSION:
            return Head(task_id, sequence, hash_, TaskState.model_validate_json(view_state))
        return Head(task_id, sequence, hash_, await self.state_at(tx, task_id, sequence))

    async def state_at(self, tx: Transaction, task_id: str, sequence: int) -> TaskState:
        """The state after the event of this sequence, folded from the first; raises Corrupt where it does not fold."""
        if task_id == SYSTEM_TASK:
            return TaskState(task_id=task_id, sequence=sequence)
        fold = Fold(task_id)
        for event in await self.read(tx, task_id, sequence):
            self._fold(fold, task_id, event.envelope, event.sequence, event.value)
        return fold.state()

    async def stories(self, tx: Transaction, after: str, limit: int) -> tuple[Iterator[Story], bool]:
        """The streams behind a task in the order of ids, each from its first event to its last, about so many events at
        once; and whether these were the last streams. What the fold does not read is not fetched.
        """
        rows = await tx.rows("told_after", (_READ, after, limit))
        if ended := len(rows) < limit:
            whole = rows
        else:  # the last stream may go on behind the page: it is left for the next, unless it fills one alone
            (cut, *_) = rows[-1]
            whole = [row for row in rows if row[0] != cut] or await tx.rows("told_of", (_READ, cut))
        return (self._story(task_id, own) for task_id, own in groupby(whole, key=itemgetter(0))), ended

    def _story(self, task_id: str, rows: Iterable[Row]) -> Story:
        fold, first = Fold(task_id), None
        for line in map(Line._make, rows):
            first = first or line
            self._fold(fold, task_id, line, line.sequence, line.value)
        assert first is not None  # noqa: S101  # a group has a row
        return Story(first, line, fold.state())

    def _fold(self, fold: Fold, task_id: str, told: Line | Envelope, sequence: int, value: bytes | None) -> None:
        try:
            last = READ.get(told.type)
            payload = last and self.codec.decode_first(told.type, told.version, value or b"", last)
            fold.add(told, payload, sequence)
        except GavotteError as error:
            raise Corrupt(
                f"event {sequence} of task {task_id} does not fold: {error.message}",
                hint="gavotte audit verify",
            ) from error

    async def append(self, tx: Transaction, head: Head, encoded: Encoded, state: TaskState, now_us: int) -> Recorded:
        """Write one event after the head, which moves on to `state`."""
        e, prev_hash = encoded.event.envelope, head.hash
        try:
            position = await tx.insert("event_insert", next_row(head, encoded, state, now_us))
        except Clash as error:
            raise Conflict(f"{e.type} {e.id} of task {e.task_id} cannot be recorded: {error}") from error
        return Recorded(e, encoded.value, head.sequence, position, now_us, prev_hash, head.hash)


def next_row(head: Head, encoded: Encoded, state: TaskState, now_us: int) -> tuple[Any, ...]:
    """The row of an event after the head, which moves on to `state`."""
    e, prev_hash, sequence = encoded.event.envelope, head.hash, head.sequence + 1
    hash_ = chained_hash(prev_hash, e, sequence, now_us, encoded.value)
    head.sequence, head.hash, head.state = sequence, hash_, state
    return (
        *(e.id, e.task_id, sequence, e.type, e.version, e.source, e.correlation_id, e.causation_id, e.time_us),
        *(e.traceparent, e.tracestate, e.tenant, e.trust, now_us, prev_hash, hash_, encoded.value),
    )


def next_state(head: Head, event: Event) -> TaskState:
    """The state after this event at the head; raises Illegal. The stream of the system is not folded."""
    if head.task_id == SYSTEM_TASK:
        return head.state.model_copy(update={"sequence": head.sequence + 1})
    return evolve(head.state, event, head.sequence + 1)
