"""One agent process at work: fetch, acknowledge, sweep, renew, and an orderly end around `agents.worker`.

Five small loops over one `Lanes`. None of them knows what a delivery does; `worker.deliver` knows nothing of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from agents.beginnings import detach
from agents.foresight import first_in_line, foresee, foresee_there
from agents.observed import ObservedWorker, Observer
from agents.work import Work
from agents.worker import Handle, ToolMaker, Worker
from bus.lanes import Lanes
from bus.port import Bus, Consumer, Gap, Record, Subscription, report_gap
from contracts import ids
from contracts.authority import Keyring
from contracts.codec import Codec, type_in
from contracts.crashpoints import crashpoint
from contracts.errors import CancelRequested, Fenced, GavotteError, Killed, Retryable
from contracts.topology import Agent, Topology
from state_store.fold import owner
from state_store.port import Kill, StateStore

log = logging.getLogger(__name__)

RENEW_SECONDS: Final = 2.0
CUT_OFF_SECONDS: Final = 5.0
FETCH_SECONDS: Final = 1.0
MARK_SECONDS: Final = 1.0
"""Between two acknowledgements: each costs a broker and a database the same, however much it covers. What a process that
is killed had not acknowledged comes once more, and the inbox answers it."""
CAREFUL_RECORDS: Final = 1000
CAREFUL_US: Final = 10_000_000
"""Clocks of producers may be ahead of ours by so much."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How an agent process goes about its work."""

    concurrency: int = 64
    batch: int = 200
    sweep_seconds: float = 30.0
    missed_after_seconds: float = 30.0
    stop_seconds: float = 10.0
    detach_seconds: float = 30.0


