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
import state_store.journal as journal_module
from agents.aside import Aside
from agents.runner import Runner
from agents.session import Session
from agents.work import Work
from agents.worker import Worker
from contracts.envelope import Event
from contracts.errors import Unavailable
from contracts.events import Budget
from state_store.consequences import admit
from state_store.fold import TaskState, evolve
from state_store.journal import within
from state_store.leases import Leases
from state_store.port import Claim, Commit, Committed, Delivery, Due, Encoded, Recorded, Spent, Started, Step
from state_store.sqlite import SqliteStore, SqliteTransaction
from state_store.sweep import Sweep
from state_store.transaction import Transaction, at_once
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
    """The bus tells what is not yet true, and after a crash perhaps never will be."""
    session = work.opened()
    sealed = self.emission.sealed(session.delivery, emitted)
    if sealed:
        news = [self.emission.message(Recorded(e.event.envelope, e.value, 0, 0, 0, "", "")) for e in sealed]
        with contextlib.suppress(Unavailable):
            await self.bus.publish(news)
    await asyncio.sleep(0.5)
    await self.store.commit(Commit(session.delivery, consumed=session.consumed, emitted=sealed))
    self.unmarked.append(work.inbox_id or session.delivery.event_id)
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


class KeysByAttempt(ScriptedTools):
    """The effect's key changes from try to try."""

    def effect_key(self, key: str) -> str:
        return f"{key}/{self.session.delivery.token}"


class KeysByPause(ScriptedTools):
    """Whatever a person lets go on is another act, also where nothing was taken back."""

    def effect_key(self, key: str) -> str:
        return f"{key}:{self.session.state.escalations}"


class ActsWithoutLedger(ScriptedTools):
    """An act that is neither intended nor receipted."""

    def effect_key(self, key: str) -> str:
        return f"{key}/{next(_numbers)}"

    async def act(self, key: str, kind: str, do: Any, asked: Any) -> dict[str, Any]:
        await self.session.begin()
        done: dict[str, Any] = await do(self.session.delivery.token)
        return done


# -- the inbox ------------------------------------------------------------------------------------------------------


FORGET_THAT_IT_IS_DONE: Final = (
    "UPDATE deliveries SET status = 'started' WHERE role = ? AND event_id = ? AND status = 'done'"
)


class NoInbox(SqliteStore):
    """What was handled is handled again."""

    async def claim(self, role: str, event: Encoded | None, envelope: Any, **keys: Any) -> Claim:
        claim = await super().claim(role, event, envelope, **keys)
        if claim.status != "done":
            return claim

        state = (await self._read(lambda tx: self._streams.head(tx, envelope.task_id))).state
        return Claim("free", state=state, basis=state.sequence, known=True)

    async def commit(self, request: Commit) -> Committed:
        def change(conn: sqlite3.Connection) -> Committed:
            keys = (request.delivery.role, request.delivery.event_id)
            conn.execute(FORGET_THAT_IT_IS_DONE, keys)
            return at_once(self._inbox.commit(SqliteTransaction(conn, self._clock), request))

        return await self._database.write(change)


class PauseFinishes(SqliteStore):
    """A pause that finishes the delivery: nobody reopens it."""

    async def commit(self, request: Commit) -> Committed:
        if request.status == "parked":
            request = request._replace(status="done")
        return await super().commit(request)


def judged_on_the_basis(head: Any, d: Delivery, emitted: Sequence[Encoded]) -> tuple[list[TaskState], str]:
    """The head is not looked at: what was legal when the role decided is appended whatever came since."""
    state = head.state
    states = []
    for encoded in emitted:
        try:
            state = evolve(state, encoded.event, state.sequence + 1)
        except Exception:
            state = state.model_copy(update={"sequence": state.sequence + 1})
        states.append(state)
    return states, ""


# -- leases, kills, journal -------------------------------------------------------------------------------------------


def no_fence(self: Any, tx: Any, c: Any, d: Delivery) -> str:
    """Stale workers write as if nothing had been."""
    return ""


async def any_token(self: Leases, tx: Transaction, delivery: Delivery) -> None:
    """Intents are accepted from anybody, killed or fenced."""


