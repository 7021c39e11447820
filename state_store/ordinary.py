"""The ordinary case, for many deliveries at once: the event is recorded, nobody else is at work, nothing stands open.

The rules (`state_store.inbox`) judge one delivery by some ten statements, and most deliveries give them nothing to judge.
Those are found here by one query. What follows from them is prepared outside of any transaction, since it depends on
nothing but what was seen: states, hashes, rows. The transaction only writes, a few statements for all, into places that
must be free: the next sequence of the task, the delivery's row. Where anything came between, a place is taken, nothing
is written, and the rules judge each delivery apart. For SQLite, whose transactions are alone in their file.

A bus that lives in the same file (`News`) has its records written by the same transaction: what is recorded is told.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, NamedTuple, Protocol

from contracts.envelope import Envelope
from contracts.events import TERMINAL_TYPES
from contracts.ids import SYSTEM_TASK
from state_store import inbox
from state_store.audit import GENESIS
from state_store.consequences import CORE_ROLES, ended
from state_store.fold import FOLD_VERSION, TaskState, evolve, unknown
from state_store.port import Claim, Commit, Committed, Encoded, Recorded
from state_store.queries import ORDINARY, SQL
from state_store.streams import Head, next_row
from state_store.transaction import Clash
from state_store.views import view_row, view_values

EVENT_COLUMNS: Final = 17
"""Of the row of an event, as `next_row` makes it."""


class News(Protocol):
    """A bus in the same file, as the store sees it."""

    def encloses(self, events: Iterable[Envelope]) -> bool:
        """Whether it can write the news of these events within a change of the store."""
        ...

    def enclose(self, conn: sqlite3.Connection, events: Iterable[tuple[Envelope, int]]) -> Any:
        """Write the news of these events, by their positions; what `tell` is to be given after the commit."""
        ...

    def tell(self, enclosed: Any) -> None:
        """The commit is done: wake who listens."""
        ...


class Sight(NamedTuple):
    """What a claim saw: the consumed event's type and place, and the end of its task."""

    type: str
    sequence: int
    head: Head


@dataclass(slots=True)
class Draft:
    """A commit, prepared: what it writes, but for the positions that its events will get."""

    request: Commit
    sight: Sight
    head: Head
    """The end of the task when all is written."""
    rows: list[tuple[Any, ...]]
    ends: str
    """The type of the event that ends the task, or empty."""
    view: dict[str, Any] | None = None
    """The view of the task at its new end, where that moved."""
    turned: bool = False
    """Whether people see another status or title in it than before."""


def claims(conn: sqlite3.Connection, role: str, event_ids: Sequence[str]) -> dict[str, Claim]:
    """event id -> claim, of those that are free without a question."""
    keys = {"role": role, "events": json.dumps(event_ids), "fold_version": FOLD_VERSION}
    return free_claims(role, conn.execute(ORDINARY["ready"], keys))


def free_claims(role: str, rows: Iterable[Sequence[Any]]) -> dict[str, Claim]:
    """event id -> claim, from what `ready` found."""
    found = {}
    for event_id, sequence, type_, task_id, head_sequence, head_hash, text, kill_seq in rows:
        state = TaskState.model_validate_json(text)
        if state.ended and role in CORE_ROLES:
            continue
        sight = Sight(type_, sequence, Head(task_id, head_sequence, head_hash, state))
        found[event_id] = Claim(
            "free", state=state, basis=head_sequence, sequence=sequence, kill_seq=kill_seq, seen=sight
        )
    return found


def draft(request: Commit, now_us: int) -> Draft | None:
    """The commit prepared, or None where the rules are to judge it."""
    d, sight = request.delivery, request.delivery.seen
    if not isinstance(sight, Sight) or request.status != "done" or request.consumed is not None:
        return None
    if d.token or d.event_id != d.cause_id or d.task_id != sight.head.task_id:
        return None
    states, refusal = inbox.judge(sight.head, d, request.emitted)
    if refusal or any(encoded.event.task_id != d.task_id for encoded in request.emitted):
        return None
    seen = sight.head
    made = Draft(request, sight, Head(seen.task_id, seen.sequence, seen.hash, seen.state), [], "")
    for encoded, state in zip(request.emitted, states, strict=True):
        made.rows.append(next_row(made.head, encoded, state, now_us))
        if encoded.event.type in TERMINAL_TYPES:
            made.ends = encoded.event.type
    if made.rows:
        made.view = view = view_row(made.head, now_us)
        made.turned = (view["status"], view["title"]) != (seen.state.status, seen.state.title)
    return made


