"""The inbox: one row per role and event, and the three questions of a delivery: may I, I begin, this is what came of it.

`claim` reads. `start` makes a beginning durable. `commit` is stop 5: everything a delivery changes, judged on the head
of the task as it is then. Each of the three looks once (`context`), and writes what follows from that look.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from contracts.envelope import Envelope
from contracts.errors import Conflict, Illegal, NotFound
from contracts.ids import SYSTEM_TASK
from contracts.topology import HEARD_BY_ALL
from state_store import leases, views
from state_store.consequences import CORE_ROLES, admit, check_word
from state_store.fold import ANYWHERE, PAUSES, TaskState, deadline_id, evolve, owner
from state_store.journal import Journal
from state_store.leases import Leases
from state_store.port import (
    Claim,
    Commit,
    Committed,
    Delivery,
    DeliveryStatus,
    Encoded,
    InboxRow,
    Recorded,
    Started,
    Step,
)
from state_store.streams import Head, Streams, next_state, recorded
from state_store.transaction import Transaction

CLOSED: Final = frozenset({"superseded", "dead", "parked"})
_CONTROL_JSON: Final = json.dumps(HEARD_BY_ALL)
_OWNERS_WORDS: Final = frozenset(ANYWHERE) | frozenset(PAUSES)
"""What the owner of a task alone may say: legal in every step, so the table of transitions does not hold it back."""
_LAST: Final = 1 << 62
"""Behind every sequence: where an event stands that is not recorded yet."""


class Context(NamedTuple):
    """One look at all that a delivery depends on; the fields of what is not there are None."""

    status: str | None
    basis: int | None
    starts: int | None
    attempt: int | None
    due_us: int | None
    published: int | None
    emitted_from: int | None
    emitted_upto: int | None
    reason: str | None
    reason_code: str | None
    token: int | None
    lease_event: str | None
    lease_holder: str | None
    lease_expires_us: int | None
    sequence: int | None
    """Of the consumed event in its task; None where it is not recorded."""
    type: str | None
    head_sequence: int | None
    head_hash: str | None
    view_sequence: int | None
    view_version: int | None
    view_state: str | None
    others_open: int
    """Whether this role has anything else unfinished for the task."""
    kill_seq: int
    killed_by: int | None
    """The newest kill that holds and covers this role and task."""


class Inbox:
    """Deliveries of all roles. `streams` reads and appends, `rules` are those of leases."""

    def __init__(self, streams: Streams, journal: Journal, rules: Leases) -> None:
        self.streams = streams
        self.journal = journal
        self.rules = rules

    # -- may I -------------------------------------------------------------------------------------------------------

    async def claim(
        self,
        tx: Transaction,
        role: str,
        event: Encoded | None,
        envelope: Envelope,
        inbox_id: str | None,
        holder: str = "",
    ) -> Claim:
        """Stop 3."""
        task_id, cause_id = envelope.task_id, envelope.id
        key = inbox_id or cause_id
        c = await _context(tx, role, key, cause_id, task_id)
        if c.status == "done":
            unpublished = () if c.published else await self._emitted(tx, c, task_id)
            return Claim("done", basis=c.basis or 0, attempt=c.attempt or 0, unpublished=unpublished)
        if c.status in CLOSED:
            unpublished = () if c.published else await self._emitted(tx, c, task_id)
            return Claim("closed", detail=c.reason or c.status or "", unpublished=unpublished)
        known = c.sequence is not None
        own = holder != "" and (c.lease_holder, c.lease_event) == (holder, key)
        wait = "" if own else await self._wait(tx, c, role, key, task_id, envelope.type, by_deadline=key != cause_id)
        if wait:
            return Claim("waiting", basis=c.basis or 0, known=known, detail=wait)
        return await self._free(tx, c, role, event, envelope, key)

    async def _wait(
        self, tx: Transaction, c: Context, role: str, key: str, task_id: str, type_: str, *, by_deadline: bool
    ) -> str:
        """Why this delivery must wait, or nothing."""
        if self._leased(tx, c):
            return f"{c.lease_holder} works on this task for {role}"
        if c.status == "retry" and (c.due_us or 0) > tx.now_us():
            return "its next attempt is not due yet"
        if task_id == SYSTEM_TASK or not c.others_open:
            return ""
        passes = by_deadline or type_ in HEARD_BY_ALL
        earlier = await tx.row(
            "earlier_begun" if passes else "earlier_open",
            {
                "role": role,
                "task_id": task_id,
                "sequence": _LAST if c.sequence is None else c.sequence,
                "event_id": key,
                "control": _CONTROL_JSON,
            },
        )
        return f"event {earlier[0]} of this task comes first ({earlier[1]})" if earlier else ""

    async def _free(
        self, tx: Transaction, c: Context, role: str, event: Encoded | None, envelope: Envelope, key: str
    ) -> Claim:
        task_id, known = envelope.task_id, c.sequence is not None
        if not known and event is None:
            return Claim("free", known=False, starts=c.starts or 0, attempt=c.attempt or 0, kill_seq=c.kill_seq)
        head = await self._head(tx, c, task_id)
        if head.state.ended and role in CORE_ROLES:
            return Claim("closed", known=known, detail=f"the task has ended: {head.state.step}")
        if key != envelope.id and deadline_id(head.state) != key:
            return Claim("closed", known=known, detail="the task has moved on")
        basis = c.basis or 0
        if basis and (known or basis <= head.sequence):
            state = head.state if basis == head.sequence else await self.streams.state_at(tx, task_id, basis)
        elif known:
            basis, state = head.sequence, head.state
        else:
            assert event is not None  # noqa: S101  # checked above
            try:
                await check_word(tx, head, event.event, tx.now_us())
                basis, state = head.sequence + 1, next_state(head, event.event)
            except (Conflict, NotFound) as error:
                return Claim("closed", known=False, detail=error.message)
        return Claim(
            "free",
            state=state,
            basis=basis,
            sequence=c.sequence or basis,
            known=known,
            starts=c.starts or 0,
            attempt=c.attempt or 0,
            steps=await self.journal.of_delivery(tx, task_id, envelope.id, role) if c.status else (),
            unpublished=() if c.published or not c.status else await self._emitted(tx, c, task_id),
            kill_seq=c.kill_seq,
            killed_by=await leases.kill_reason(tx, c.killed_by) if c.killed_by else "",
        )

    # -- I begin -----------------------------------------------------------------------------------------------------

    async def start(self, tx: Transaction, d: Delivery, consumed: Encoded | None, *, waiting: bool) -> Started:
        """The durable start, or the note that the event waits its turn."""
        c = await _context(tx, d.role, d.event_id, d.cause_id, d.task_id)
        if c.status == "done" or c.status in CLOSED:
            return Started("closed", detail=c.reason or c.status or "")
        if not waiting and _newly_killed(c, d):
            return Started("killed", detail=await leases.kill_reason(tx, c.killed_by or 0))
        head = await self._head(tx, c, d.task_id)
        if head.state.ended and d.role in CORE_ROLES:
            return Started("closed", detail=f"the task has ended: {head.state.step}")
        try:
            c = await self._record_consumed(tx, head, c, consumed)
        except (Conflict, NotFound) as error:
            return Started("closed", detail=error.message)
        if not waiting and c.status == "started" and _leased_by(c, d):
            return await self._started_before(tx, d, c)
        type_ = c.type or ""
        wait = await self._wait(tx, c, d.role, d.event_id, d.task_id, type_, by_deadline=d.event_id != d.cause_id)
        if waiting or wait:
            if c.status is None:
                await self._put(tx, d, c, "waiting", reason=wait)
            return Started("waiting", starts=c.starts or 0, detail=wait)
        starts = (c.starts or 0) + 1
        token = await self.rules.take(tx, d)
        started = c._replace(starts=starts, basis=c.basis or max(d.basis, c.sequence or 0))
        await self._put(tx, d, started, "started")
        return Started("started", token, starts, await self._steps(tx, d))

    async def _started_before(self, tx: Transaction, d: Delivery, c: Context) -> Started:
        """The same beginning asked for again: the lease lives on; a basis that was not known then is known now."""
        await self.rules.renew(tx, d.holder, d.role)
        if not c.basis:
            await self._put(tx, d, c._replace(basis=max(d.basis, c.sequence or 0)), "started")
        return Started("started", c.token or 0, c.starts or 0, await self._steps(tx, d))

    async def _steps(self, tx: Transaction, d: Delivery) -> tuple[Step, ...]:
        return await self.journal.of_delivery(tx, d.task_id, d.cause_id, d.role)

    # -- this is what came of it -------------------------------------------------------------------------------------

    async def commit(self, tx: Transaction, request: Commit) -> Committed:
        """Stop 5."""
        d = request.delivery
        c = await _context(tx, d.role, d.event_id, d.cause_id, d.task_id)
        if c.status == "done":
            return Committed("repeated", await self._emitted(tx, c, d.task_id))
        if c.status == "superseded":
            return Committed("superseded", detail=c.reason or "")
        fenced = self._fenced(tx, c, d)
        if fenced:
            return Committed("fenced", detail=fenced)
        head = await self._head(tx, c, d.task_id)
        try:
            c = await self._record_consumed(tx, head, c, request.consumed)
        except (Conflict, NotFound) as error:
            return await self._supersede(tx, d, c, error.message)
        over = head.state.ended and d.role in CORE_ROLES  # what ended is not parked: no lift would bring it back
        if _newly_killed(c, d) and not over:
            reason = await leases.kill_reason(tx, c.killed_by or 0)
            await self._close(tx, d, c, "parked", reason=reason, reason_code="killed")
            return Committed("killed", detail=reason)
        states, refusal = judge(head, d, request.emitted)
        if not refusal and over and request.status != "done":
            refusal = f"the task has ended: {head.state.step}"
        if refusal:
            return await self._supersede(tx, d, c, refusal)
        return await self._accept(tx, request, c, head, states)

    async def _accept(
        self, tx: Transaction, request: Commit, c: Context, head: Head, states: Sequence[TaskState]
    ) -> Committed:
        d, now_us, before = request.delivery, tx.now_us(), head.sequence
        emitted = [
            await admit(tx, self.streams, head, encoded, now_us, state=state)
            for encoded, state in zip(request.emitted, states, strict=True)
        ]
        if head.sequence != before:
            await views.save(tx, head, now_us)
        status: DeliveryStatus = request.status
        due_us = request.due_us if status == "retry" else None
        if status == "parked" and request.reason_code == "killed" and not c.killed_by:
            status, due_us = "retry", now_us  # the kill was lifted meanwhile: nobody else would reopen it
        if emitted:
            c = c._replace(published=0, emitted_from=emitted[0].position, emitted_upto=emitted[-1].position)
        else:
            c = c._replace(published=1, emitted_from=None, emitted_upto=None)
        starts = 0 if status == "retry" else c.starts  # whoever lived to put it aside has not died of it
        c = c._replace(attempt=request.attempt or c.attempt or 0, starts=starts)
        await self._close(tx, d, c, status, reason=request.reason, reason_code=request.reason_code, due_us=due_us)
        return Committed("recorded", tuple(emitted))

    async def _record_consumed(self, tx: Transaction, head: Head, c: Context, consumed: Encoded | None) -> Context:
        """Append the consumed event where it is unknown; the look afterwards. Raises Conflict or NotFound."""
        if consumed is None or c.sequence is not None:
            return c
        now_us = tx.now_us()
        event = await admit(tx, self.streams, head, consumed, now_us)
        await views.save(tx, head, now_us)
        return c._replace(sequence=event.sequence, type=event.envelope.type)

    def _fenced(self, tx: Transaction, c: Context, d: Delivery) -> str:
        """Why this worker may not write any more, or nothing."""
        if d.token:
            return "" if c.token == d.token else f"another worker holds the task (token {c.token}, not {d.token})"
        if c.status in {"parked", "dead"}:
            return f"the delivery was {c.status} meanwhile"
        if self._leased(tx, c) and not _leased_by(c, d):
            return f"{c.lease_holder} works on this task for {d.role}"
        return ""

    def _leased(self, tx: Transaction, c: Context) -> bool:
        if c.lease_holder is None or c.lease_expires_us is None:
            return False
        return self.rules.holds(tx, c.lease_holder, c.lease_expires_us)

    async def _supersede(self, tx: Transaction, d: Delivery, c: Context, reason: str) -> Committed:
        await self._close(tx, d, c, "superseded", reason=reason, reason_code="conflict")
        return Committed("superseded", detail=reason)

    async def _close(
        self,
        tx: Transaction,
        d: Delivery,
        c: Context,
        status: DeliveryStatus,
        *,
        reason: str = "",
        reason_code: str = "",
        due_us: int | None = None,
    ) -> None:
        await self._put(tx, d, c, status, reason=reason, reason_code=reason_code, due_us=due_us)
        if c.token and c.lease_event == d.event_id:
            await leases.release(tx, c.token)

    async def _put(
        self,
        tx: Transaction,
        d: Delivery,
        c: Context,
        status: DeliveryStatus,
        *,
        reason: str = "",
        reason_code: str = "",
        due_us: int | None = None,
    ) -> None:
        basis = 0 if status == "waiting" else c.basis or d.basis
        await tx.run(
            "delivery_put",
            (
                d.role,
                d.event_id,
                d.task_id,
                d.cause_id,
                c.type or "",
                c.sequence,
                status,
                basis,
                c.starts or 0,
                c.attempt or 0,
                due_us,
                reason,
                reason_code,
                d.kill_seq,
                c.published or 0,
                c.emitted_from,
                c.emitted_upto,
                d.holder,
                tx.now_us(),
            ),
        )

    async def _head(self, tx: Transaction, c: Context, task_id: str) -> Head:
        return await self.streams.head_from(
            tx, task_id, c.head_sequence, c.head_hash, c.view_sequence, c.view_version, c.view_state
        )

    async def _emitted(self, tx: Transaction, c: Context, task_id: str) -> tuple[Recorded, ...]:
        if c.emitted_from is None:
            return ()
        rows = await tx.rows("events_between", (c.emitted_from, c.emitted_upto, task_id))
        return tuple(recorded(row) for row in rows)


async def _context(tx: Transaction, role: str, event_id: str, cause_id: str, task_id: str) -> Context:
    keys = {"role": role, "event_id": event_id, "cause_id": cause_id, "task_id": task_id}
    return Context._make(await tx.one("context", keys))


def _leased_by(c: Context, d: Delivery) -> bool:
    """Whether the lease is this holder's, for this very delivery."""
    return c.lease_event == d.event_id and c.lease_holder == d.holder