class ForgetsJournal(SqliteStore):
    """A rerun knows nothing of the steps before, and pays again."""

    async def claim(self, role: str, event: Encoded | None, envelope: Any, **keys: Any) -> Claim:
        return (await super().claim(role, event, envelope, **keys))._replace(steps=())

    async def start(self, delivery: Delivery, consumed: Encoded | None, *, waiting: bool = False) -> Started:
        return replace(await super().start(delivery, consumed, waiting=waiting), steps=())

    async def step_intent(self, delivery: Delivery, step: Step) -> Step:
        return replace(await super().step_intent(delivery, step), outcome="")


def on_credit(budget: Budget, spent: Spent, step: Step, before: Step | None = None) -> Step:
    """A step may begin as long as anything is left: its worst case is not looked at."""
    cheap = within(budget, spent, replace(step, reserved_tokens=0, reserved_cost_microdollars=0), before)
    return replace(step, deadline_us=cheap.deadline_us)


def not_killed(c: Any, d: Delivery) -> bool:
    """A kill that came since the start is not seen by the commit."""
    return False


def retries_finish(self: Aside, work: Work, session: Session, error: BaseException, verdict: Any) -> Any:
    """A retry is promised and not written down."""

    async def forgotten() -> Sequence[Recorded]:
        committed = await self._store.commit(Commit(session.delivery, consumed=session.consumed))
        return committed.events

    return forgotten()


async def nothing_open(self: Sweep, tx: Transaction, role: str) -> list[Due]:
    """Deliveries of the dead, retries and turns are not claimed by the sweep."""
    return []


async def unhashed(*args: Any, **more: Any) -> Recorded:
    """The chain is forged: an event is stored under a hash that is not its own."""
    tx, streams, head, encoded, now_us = args
    head.hash = "0" * 64
    return await admit(tx, streams, head, encoded, now_us, **more)


class BlindToKills(Runner):
    """The watch over kills is asleep."""

    async def renew(self) -> None:
        await asyncio.Event().wait()


LOSSY: Final = {"undelivered": 0.5}
AWAY: Final = {
    "freezes": 0.9,
    "workers": 2,
    "tasks": 10,
    "trouble_seconds": 60.0,
    "operator": 0.0,
    "kills": 0.0,
    "tight_budget": 0.0,
}

VARIANTS: Final[dict[str, Parts]] = {
    "publish_before_commit": Parts(patches=patched((Worker, "record", publish_before_commit)), faults=CRASHES),
    "acknowledge_before_commit": Parts(runner=AcknowledgesFirst, faults=CRASHES),
    "no_sweep": Parts(runner=SweepsNothing, faults=LOSSY),
    "publish_failure_dropped": Parts(patches=patched((Worker, "publish", publish_once)), faults={"publish_fails": 0.5}),
    "effect_key_by_attempt": Parts(tools=KeysByAttempt, faults=CRASHES | {"tasks": 3, "operator": 0.0, "kills": 0.0}),
    "effect_key_by_pause": Parts(tools=KeysByPause),
    "effect_without_ledger": Parts(tools=ActsWithoutLedger, faults={"crash_steps": 100, "tasks": 12}),
    "no_inbox": Parts(store=NoInbox, faults={"duplicates": 0.5}),
    "pause_finishes": Parts(store=PauseFinishes, faults={"tight_budget": 1.0}),
    "head_not_judged": Parts(
        patches=patched((inbox_module, "judge", judged_on_the_basis)), faults={"leaps": 0.9, "operator": 0.9}
    ),
    "commit_not_fenced": Parts(patches=patched((inbox_module.Inbox, "_fenced", no_fence)), faults=AWAY),
    "intent_not_fenced": Parts(patches=patched((Leases, "check", any_token)), faults=AWAY),
    "kill_ignored": Parts(
        runner=BlindToKills, patches=patched((inbox_module, "_newly_killed", not_killed)), faults={"kills": 0.9}
    ),
    "journal_forgotten": Parts(store=ForgetsJournal, faults=CRASHES),
    "retry_forgotten": Parts(patches=patched((Aside, "_retry", retries_finish))),
    "leases_of_the_dead_kept": Parts(patches=patched((Sweep, "_open", nothing_open)), faults=CRASHES),
    "worst_case_ignored": Parts(patches=patched((journal_module, "within", on_credit)), faults={"tight_budget": 1.0}),
    "chain_forged": Parts(patches=patched((inbox_module, "admit", unhashed))),
}
"""name -> how a schedule is run with it."""
