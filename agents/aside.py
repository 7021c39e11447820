"""What every failure means: one verdict, one commit, in one place."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from agents.emission import Emission
from agents.endings import cancelled, escalated, exhausted
from agents.session import Session
from agents.work import Work
from bus.dead_letters import letter
from bus.port import Bus, Record
from bus.retry import DeadLetter, LetGo, RetryIn, Stop, Verdict, decide
from contracts.envelope import Event
from contracts.errors import CancelRequested, Exhausted, Fenced, GavotteError, Killed
from contracts.events import Payload
from contracts.redaction import redacted
from contracts.topology import Agent
from state_store.fold import TaskState, owner
from state_store.port import Commit, Recorded, StateStore

log = logging.getLogger(__name__)

IN_LINE_SECONDS_MAX: Final = 30.0
"""A record that only the bus has is tried again in line, and holds up its task meanwhile: no pause is longer."""
STORE_PAUSE_SECONDS: Final = 1.0
RETRY_MARGIN_SECONDS: Final = 0.05
"""A timer that fires before the row is due would find it waiting."""

UNREAD: Final = Payload()
"""Stands for a payload that nobody needs to read to name its event as a cause."""


class Aside:
    """Carries out verdicts for one worker.

    `record` is its stop 5, `again` brings work back after some seconds, `resting` gives its slot away meanwhile.
    """

    def __init__(
        self,
        agent: Agent,
        *,
        store: StateStore,
        bus: Bus,
        emission: Emission,
        holder: str,
        clock: Callable[[], int],
        record: Callable[[Work, Sequence[Event]], Awaitable[Sequence[Recorded]]],
        again: Callable[[Work, float], None],
        resting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._agent = agent
        self._store = store
        self._bus = bus
        self._emission = emission
        self._holder = holder
        self._clock = clock
        self._record = record
        self._again = again
        self._resting = resting

    async def put(self, work: Work, error: BaseException) -> Sequence[Recorded] | None:
        """Events to publish, or None where the same work is to be tried again in line. Raises to stop the worker."""
        verdict = decide(error, work.attempt)
        quiet = isinstance(error, Killed | CancelRequested | Fenced | asyncio.CancelledError)
        log.log(logging.INFO if quiet else logging.WARNING, "%s: %s -> %s", self._agent.role, error, verdict)
        if isinstance(verdict, Stop):
            raise error
        if isinstance(verdict, LetGo):
            return ()
        try:
            await self._adopt(work)
            return await self._carry_out(work, error, verdict)
        except GavotteError as trouble:  # nothing is given up: the record stays in line until its verdict is recorded
            log.warning("the verdict could not be recorded yet: %s", trouble)
            work.session = None
            await asyncio.sleep(STORE_PAUSE_SECONDS)
            return None

    async def _carry_out(self, work: Work, error: BaseException, verdict: Verdict) -> Sequence[Recorded] | None:
        session = work.session
        if isinstance(error, CancelRequested) and session is not None:
            row = await self._store.task(session.delivery.task_id)
            state = session.state if row is None else row.state  # the request came after this delivery's basis
            return await self._record(work, [cancelled(_event_of(work), state)])
        unread = session is None or session.state.sequence == 0
        if unread and isinstance(verdict, RetryIn):  # only the bus has the record: it stays in line, unacknowledged
            await self._wait_in_line(work, min(verdict.seconds, IN_LINE_SECONDS_MAX))
            return None
        if unread or isinstance(verdict, DeadLetter):  # what nobody could read cannot be parked, so a letter keeps it
            verdict = DeadLetter(verdict.reason, verdict.code)
            await self._send_letter(work, error, verdict)
        if session is None:
            return ()
        if isinstance(verdict, RetryIn):
            return await self._retry(work, session, error, verdict)
        return await self._close(work, session, error, verdict)

    async def _wait_in_line(self, work: Work, seconds: float) -> None:
        work.attempt += 1
        work.idling = True
        try:
            with self._resting():
                await asyncio.sleep(seconds)
        finally:
            work.idling = False

    async def _retry(self, work: Work, session: Session, error: BaseException, verdict: RetryIn) -> Sequence[Recorded]:
        """The inbox row waits for its time; a timer of this process or the sweep reopens it."""
        request = Commit(
            session.delivery,
            status="retry",
            consumed=session.consumed,
            reason=redacted(str(error)),
            reason_code=verdict.code,
            due_us=self._clock() + int(verdict.seconds * 1_000_000),
            attempt=work.attempt + 1,
        )
        committed = await self._store.commit(request)
        if committed.status == "recorded":
            self._again(work.fresh(), verdict.seconds + RETRY_MARGIN_SECONDS)
        return committed.events if committed.status == "repeated" else ()

    async def _close(self, work: Work, session: Session, error: BaseException, verdict: Verdict) -> Sequence[Recorded]:
        """Park the delivery or mark it dead, and say so in the task's stream where this role owns the task."""
        state = session.state
        emitted: list[Event] = []
        if self._agent.core and state.sequence and owner(state) == self._agent.role and state.pause is None:
            if isinstance(error, Exhausted):
                emitted = [exhausted(_event_of(work), self._agent.role, error)]
            elif not isinstance(error, Killed):
                emitted = [escalated(_event_of(work), self._agent.role, error, verdict.code)]
        request = Commit(
            session.delivery,
            status="dead" if isinstance(verdict, DeadLetter) else "parked",
            consumed=session.consumed,
            emitted=self._emission.sealed(session.delivery, emitted, slot=f"aside{state.sequence}.{work.attempt}"),
            reason=redacted(str(error)),
            reason_code=verdict.code,
            attempt=work.attempt,
        )
        return (await self._store.commit(request)).events

    async def _adopt(self, work: Work) -> None:
        """Open a session for a failure that came before stop 3, where the store knows the event."""
        if work.session is not None or work.envelope is None or work.envelope.type not in self._agent.consumes:
            return
        claim = await self._store.claim(
            self._agent.role, None, work.envelope, inbox_id=work.inbox_id, holder=self._holder
        )
        if claim.status == "free" and (claim.known or claim.starts):
            work.attempt = max(work.attempt, claim.attempt)
            state = claim.state or TaskState(task_id=work.envelope.task_id)
            delivery = work.delivery(self._agent.role, work.envelope, claim, self._holder)
            work.session = Session(self._store, delivery, state, None, claim.steps)

    async def _send_letter(self, work: Work, error: BaseException, verdict: Verdict) -> None:
        """The letter is confirmed on its topic before the offset may move."""
        record = work.record or self._record_of(work)
        sent = letter(
            record, self._agent.group, error, attempt=work.attempt + 1, code=verdict.code, agent=self._agent.role
        )
        await self._bus.publish([sent])

    def _record_of(self, work: Work) -> Record:
        if work.due is None:
            raise ValueError("work is a record or something due")
        found = self._emission.message(work.due.event)
        return Record(found.topic, -1, -1, found.key, found.value, found.headers, work.due.event.recorded_at_us)


def _event_of(work: Work) -> Event:
    """The consumed event as a cause for what the worker itself has to say; undecodable bytes are a cause too."""
    if work.envelope is None:
        raise ValueError("there is no envelope to cause anything")
    return Event(work.envelope, UNREAD)
