"""Watches inside the transactions of a schedule: who writes may write, and no budget is passed at any moment."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any
from unittest import mock

from state_store.inbox import Inbox
from state_store.journal import Journal, spent_of
from state_store.leases import covers, kills
from state_store.port import Claim, Commit, Committed, Delivery, Step
from state_store.transaction import Transaction
from tests.simulation.world import World

Claims = Callable[..., Awaitable[Claim]]


def claims_watched(claim: Claims, world: World, is_done: Callable[[str, str], bool]) -> Claims:
    """Claims of a store; one that gives out again what was done when it was asked for is a fault."""

    async def watched(role: str, event: Any, envelope: Any, **keys: Any) -> Claim:
        done = is_done(role, keys.get("inbox_id") or envelope.id)
        claimed = await claim(role, event, envelope, **keys)
        if done and claimed.status == "free":
            world.faults.append(f"{role} was given {envelope.type} of {envelope.task_id} again although it was done")
        return claimed

    return watched


@contextlib.contextmanager
def fences_watched(world: World) -> Any:
    """Inside each transaction: what is accepted comes from the holder of the lease, not after a kill, within the budget."""
    commit, intend, settle = Inbox.commit, Journal.intend, Journal.settle

    async def stale(tx: Transaction, d: Delivery) -> bool:
        row = await tx.row("lease_of", (d.role, d.task_id))
        return d.token > 0 and (row is None or row[0] != d.token)

    async def killed(tx: Transaction, request: Commit) -> bool:
        d, ends = request.delivery, {"TaskCancelled"}
        newest = [kill.seq for kill in await kills(tx, active=True) if covers(kill, d.role, d.task_id)][-1:]
        speaks = any(emitted.event.type not in ends for emitted in request.emitted)
        return speaks and any(seq > d.kill_seq for seq in newest)

    async def watched_commit(self: Inbox, tx: Transaction, request: Commit) -> Committed:
        foreign = await stale(tx, request.delivery)
        stopped = await killed(tx, request)
        committed = await commit(self, tx, request)
        if stopped and committed.status == "recorded":
            world.faults.append(f"{request.delivery.role} went on after a kill")
        if foreign and committed.status == "recorded":
            world.faults.append(f"a stale worker of {request.delivery.role} committed")
        return committed

    async def watched_intend(self: Journal, tx: Transaction, d: Delivery, *rest: Any) -> Step:
        foreign = await stale(tx, d)
        step = await intend(self, tx, d, *rest)
        if foreign:
            world.faults.append(f"a stale worker of {d.role} began a step")
        await within_budget(self, tx, d.task_id)
        return step

    async def watched_settle(self: Journal, tx: Transaction, d: Delivery, *rest: Any) -> None:
        await settle(self, tx, d, *rest)
        await within_budget(self, tx, d.task_id)

    async def within_budget(self: Journal, tx: Transaction, task_id: str) -> None:
        caps, spent = (await self.streams.head(tx, task_id)).state.budget, await spent_of(tx, task_id)
        for axis, cap in caps.model_dump().items():
            if getattr(spent, axis) > cap:
                world.faults.append(f"task {task_id} used {getattr(spent, axis)} of {cap} {axis}")

    with (
        mock.patch.object(Inbox, "commit", watched_commit),
        mock.patch.object(Journal, "intend", watched_intend),
        mock.patch.object(Journal, "settle", watched_settle),
    ):
        yield
