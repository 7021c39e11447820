"""Appending what operators and clients say: idempotent, and told apart from what was overtaken."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from contracts.errors import Conflict
from state_store import views
from state_store.consequences import admit, check_word
from state_store.fold import MOVELESS, moves
from state_store.port import Encoded, Recorded
from state_store.queries import SQL
from state_store.streams import Head, Streams


def append(
    conn: sqlite3.Connection,
    streams: Streams,
    events: Sequence[Encoded],
    expected_sequence: int | None,
    now_us: int,
) -> list[Recorded]:
    """Append all of the events or none. Raises Conflict, Illegal or NotFound."""
    return [_append_one(conn, streams, encoded, expected_sequence, now_us) for encoded in events]


def _append_one(
    conn: sqlite3.Connection, streams: Streams, encoded: Encoded, expected_sequence: int | None, now_us: int
) -> Recorded:
    event = encoded.event
    known = streams.event(conn, event.id)
    if known is not None:
        if known.value != encoded.value or known.envelope.type != event.type:
            raise Conflict(f"event {event.id} is recorded with other content")
        return known
    head = streams.head(conn, event.task_id)
    if event.type == "TaskSubmitted" and head.sequence:
        first = streams.event(conn, head.state.submission_id or "")
        if first is not None and first.value == encoded.value:
            return first
    check_word(conn, head, event, now_us)
    if expected_sequence is not None:
        _check_expected(conn, head, encoded, expected_sequence)
    recorded = admit(conn, streams, head, encoded, now_us)
    views.save(conn, head, now_us)
    return recorded


def _check_expected(conn: sqlite3.Connection, head: Head, encoded: Encoded, expected: int) -> None:
    """That nothing which moves the task came after what the decision was made on."""
    event = encoded.event
    if expected > head.sequence:
        raise Conflict(f"{event.type} was decided on event {expected}, task {head.task_id} has only {head.sequence}")
    for type_, event_id, source in conn.execute(SQL["moved_since"], (head.task_id, expected)):
        if moves(type_) and type_ not in MOVELESS:
            raise Conflict(
                f"{event.type} was decided on event {expected}, since then {source} said {type_} ({event_id})",
                hint=f"gavotte show {head.task_id}, then decide anew",
            )
