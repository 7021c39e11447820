"""Planted faults: known-bad variants of worker, runner, store and tools that the simulation must find.

Each is one mistake that somebody could make. `faults` names what a schedule needs for it to show.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final
from unittest import mock

import state_store.inbox as inbox_module
from agents.aside import Aside
from agents.emission import Emission
from agents.runner import Runner
from agents.session import Session
from agents.work import Work
from agents.worker import Worker
from contracts.envelope import Event
from contracts.errors import Unavailable
from state_store.consequences import admit
from state_store.fold import TaskState
from state_store.leases import Leases
from state_store.port import Claim, Commit, Committed, Delivery, Due, Encoded, Recorded, Started, Step
from state_store.sqlite import SqliteStore
from state_store.sweep import Sweep
from tests.simulation.roles import ScriptedTools
from tests.simulation.schedule import Parts

CRASHES: Final = {"crash_steps": 200}


def patched(*changes: tuple[Any, str, Any]) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Replace attributes for the time of a schedule."""

    @contextlib.contextmanager
    def patches() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for owner, name, value in changes:
                stack.enter_context(mock.patch.object(owner, name, value))
            yield

    return patches


# -- the order of the stops ----------------------------------------------------------------------------------------


async def publish_before_commit(self: Worker, work: Work, emitted: Sequence[Event]) -> Sequence[Recorded]:
    """What the bus has is not yet true."""
    session = work.opened()
    sealed = self.emission.sealed(session.delivery, emitted)
    if sealed:
        news = [self.emission.message(Recorded(e.event.envelope, e.value, 0, 0, 0, "", "")) for e in sealed]
        with contextlib.suppress(Unavailable):
            await self.bus.publish(news)
            work.key = work.key
    await asyncio.sleep(0.5)
    committed = await self.store.commit(Commit(session.delivery, consumed=session.consumed, emitted=sealed))
    self.unmarked.append(work.inbox_id or session.delivery.event_id)
    del committed
    return ()


class AcknowledgesFirst(Runner):
    """The offset is done as soon as the record is here, and no sweep mends what is lost with the process."""

    async def fetch(self, subscription: Any) -> None:
        while True:
            for record in await subscription.fetch(self.pace.batch, 1.0):
                self.lanes.add(Work(record.key, None, Due("missed", await self.as_stored(record))))
                await subscription.commit({(record.topic, record.partition): record.offset + 1})

    async def as_stored(self, record: Any) -> Recorded:
        from contracts.codec import read_envelope

        return Recorded(read_envelope(record.key, record.headers), record.value, 0, 0, 0, "", "")

    async def _sweep_once(self) -> None:
        """Not at all."""


class SweepsNothing(Runner):
    """What the bus did not bring is never looked for."""

    async def _sweep_once(self) -> None:
        """Not at all."""


async def publish_once(self: Worker, work: Work, recorded: Sequence[Recorded]) -> None:
    """A failure to publish is taken for success."""
    if recorded:
        with contextlib.suppress(Unavailable, Exception):
            await self.bus.publish([self.emission.message(event) for event in recorded])
        if work.envelope is not None:
            self.unmarked.append(work.inbox_id or work.envelope.id)


# -- identity -------------------------------------------------------------------------------------------------------

_numbers = itertools.count()


def random_ids(self: Emission, delivery: Delivery, drafts: Sequence[Event], *, slot: str = "") -> tuple[Encoded, ...]:
    """A rerun emits other events."""
    return tuple(
        self._seal(draft, f"{self._agent.role}/{slot}{next(_numbers)}", index) for index, draft in enumerate(drafts)
    )


class KeysByAttempt(ScriptedTools):
    """The effect's key changes from try to try."""

    def effect_key(self, key: str) -> str:
        return f"{key}/{self.session.delivery.token}"

    async def act(self, key: str, kind: str, do: Any, asked: Any) -> dict[str, Any]:
        return await super().act(self.effect_key(key), kind, do, asked)


class ActsWithoutLedger(ScriptedTools):
    """An act that is neither intended nor receipted."""

    def effect_key(self, key: str) -> str:
        return f"{key}/{next(_numbers)}"

    async def act(self, key: str, kind: str, do: Any, asked: Any) -> dict[str, Any]:
        await self.session.begin()
        done: dict[str, Any] = await do(self.session.delivery.token)
        return done


# -- the inbox ------------------------------------------------------------------------------------------------------


class NoInbox(SqliteStore):
    """What was handled is handled again."""

    async def claim(self, role: str, event: Encoded | None, envelope: Any, **keys: Any) -> Claim:
        claim = await super().claim(role, event, envelope, **keys)
        if claim.status != "done":
            return claim

        def head(conn: sqlite3.Connection) -> TaskState:
            return self._streams.head(conn, envelope.task_id).state

        state = await self._database.read(head)
        return Claim("free", state=state, basis=state.sequence, known=True)

    async def commit(self, request: Commit) -> Committed:
        def change(conn: sqlite3.Connection) -> Committed:
            head = self._streams.head(conn, request.delivery.task_id)
            keys = (request.delivery.role, request.delivery.event_id)
            conn.execute(
                "UPDATE deliveries SET status = 'started' WHERE role = ? AND event_id = ? AND status = 'done'", keys
            )
            del head
            return self._inbox.commit(conn, request)

        return await self._database.write(change)