class Runner:
    """Runs one role until `stop` is set.

    `holder` is the name of this process for leases; `member` its name in the group, the same in its next life, if any.
    """

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
        member: str = "",
        pace: Pace | None = None,
        clock: Callable[[], int] = ids.now_us,
        ready: Callable[[], None] = lambda: None,
        observer: Observer | None = None,
    ) -> None:
        self.agent = agent
        self.store = store
        self.bus = bus
        self.holder = holder
        self.member = member or holder
        self.pace = pace or Pace()
        self.topology = topology
        self.clock = clock
        self._ready = ready
        self._stop = asyncio.Event()
        self._sweep_now = asyncio.Event()
        self._careful: dict[int, tuple[int, int]] = {}
        self._one_at_a_time = asyncio.Lock()
        self._paused: frozenset[int] = frozenset()
        self._timers: set[asyncio.TimerHandle] = set()
        made: Callable[..., Worker] = Worker if observer is None else functools.partial(ObservedWorker, observer)
        self.worker = made(
            agent,
            handle,
            tools,
            store=store,
            bus=bus,
            codec=codec,
            topology=topology,
            keyring=keyring,
            holder=holder,
            clock=clock,
            again=self.again,
            sweep_soon=self._sweep_now.set,
            resting=self.resting,
        )
        self.lanes: Lanes[Work] = Lanes(
            self.worker.deliver,
            functools.partial(detach, self.worker),
            prepare=functools.partial(foresee, self.worker),
            running_max=self.pace.concurrency,
            detach_seconds=self.pace.detach_seconds,
        )

    async def run(self, stop: asyncio.Event | None = None) -> None:
        """Work until `stop` is set; raises what made going on impossible. Leaves in order either way."""
        self._stop = stop or self._stop
        consumer = Consumer(
            group=self.agent.group,
            member=self.member,
            topics=self.topology.topics_for(self.agent.role),
            on_gained=self.gained,
            on_lost=self.lost,
            on_gap=self.gap,
        )
        self._subscription = subscription = await self.bus.subscribe(consumer)
        loops = [
            asyncio.create_task(loop)
            for loop in (self.fetch(subscription), self.acknowledge(subscription), self.sweep(), self.renew())
        ]
        stopped = asyncio.create_task(self._stop.wait())
        self._ready()
        try:
            done, _ = await asyncio.wait([*loops, stopped], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopped}:
                task.result()
        finally:
            for task in (*loops, stopped):
                task.cancel()
            await asyncio.gather(*loops, stopped, return_exceptions=True)
            await self.leave(subscription)

    # -- deliveries ----------------------------------------------------------------------------------------------------

    def again(self, work: Work, seconds: float) -> None:
        """Bring work back into its lane after some seconds; its offset, if it had one, is done."""

        def fire() -> None:
            self._timers.discard(handle)
            if work.due is None:
                self._sweep_now.set()  # the record is the bus's; what the store knows of it is the sweep's to find
            else:
                self.lanes.add(work)

        handle = asyncio.get_running_loop().call_later(max(seconds, 0.0), fire)
        self._timers.add(handle)

    def resting(self) -> contextlib.AbstractContextManager[None]:
        """While a delivery merely waits, another task has its slot."""
        return self.lanes.resting()

    # -- the loops -----------------------------------------------------------------------------------------------------

    async def fetch(self, subscription: Subscription) -> None:
        """Records into lanes; partitions that are too far ahead of their offset are paused meanwhile."""
        while self.lanes.failure is None:
            self._pause(subscription)
            records = await subscription.fetch(self.pace.batch, FETCH_SECONDS)
            works = [self._work(record) for record in records]
            await foresee_there(self.worker, first_in_line(self.lanes, works))
            for record, work in zip(records, works, strict=True):
                if record.partition not in subscription.assigned:
                    continue  # it went to another process meanwhile, and is read there
                if work is None:
                    self.lanes.pass_over(Work(record.key, record))
                else:
                    self.lanes.add(work)
            self.lanes.start()
        raise self.lanes.failure  # lanes begin nothing more, so the worker must end

    def _work(self, record: Record) -> Work | None:
        """What a record is to this role, None for nothing; what cannot be told from its type is the worker's to read."""
        type_ = record.envelope.type if record.envelope is not None else type_in(record.headers)
        if type_ is not None and type_ not in self.agent.consumes:
            return None
        if self._is_careful(record):
            return Work(record.key, record, alone=self._one_at_a_time)
        return Work(record.key, record)

    def _pause(self, subscription: Subscription) -> None:
        """Hold back partitions that are too far ahead of their offset, until enough of it is finished."""
        full = self.lanes.full_partitions()
        if full != self._paused:
            subscription.pause(full - self._paused)
            subscription.resume(self._paused - full)
            self._paused = full

    async def acknowledge(self, subscription: Subscription) -> None:
        """Offsets and published marks, together and not for each record; later, when those who answer have read it."""
        while True:
            await self.lanes.progressed.wait()
            await asyncio.sleep(MARK_SECONDS)
            self.lanes.progressed.clear()
            self._pause(subscription)  # while `fetch` waits for partitions that are not held back
            await self._settle(subscription)

    async def _settle(self, subscription: Subscription) -> None:
        """Marks first: what is acknowledged never comes again, so what it emitted must be known to be published."""
        marks, offsets = self.worker.unmarked, self.lanes.ready_offsets()
        self.worker.unmarked = []
        try:
            if marks:
                await self.store.published(self.agent.role, marks)
                marks = []
            if offsets:
                crashpoint("worker.acknowledge.before")
                await subscription.commit(offsets)
                crashpoint("worker.acknowledge.after")
        except Retryable as error:
            log.warning("acknowledging waits: %s", error)
            self.worker.unmarked += marks
            self.lanes.progressed.set()
            return
        self.lanes.committed(offsets)

    async def sweep(self) -> None:
        """What the store says should have come and has not: at start, at intervals, and when something was lifted."""
        while True:
            self._sweep_now.clear()
            try:
                await self._sweep_once()
            except Retryable as error:
                log.warning("the sweep waits for the store: %s", error)
            try:
                async with asyncio.timeout(
                    self.pace.sweep_seconds
                ):  # wait_for may swallow the cancellation that ends us
                    await self._sweep_now.wait()
            except TimeoutError:
                continue

    async def _sweep_once(self) -> None:
        wanted = self.agent.consumes
        found = await self.store.sweep(self.agent.role, wanted, older_than_seconds=self.pace.missed_after_seconds)
        for due in found:
            self.lanes.add(Work(due.event.envelope.task_id.encode(), due=due))

    async def renew(self) -> None:
        """Leases, kills and cancellations, every 2 s while roles are at work.

        One that cannot renew for 5 s stops what is in flight.
        """
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            begun = [(work, work.session.delivery.token) for work in self.lanes.at_work if work.session is not None]
            if not begun:
                renewed = loop.time()
                continue
            try:
                async with asyncio.timeout(CUT_OFF_SECONDS):
                    kills = await self.store.renew(self.holder, self.agent.role)
                    held = await self.store.leases(self.holder)
                renewed = loop.time()
                for work, token in begun:
                    self._check(work, token, kills, held)
                    await self._heed(work)
            except (Retryable, TimeoutError) as error:
                if loop.time() - renewed > CUT_OFF_SECONDS:
                    log.exception("cut off from the store")
                    self._interrupt_all(Fenced(f"this worker is cut off from the store: {error}"))

    @staticmethod
    def _check(work: Work, token: int, kills: Iterable[Kill], held: dict[tuple[str, str], int]) -> None:
        """Interrupt work whose lease went to another, or that a newer kill covers."""
        if work.session is None:
            return
        delivery = work.session.delivery
        if token and held.get((delivery.role, delivery.task_id)) != token:
            work.interrupt(Fenced(f"the lease of task {delivery.task_id} went to another worker"))
        for kill in kills:
            if kill.seq > delivery.kill_seq and not kill.lifted and covers(kill, delivery.role, delivery.task_id):
                work.interrupt(Killed(kill.reason or f"killed ({kill.scope})", hint="gavotte lift"))

    async def _heed(self, work: Work) -> None:
        """Interrupt work whose task was cancelled since it began; an act on the world is made certain first."""
        session = work.session
        if not self.agent.core or session is None or not session.began or session.state.cancel_requested:
            return
        row = await self.store.task(session.delivery.task_id)
        if row is None or not row.state.cancel_requested or owner(row.state) != self.agent.role:
            return
        if not await self.worker.has_open_effects(session.delivery.task_id) and work.session is session:
            work.interrupt(CancelRequested(f"{row.state.cancel_operator or 'an operator'} asked to cancel the task"))

    def _interrupt_all(self, error: GavotteError) -> None:
        for work in self.lanes.at_work:
            work.interrupt(error)

    # -- partitions ----------------------------------------------------------------------------------------------------

    async def gained(self, partitions: frozenset[int]) -> None:
        """Mark partitions dirty; those that were dirty before had a holder that died: go carefully there."""
        dirty = await self.store.mark_partitions(self.agent.role, sorted(partitions), self.holder)
        for partition in dirty:
            self._careful[partition] = (CAREFUL_RECORDS, self.clock() + CAREFUL_US)
        if dirty:
            self._sweep_now.set()

    async def lost(self, partitions: frozenset[int]) -> None:
        """Finish or detach what came from the partitions, acknowledge it, and mark them clean."""
        await self.lanes.drain(partitions, self.pace.stop_seconds)
        await self._settle(self._subscription)
        await self.store.clean_partitions(self.agent.role, sorted(partitions), self.holder)

    async def gap(self, gap: Gap) -> None:
        """Records were removed before this role read them: an alarm, and the store is asked what it has missed."""
        await report_gap(gap)
        self._sweep_now.set()

    def _is_careful(self, record: Record) -> bool:
        """Whether a holder that died may have had this record in its hands; it had no more than these."""
        left, until_us = self._careful.pop(record.partition, (0, 0))
        if left <= 0 or record.timestamp_us > until_us:
            return False
        self._careful[record.partition] = (left - 1, until_us)
        return True

    # -- the end -------------------------------------------------------------------------------------------------------

    async def leave(self, subscription: Subscription) -> None:
        """Let work in flight finish for a while, forgive what does not, acknowledge, and go."""
        for timer in self._timers:
            timer.cancel()
        self.lanes.hold()
        for work in self.lanes.at_work:
            if work.idling:
                self.lanes.cancel(work.key)
        await self.lanes.drain(None, self.pace.stop_seconds)
        for work in self.lanes.at_work:
            if work.session is not None and work.session.began:
                await self.store.forgive(work.session.delivery)
        await self.lanes.close()
        try:
            await self._settle(subscription)
            await subscription.close()
        except GavotteError as error:
            log.warning("leaving without a word: %s", error)


def covers(kill: Kill, role: str, task_id: str) -> bool:
    """Whether a kill is about this work."""
    return kill.scope == "all" or (kill.scope == "role" and kill.target == role) or kill.target == task_id
