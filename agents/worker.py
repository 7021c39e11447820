"""The life of one delivery, start to finish: read this file first.

Six stops: the bus yields a record (1), its envelope is read and checked (2), the inbox is asked (3), the role decides
on the folded state (4), ONE commit records everything (5), what was emitted is published and the record acknowledged
(6). Whatever goes wrong in 2 to 5 meets one function, `bus.retry.decide`, once. Losing the bus delays and loses
nothing: the sweep finds in the store what should have come and has not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from agents.endings import cancelled, escalated, exhausted, overdue
from agents.session import Session
from bus.dead_letters import letter
from bus.port import Bus, Message, Record
from bus.retry import DeadLetter, LetGo, Park, RetryIn, Verdict, decide
from contracts import ids
from contracts.authority import Keyring
from contracts.codec import Codec, headers_of, read_envelope
from contracts.crashpoints import crashpoint
from contracts.envelope import Envelope, Event, agent_source
from contracts.errors import CancelRequested, Exhausted, Fenced, GavotteError, Killed, Rejected, Unavailable
from contracts.events import SIGNED_TYPES
from contracts.topology import HEARD_BY_ALL, Agent, Topology, topic_for
from state_store.fold import TaskState, owner
from state_store.port import Claim, Commit, Delivery, Due, Encoded, Recorded, StateStore

log = logging.getLogger(__name__)

Handle = Callable[[Event, TaskState, object], Awaitable[list[Event]]]
"""What a role is: `async handle(event, state, tools) -> list[Event]`."""


class ToolMaker(Protocol):
    """Makes the tools of a role for one delivery."""

    def __call__(self, session: Session) -> object: ...


@dataclass(slots=True)
class Work:
    """One thing to deliver: a record of the bus, or what the sweep found in the store."""

    key: bytes
    record: Record | None = None
    due: Due | None = None
    envelope: Envelope | None = None
    session: Session | None = None
    attempt: int = 0
    stopped_by: GavotteError | None = None


class Worker:
    """One role in one process. `holder` names the process for leases; `tools` makes the role's tools."""

    def __init__(
        self,
        agent: Agent,
        handle: Handle,
        tools: ToolMaker,
        *,
        store: StateStore,
        bus: Bus,
        codec: Codec,
        topology: Topology,
        keyring: Keyring,
        holder: str,
        clock: Callable[[], int] = ids.now_us,
    ) -> None:
        self.agent = agent
        self.handle = handle
        self.tools = tools
        self.store = store
        self.bus = bus
        self.codec = codec
        self.topology = topology
        self.keyring = keyring
        self.holder = holder
        self.clock = clock
        self.again: Callable[[Work, float], None] = lambda work, seconds: None
        self.unmarked: list[str] = []

    # -- the path of one event ----------------------------------------------------------------------------------------

    async def deliver(self, work: Work) -> None:
        """One delivery through all stops; returns when it may be acknowledged, raises only to stop the worker."""
        try:
            event, value = self.read(work)  # stop 2
            if event is None:
                return
            claim = await self.ask(work, event, value)  # stop 3
            if claim is None:
                return
            emitted = await self.think(work, event, claim)  # stop 4
            recorded = await self.record(work, emitted)  # stop 5
        except Exception as error:  # noqa: BLE001  one place decides what every failure means
            recorded = await self.put_aside(work, error)
        await self.publish(work, recorded)  # stop 6

    def read(self, work: Work) -> tuple[Event | None, bytes]:
        """Stop 2: the envelope, its right to be said here, and the payload; None for what this role does not consume."""
        if work.due is not None:
            envelope, value = work.due.event.envelope, work.due.event.value
        else:
            record = work.record
            assert record is not None  # noqa: S101  work is a record or something due
            envelope, value = read_envelope(record.key, record.headers), record.value
            work.envelope = envelope
            if envelope.type not in self.agent.consumes:
                return None, value
            self.topology.check_emission(envelope.type, envelope.source, record.topic)
        work.envelope = envelope
        return self.codec.decode(envelope, value), value

    async def ask(self, work: Work, event: Event, value: bytes) -> Claim | None:
        """Stop 3: the inbox; opens a session where the delivery is ours to handle, None where nothing is left to do."""
        role, due = self.agent.role, work.due
        inbox_id = due.deadline_id if due is not None else None
        consumed = Encoded(event, value)
        claim = await self.store.claim(role, consumed, event.envelope, inbox_id=inbox_id)
        delivery = Delivery(
            role=role,
            event_id=inbox_id or event.id,
            task_id=event.task_id,
            cause_id=event.id,
            basis=claim.basis,
            kill_seq=claim.kill_seq,
            holder=self.holder,
        )
        if claim.status == "done":
            await self.publish(work, claim.unpublished)
        elif claim.status == "waiting":
            await self.store.start(delivery, None if claim.known else consumed, waiting=True)
        if claim.status != "free" or claim.state is None:
            return None
        work.attempt = claim.attempt
        work.session = Session(self.store, delivery, claim.state, None if claim.known else consumed, claim.steps)
        if claim.killed_by:
            raise Killed(claim.killed_by, hint="gavotte lift")
        if event.type in SIGNED_TYPES:
            self.keyring.verify(event, event.envelope.time_us if claim.known else self.clock())
        return claim

    async def think(self, work: Work, event: Event, claim: Claim) -> list[Event]:
        """Stop 4: what follows from this event in this state, by the role's own decision."""
        state, session = claim.state, work.session
        assert state is not None and session is not None  # noqa: S101, PT018  ask() gave both
        if not self.agent.core:
            return await self.handle(event, state, self.tools(session))
        if owner(state) != self.agent.role:
            return []
        if state.cancel_requested:
            return [cancelled(event, state)]
        if work.due is not None and work.due.kind == "deadline":
            return overdue(event, state)
        if event.type in HEARD_BY_ALL and await self.store.next_waiting(self.agent.role, event.task_id):
            return []  # the parked delivery was reopened and goes on with its own cause and journal
        return await self.handle(event, state, self.tools(session))

    async def record(self, work: Work, emitted: Sequence[Event]) -> Sequence[Recorded]:
        """Stop 5: one commit. What it did not accept is not published."""
        session = work.session
        assert session is not None  # noqa: S101  ask() opened it
        request = Commit(session.delivery, consumed=session.consumed, emitted=self.sealed(work, emitted))
        crashpoint("worker.commit.before")
        committed = await self.store.commit(request)
        crashpoint("worker.commit.after")
        if committed.status == "superseded":
            log.info("superseded: %s", committed.detail)
        if session.began or work.due is not None or (work.envelope and work.envelope.type in HEARD_BY_ALL):
            await self.go_on(work.key, session.delivery.task_id)
        return committed.events

    async def publish(self, work: Work, recorded: Sequence[Recorded]) -> None:
        """Stop 6: the recorded events as news. What is recorded is never dead-lettered: try until it goes."""
        if not recorded:
            return
        messages = [self.message(event) for event in recorded]
        crashpoint("worker.publish.before")
        pause_seconds = 0.1
        while True:
            try:
                await self.bus.publish(messages)
                break
            except Unavailable as error:
                log.warning("publishing waits for the bus: %s", error)
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(pause_seconds * 2, 10.0)
        crashpoint("worker.publish.after")
        if work.session is not None:
            self.unmarked.append(work.session.delivery.event_id)

    # -- what a failure means ------------------------------------------------------------------------------------------

    async def put_aside(self, work: Work, error: Exception) -> Sequence[Recorded]:
        """Carry out the verdict on a failure; returns events to publish. Raises where the worker must stop."""
        verdict = decide(error, work.attempt)
        level = logging.INFO if isinstance(error, Killed | CancelRequested | Fenced) else logging.WARNING
        log.log(level, "%s: %s -> %s", self.agent.role, error, type(verdict).__name__)
        if isinstance(error, CancelRequested) and work.session is not None:
            return await self.record(work, [cancelled(self.event_of(work), work.session.state)])
        match verdict:
            case LetGo():
                return ()
            case RetryIn(seconds=seconds):
                return await self.retry(work, error, verdict, seconds)
            case Park():
                return await self.close(work, error, "parked", verdict)
            case DeadLetter():
                await self.send_letter(work, error, verdict)
                return await self.close(work, error, "dead", verdict)
            case _:
                raise error

    async def retry(self, work: Work, error: Exception, verdict: Verdict, seconds: float) -> Sequence[Recorded]:
        """The inbox row waits for its time; without a row (the store did not answer) the same record is tried again."""
        session = work.session
        if session is None:
            work.attempt += 1
            self.again(work, seconds)
            return ()
        request = Commit(
            session.delivery,
            status="retry",
            consumed=session.consumed,
            reason=str(error),
            reason_code=verdict.code,
            due_us=self.clock() + int(seconds * 1_000_000),
            attempt=work.attempt + 1,
        )
        await self.store.commit(request)
        self.again(replace(work, session=None, stopped_by=None), seconds)
        return ()

    async def close(self, work: Work, error: Exception, status: str, verdict: Verdict) -> Sequence[Recorded]:
        """Park the delivery or mark it dead, and say so in the task's stream where this role owns the task."""
        session = work.session
        if session is None:
            return ()
        emitted: list[Event] = []
        mine = self.agent.core and owner(session.state) == self.agent.role and session.state.pause is None
        if isinstance(error, Exhausted) and mine:
            emitted = [exhausted(self.event_of(work), self.agent.role, error)]
        elif not isinstance(error, Killed) and mine:
            emitted = [escalated(self.event_of(work), self.agent.role, error, verdict.code)]
        request = Commit(
            session.delivery,
            status="parked" if status == "parked" else "dead",
            consumed=session.consumed,
            emitted=self.sealed(work, emitted, slot=f"aside{work.attempt}.{session.state.sequence}"),
            reason=str(error),
            reason_code=verdict.code,
            attempt=work.attempt,
        )
        return (await self.store.commit(request)).events

    async def send_letter(self, work: Work, error: Exception, verdict: Verdict) -> None:
        """The letter is confirmed on its topic before the offset may move."""
        record = work.record or self.record_of(work)
        await self.bus.publish(
            [letter(record, self.agent.group, error, attempt=work.attempt + 1, code=verdict.code, agent=self.agent.role)]
        )

    # -- small parts -----------------------------------------------------------------------------------------------------

    async def go_on(self, key: bytes, task_id: str) -> None:
        """After a delivery that others may have waited for: the next one of this task, at once."""
        waiting = await self.store.next_waiting(self.agent.role, task_id)
        if waiting is not None:
            self.again(Work(key=key, due=Due("waiting", waiting)), 0.0)

    def sealed(self, work: Work, emitted: Sequence[Event], *, slot: str = "") -> tuple[Encoded, ...]:
        """Ids derived from task, cause, producer and index; encoding, size and right to emit are checked here."""
        session = work.session
        assert session is not None  # noqa: S101  only called with one
        role = self.agent.role
        inbox_id, cause_id = session.delivery.event_id, session.delivery.cause_id
        producer = role if inbox_id == cause_id else f"{role}/{inbox_id}"
        if slot:
            producer = f"{producer}/{slot}"
        moment = self.clock()
        done = []
        for index, draft in enumerate(emitted):
            if draft.type not in self.agent.emits:
                raise Rejected(f"{role} may not emit {draft.type}", hint="its row in the topology does not list it")
            event = draft.sealed(producer=producer, index=index, time_us=moment, source=agent_source(role))
            done.append(Encoded(event, self.codec.encode_payload(event.payload)))
        return tuple(done)

    def message(self, event: Recorded) -> Message:
        """A recorded event as it travels."""
        envelope = event.envelope
        topic = topic_for(envelope.type, envelope.source, self.topology)
        return Message(topic, envelope.task_id.encode(), event.value, headers_of(envelope))

    def event_of(self, work: Work) -> Event:
        """The consumed event again, for what the worker itself has to say about it."""
        assert work.envelope is not None  # noqa: S101  a session has an envelope
        value = work.due.event.value if work.due is not None else work.record.value if work.record else b""
        return self.codec.decode(work.envelope, value)

    def record_of(self, work: Work) -> Record:
        """Something swept from the store, in the shape of a record, for its letter."""
        assert work.due is not None  # noqa: S101  work is a record or something due
        found = self.message(work.due.event)
        return Record(found.topic, -1, -1, found.key, found.value, found.headers, work.due.event.recorded_at_us)