class PauseFinishes(SqliteStore):
    """A pause that finishes the delivery: nobody reopens it."""

    async def commit(self, request: Commit) -> Committed:
        if request.status == "parked":
            request = replace(request, status="done")
        return await super().commit(request)


class ConflictIgnored(SqliteStore):
    """A refusal on the head is taken for a success: the decision is lost without a word."""

    async def commit(self, request: Commit) -> Committed:
        committed = await super().commit(request)
        if committed.status == "superseded" and request.emitted:
            return await super().commit(
                replace(request, delivery=replace(request.delivery, event_id=f"again-{next(_numbers)}"))
            )
        return committed


def judged_on_the_basis(head: Any, d: Delivery, emitted: Sequence[Encoded]) -> tuple[list[TaskState], str]:
    """The head is not looked at: what was legal when the role decided is appended whatever came since."""
    state = head.state
    states = []
    for encoded in emitted:
        try:
            state = inbox_module.evolve(state, encoded.event, state.sequence + 1)
        except Exception:
            state = state.model_copy(update={"sequence": state.sequence + 1})
        states.append(state)
    return states, ""


# -- leases, kills, journal -------------------------------------------------------------------------------------------


def no_fence(self: Any, c: Any, d: Delivery) -> str:
    """Stale workers write as if nothing had been."""
    return ""


def any_token(self: Leases, conn: sqlite3.Connection, delivery: Delivery) -> None:
    """Intents are accepted from anybody, killed or fenced."""


class ForgetsJournal(SqliteStore):
    """A rerun knows nothing of the steps before, and pays again."""

    async def claim(self, role: str, event: Encoded | None, envelope: Any, **keys: Any) -> Claim:
        return replace(await super().claim(role, event, envelope, **keys), steps=())

    async def start(self, delivery: Delivery, consumed: Encoded | None, *, waiting: bool = False) -> Started:
        return replace(await super().start(delivery, consumed, waiting=waiting), steps=())

    async def step_intent(self, delivery: Delivery, step: Step) -> Step:
        return replace(await super().step_intent(delivery, step), outcome="")


def not_killed(c: Any, d: Delivery) -> bool:
    """A kill that came since the start is not seen by the commit."""
    return False


def retries_finish(self: Aside, work: Work, session: Session, error: BaseException, verdict: Any) -> Any:
    """A retry is promised and not written down."""

    async def forgotten() -> Sequence[Recorded]:
        committed = await self._store.commit(Commit(session.delivery, consumed=session.consumed))
        return committed.events

    return forgotten()


def nothing_open(self: Sweep, conn: sqlite3.Connection, role: str) -> list[Due]:
    """Deliveries of the dead, retries and turns are not claimed by the sweep."""
    return []


class DetachForgets(SqliteStore):
    """The start of a delivery is not written, but said to be."""

    async def start(self, delivery: Delivery, consumed: Encoded | None, *, waiting: bool = False) -> Started:
        if waiting:
            return Started("waiting")
        return await super().start(delivery, consumed, waiting=waiting)


def unhashed(*args: Any, **more: Any) -> Recorded:
    """The chain is forged: an event is stored under a hash that is not its own."""
    conn, streams, head, encoded, now_us = args
    head.hash = "0" * 64
    return admit(conn, streams, head, encoded, now_us, **more)


LOSSY: Final = {"undelivered": 0.5}

VARIANTS: Final[dict[str, Parts]] = {
    "publish_before_commit": Parts(patches=patched((Worker, "record", publish_before_commit)), faults=CRASHES),
    "acknowledge_before_commit": Parts(runner=AcknowledgesFirst, faults=CRASHES),
    "no_sweep": Parts(runner=SweepsNothing, faults=LOSSY),
    "publish_failure_dropped": Parts(patches=patched((Worker, "publish", publish_once)), faults={"publish_fails": 0.5}),
    "random_event_ids": Parts(patches=patched((Emission, "sealed", random_ids)), faults=CRASHES),
    "effect_key_by_attempt": Parts(tools=KeysByAttempt, faults=CRASHES),
    "effect_without_ledger": Parts(tools=ActsWithoutLedger, faults=CRASHES),
    "no_inbox": Parts(store=NoInbox, faults={"duplicates": 0.5}),
    "pause_finishes": Parts(store=PauseFinishes, faults={"tight_budget": 1.0}),
    "head_not_judged": Parts(
        patches=patched((inbox_module, "_judge", judged_on_the_basis)), faults={"leaps": 0.9, "operator": 0.9}
    ),
    "no_fence": Parts(
        patches=patched((inbox_module.Inbox, "_fenced", no_fence)), faults={"freezes": 0.9, "workers": 2}
    ),
    "any_token": Parts(patches=patched((Leases, "check", any_token)), faults={"freezes": 0.9, "workers": 2}),
    "journal_forgotten": Parts(store=ForgetsJournal, faults=CRASHES),
    "retry_forgotten": Parts(patches=patched((Aside, "_retry", retries_finish))),
    "leases_of_the_dead": Parts(patches=patched((Sweep, "_open", nothing_open)), faults=CRASHES),
    "detach_forgotten": Parts(store=DetachForgets, faults={"workers": 2, "duplicates": 0.5}),
    "chain_forged": Parts(patches=patched((inbox_module, "admit", unhashed))),
}
"""name -> how a schedule is run with it."""