def _newly_killed(c: Context, d: Delivery) -> bool:
    """Whether a kill that covers this delivery came after it began."""
    return c.killed_by is not None and c.killed_by > d.kill_seq


def judge(head: Head, d: Delivery, emitted: Sequence[Encoded]) -> tuple[list[TaskState], str]:
    """The states after each emitted event on the head, and why one is refused, or nothing."""
    if not emitted:
        return [], ""
    if d.event_id != d.cause_id and deadline_id(head.state) != d.event_id:
        return [], "the task has moved on since the deadline was set"
    states: list[TaskState] = []
    state, turn = head.state, owner(head.state)
    for encoded in emitted:
        event = encoded.event
        if event.type in _OWNERS_WORDS and turn != d.role:
            return states, f"{event.type} is for {turn or 'nobody'} to say now, not for {d.role}"
        try:
            state = evolve(state, event, state.sequence + 1)
        except Illegal as error:
            return states, error.message
        states.append(state)
    return states, ""


async def published(tx: Transaction, role: str, inbox_ids: Sequence[str]) -> None:
    """What these deliveries emitted is on the bus."""
    await tx.each("delivery_published", [(role, event_id) for event_id in inbox_ids])


async def forgive(tx: Transaction, d: Delivery, now_us: int) -> None:
    """Take back one start and let the lease go."""
    row = await tx.row("lease_of", (d.role, d.task_id))
    if d.token and row is not None and row[0] == d.token:
        await tx.run("delivery_forgive", (now_us, d.role, d.event_id))
        await leases.release(tx, d.token)


async def reopen(tx: Transaction, role: str, event_id: str, now_us: int) -> bool:
    """Make a dead or parked delivery due now."""
    keys = {"role": role, "event_id": event_id, "now_us": now_us}
    return await tx.run("delivery_reopen", keys) > 0


async def rows(tx: Transaction, task_id: str | None, statuses: Sequence[str], limit: int) -> list[InboxRow]:
    """Deliveries for people, newest first."""
    keys = {"task_id": task_id, "statuses": json.dumps(list(statuses)) if statuses else None, "limit": limit}
    found = await tx.rows("inbox_rows" if task_id is None else "inbox_rows_of_task", keys)
    return [_inbox_row(row) for row in found]


def _inbox_row(row: tuple[object, ...]) -> InboxRow:
    shown = InboxRow(*row)  # type: ignore[arg-type]  # the columns are typed by the table
    return replace(shown, published=bool(shown.published))
