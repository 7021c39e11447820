"""Appending what operators and clients say: idempotent, and told apart from what was overtaken."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.errors import Conflict
from state_store import views
from state_store.consequences import admit, check_word
from state_store.fold import MOVELESS, moves
from state_store.port import Encoded, Recorded
from state_store.streams import Head, Streams
from state_store.transaction import Transaction


async def append(
    tx: Transaction,
    streams: Streams,
    events: Sequence[Encoded],
    expected_sequence: int | None,
    now_us: int,
) -> list[Recorded]:
    """Append all of the events or none. Raises Conflict, Illegal or NotFound."""
    return [await _append_one(tx, streams, encoded, expected_sequence, now_us) for encoded in events]


async def _append_one(
    tx: Transaction, streams: Streams, encoded: Encoded, expected_sequence: int | None, now_us: int
) -> Recorded:
    event = encoded.event
    known = await streams.event(tx, event.id)
    if known is not None:
        if known.value != encoded.value or known.envelope.type != event.type:
            raise Conflict(f"event {event.id} is recorded with other content")
        return known
    head = await streams.head(tx, event.task_id)
    if event.type == "TaskSubmitted" and head.sequence:
        first = await streams.event(tx, head.state.submission_id or "")
        if first is not None and first.value == encoded.value:
            return first
    await check_word(tx, head, event, now_us)
    if expected_sequence is not None:
        await _check_expected(tx, head, encoded, expected_sequence)
    recorded = await admit(tx, streams, head, encoded, now_us)
    await views.save(tx, head, now_us)
    return recorded


async def _check_expected(tx: Transaction, head: Head, encoded: Encoded, expected: int) -> None:
    """That nothing which moves the task came after what the decision was made on."""
    event = encoded.event
    if expected > head.sequence:
        raise Conflict(f"{event.type} was decided on event {expected}, task {head.task_id} has only {head.sequence}")
    for type_, event_id, source in await tx.rows("moved_since", (head.task_id, expected)):
        if moves(type_) and type_ not in MOVELESS:
            raise Conflict(
                f"{event.type} was decided on event {expected}, since then {source} said {type_} ({event_id})",
                hint=f"gavotte show {head.task_id}, then decide anew",
            )