def write(conn: sqlite3.Connection, drafts: Sequence[Draft], now_us: int, news: News | None = None) -> tuple[int, Any]:
    """All of them as one change: the position before the first event, and what `news` is to tell.

    Raises Clash, and then nothing of it may stay: the caller undoes what was written.
    """
    _check_obstacles(conn, drafts)
    (before,) = conn.execute(SQL["last_position"]).fetchone()
    try:
        conn.executemany(SQL["event_insert"], [row for each in drafts for row in each.rows])
        conn.executemany(ORDINARY["view_moved"], [each.view for each in drafts if each.view and not each.turned])
        conn.executemany(SQL["view_update"], [each.view for each in drafts if each.view and each.turned])
        _end(conn, [each for each in drafts if each.ends], now_us)
        deliveries, position = [], before
        for each in drafts:
            deliveries.append(_delivery_row(each, position, now_us, told=news is not None))
            position += len(each.rows)
        conn.executemany(ORDINARY["delivery_insert"], deliveries)
    except sqlite3.IntegrityError as error:
        raise Clash(str(error)) from error
    return before, news.enclose(conn, zip(envelopes(drafts), count(before + 1))) if news is not None else None


def envelopes(drafts: Iterable[Draft]) -> Iterable[Envelope]:
    """Those of all events that are to be recorded, in order."""
    return (encoded.event.envelope for each in drafts for encoded in each.request.emitted)


def begins_task(encoded: Encoded) -> bool:
    """Whether an event can only be the first of its task."""
    return encoded.event.type == "TaskSubmitted" and encoded.event.task_id != SYSTEM_TASK


def first_row(encoded: Encoded, now_us: int) -> tuple[Head, tuple[Any, ...]]:
    """The first event of a task: the end of its stream, and the row."""
    event = encoded.event
    head = Head(event.task_id, 0, GENESIS, unknown(event.task_id))
    return head, next_row(head, encoded, evolve(head.state, event, 1), now_us)


def write_first(
    conn: sqlite3.Connection,
    events: Sequence[Encoded],
    made: Sequence[tuple[Head, tuple[Any, ...]]],
    now_us: int,
    news: News | None = None,
) -> tuple[int, Any]:
    """The first events of many tasks: what `write` gives. Raises Clash likewise: one of them, or its task, was there."""
    (before,) = conn.execute(SQL["last_position"]).fetchone()
    views = [
        (before + index, encoded.event.envelope.correlation_id, *view_values(head, now_us))
        for index, (encoded, (head, _)) in enumerate(zip(events, made, strict=True), 1)
    ]
    try:
        conn.executemany(SQL["event_insert"], [row for _, row in made])
        conn.executemany(ORDINARY["view_first"], views)
    except sqlite3.IntegrityError as error:
        raise Clash(str(error)) from error
    recorded = zip((encoded.event.envelope for encoded in events), count(before + 1))
    return before, news.enclose(conn, recorded) if news is not None else None


def _check_obstacles(conn: sqlite3.Connection, drafts: Sequence[Draft]) -> None:
    obstacles = {
        "role": drafts[0].request.delivery.role,
        "kill_seq": min(each.request.delivery.kill_seq for each in drafts),
        "tasks": json.dumps([each.head.task_id for each in drafts]),
        "ending": json.dumps([each.head.task_id for each in drafts if each.ends]),
    }
    if conn.execute(ORDINARY["obstacles"], obstacles).fetchone()[0]:
        raise Clash("something came between")


def _end(conn: sqlite3.Connection, drafts: Sequence[Draft], now_us: int) -> None:
    """What follows from the end of a task, as `state_store.consequences` has it."""
    if drafts:
        conn.executemany(SQL["close_open"], [ended(each.head.task_id, each.ends, now_us) for each in drafts])
        conn.executemany(SQL["drop_leases"], [ended(each.head.task_id, each.ends, now_us) for each in drafts])


def committed(each: Draft, position: int, *, told: bool = False) -> Committed:
    """What became of a draft that was written behind this position."""
    events = tuple(
        as_recorded(encoded, row, position + index, told=told)
        for index, (encoded, row) in enumerate(zip(each.request.emitted, each.rows, strict=True), 1)
    )
    return Committed("recorded", events)


def as_recorded(encoded: Encoded, row: tuple[Any, ...], position: int, *, told: bool = False) -> Recorded:
    return Recorded(encoded.event.envelope, encoded.value, row[2], position, row[13], row[14], row[15], told)


def _delivery_row(each: Draft, position: int, now_us: int, *, told: bool) -> tuple[Any, ...]:
    d, emitted = each.request.delivery, len(each.rows)
    return (
        *(d.role, d.event_id, d.task_id, d.cause_id, each.sight.type, each.sight.sequence, d.basis),
        *(each.request.attempt, each.request.reason, each.request.reason_code, d.kill_seq),
        *((int(told), position + 1, position + emitted) if emitted else (1, None, None)),
        *(d.holder, now_us),
    )
