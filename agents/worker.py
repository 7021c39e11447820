"""The life of one delivery, start to finish: read this file first.

Six stops: the bus yields a record (1), its envelope is read and checked (2), the inbox is asked (3), the role decides
on the folded state (4), ONE commit records everything (5), what was emitted is published and the record acknowledged
(6). Whatever goes wrong in 2 to 5 meets one function, `bus.retry.decide`, once (`agents.aside` carries it out). Losing
the bus delays and loses nothing: the sweep finds in the store what should have come and has not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from agents.aside import Aside
from agents.beginnings import STARTS_MAX, brace, by_itself, looks_anew, poisonous
from agents.emission import Emission
from agents.endings import cancelled, overdue
from agents.session import Session
from agents.telling import Telling
from agents.work import Work
from bus.port import Bus, Record
from contracts import ids
from contracts.authority import Keyring
from contracts.codec import Codec, read_envelope
from contracts.crashpoints import crashpoint
from contracts.envelope import Envelope, Event
from contracts.errors import Killed, NotAllowed
from contracts.events import SIGNED_TYPES
from contracts.topology import FIRST_ON_THE_BUS, HEARD_BY_ALL, Agent, Topology
from state_store.fold import TaskState, owner
from state_store.port import Claim, Commit, Due, Encoded, Recorded, StateStore

log = logging.getLogger(__name__)

Handle = Callable[[Event, TaskState, Any], Awaitable[list[Event]]]
"""What a role is: `async handle(event, state, tools) -> list[Event]`."""
ToolMaker = Callable[[Session], Any]
"""Makes the tools of a role for one delivery."""


class Worker:
    """One role in one process. `holder` names the process for leases; `again`, `sweep_soon` and `resting` belong to its runner."""

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
        again: Callable[[Work, float], None],
        sweep_soon: Callable[[], None],
        resting: Callable[[], AbstractContextManager[None]] = nullcontext,
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
        self.again = again
        self.sweep_soon = sweep_soon
        self.clock = clock
        self.unmarked: list[str] = []
        self.emission = Emission(agent, codec, topology, clock)
        self.telling = Telling(bus, self.emission)
        self.aside = Aside(
            agent,
            store=store,
            bus=bus,
            emission=self.emission,
            holder=holder,
            clock=clock,
            record=self.record,
            again=again,
            resting=resting,
        )

    # -- the path of one event ----------------------------------------------------------------------------------------

    async def deliver(self, work: Work) -> None:
        """One delivery through all stops; when it returns the record may be acknowledged. Raises only to stop."""
        recorded: Sequence[Recorded] | None = None
        while recorded is None:
            try:
                recorded = await (self.path(work) if work.alone is None else by_itself(self, work, work.alone))
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  one place decides what failures mean
                if work.stopped_by is not None and isinstance(task := asyncio.current_task(), asyncio.Task):
                    task.uncancel()
                recorded = await self.aside.put(work, work.stopped_by or error)
        if recorded and not recorded[-1].told:  # one commit tells all that it recorded, or nothing
            await self.publish(work, recorded)  # stop 6: the news

    async def path(self, work: Work) -> Sequence[Recorded]:
        """Stops 2 to 5; returns what was recorded and is to be published."""
        if work.careful:
            await brace(self, work)
        seen, work.foreseen = work.foreseen, None  # another attempt looks for itself
        event, value = seen[:2] if seen else await self.read(work)  # stop 2: the envelope, its right, the payload
        if event is None:
            return ()
        claim = seen[2] if seen else await self.ask(work, event, value)  # stop 3: the inbox
        await self.open(work, event, value, claim)
        if work.session is None:
            return claim.unpublished
        if claim.unpublished:
            await self.tell(claim.unpublished)  # what the pause said, before it was lifted
        emitted = await self.think(work, event, work.session)  # stop 4: what follows, by the role's own decision
        return await self.record(work, emitted)  # stop 5: one commit

    async def read(self, work: Work) -> tuple[Event | None, bytes]:
        """Stop 2: the event and its bytes as stored, or None for what this role does not consume. Raises Rejected or Skew."""
        if work.due is not None:
            work.envelope, value = work.due.event.envelope, work.due.event.value
            return self.codec.recorded(work.envelope, value), value
        if work.record is not None:
            record, value = work.record, work.record.value
            work.envelope = record.envelope or read_envelope(record.key, record.headers)
            if work.envelope.type not in self.agent.consumes:
                return None, value
            if record.envelope is not None:
                return self.recall(record, record.envelope), value
            self.topology.check_emission(work.envelope.type, work.envelope.source, record.topic)
            value = await self.codec.inward(work.envelope, record.headers, value)
            read = self.codec.decode if work.envelope.type in FIRST_ON_THE_BUS else self.codec.recorded
            return read(work.envelope, value), value
        raise ValueError("work is a record or something due")

    def recall(self, record: Record, envelope: Envelope) -> Event:
        """Stop 2 where the bytes are the very ones that are stored. Raises likewise."""
        self.topology.check_emission(envelope.type, envelope.source, record.topic)
        return self.codec.recorded(envelope, record.value)

    async def ask(self, work: Work, event: Event, value: bytes) -> Claim:
        """Stop 3: what the inbox says of the event."""
        asked = self.agent.role, Encoded(event, value), event.envelope
        return await self.store.claim(*asked, inbox_id=work.inbox_id, holder=self.holder)

    async def open(self, work: Work, event: Event, value: bytes, claim: Claim) -> None:
        """Stop 3: where the inbox says that the delivery is ours to handle, a session is opened."""
        work.session = None
        if claim.status in {"free", "waiting"}:
            self.verify(event, known=claim.known)
        unknown = None if claim.known else Encoded(event, value)
        delivery = work.delivery(self.agent.role, event.envelope, claim, self.holder)
        if claim.status == "waiting":
            await self.store.start(delivery, unknown, waiting=True)
        elif claim.status == "closed" and work.inbox_id is not None:
            await self.store.commit(Commit(delivery))  # the deadline of a state that is over: nothing waits behind it
        if claim.status != "free" or claim.state is None:
            return
        work.attempt, work.sequence = claim.attempt, claim.sequence
        work.session = Session(self.store, delivery, claim.state, unknown, claim.steps)
        work.killed_by = claim.killed_by
        if claim.killed_by and not (self.agent.core and claim.state.cancel_requested):
            raise Killed(claim.killed_by, hint="gavotte lift")
        if work.careful:
            await work.session.begin()
        elif claim.starts >= STARTS_MAX:
            raise poisonous(event.envelope, claim)

    def verify(self, event: Event, *, known: bool) -> None:
        """Acts of authority need their signature; what an agent says is in the store before it is on the bus."""
        if event.type in SIGNED_TYPES:
            self.keyring.verify(event, event.envelope.time_us if known else self.clock())
        elif not known and event.type not in FIRST_ON_THE_BUS:
            raise NotAllowed(f"{event.type} {event.id} is not in the store: its agent did not record it")

    async def think(self, work: Work, event: Event, session: Session) -> list[Event]:
        """Stop 4. Operators' words are for the task's owner alone; a further agent answers whatever it consumes."""
        state = session.state
        if self.agent.core:
            if owner(state) != self.agent.role:
                return []
            ending = state.cancel_requested or work.inbox_id is not None
            if ending and not await self.has_open_effects(event.task_id):
                return [cancelled(event, state)] if state.cancel_requested else overdue(event, state)
            if work.killed_by:  # an act is to be finished before the task may end, and not now
                raise Killed(work.killed_by, hint="gavotte lift")
            if not ending and event.type in HEARD_BY_ALL and not await looks_anew(self, work, event, state):
                return []
        work.thinking = asyncio.current_task()
        try:
            return await self.handle(event, state, self.tools(session))
        finally:
            work.thinking = None

    async def record(self, work: Work, emitted: Sequence[Event]) -> Sequence[Recorded]:
        """Stop 5: one commit. What it did not accept is not published."""
        session = work.opened()
        sealed = self.emission.sealed(session.delivery, emitted)
        crashpoint("worker.commit.before")
        committed = await self.store.commit(Commit(session.delivery, consumed=session.consumed, emitted=sealed))
        crashpoint("worker.commit.after")
        if committed.status not in {"recorded", "repeated"}:
            log.info("%s: %s", committed.status, committed.detail)
        if session.began or work.due is not None or (work.envelope and work.envelope.type in HEARD_BY_ALL):
            await self.go_on(work, session.delivery.task_id)
        return committed.events

    async def publish(self, work: Work, recorded: Sequence[Recorded]) -> None:
        """Stop 6: the news, until the bus has it."""
        work.recorded = True
        await self.tell(recorded)
        if work.envelope is not None:
            self.unmarked.append(work.inbox_id or work.envelope.id)

    async def tell(self, recorded: Sequence[Recorded]) -> None:
        """Publish until the bus has it."""
        await self.telling(recorded)

    # -- around the path ----------------------------------------------------------------------------------------------

    async def go_on(self, work: Work, task_id: str) -> None:
        """After a delivery that others may have waited for: the next one of this task, at once."""
        if task_id == ids.SYSTEM_TASK:
            self.sweep_soon()
            return
        waiting = await self.store.next_waiting(self.agent.role, task_id)
        if waiting is not None:
            self.again(Work(key=work.key, due=Due("waiting", waiting)), 0.0)

    async def has_open_effects(self, task_id: str) -> bool:
        """Whether an act on the world is to be made certain, or told, before the task may end."""
        return await self.store.unfinished_act(task_id) is not None
