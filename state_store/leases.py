"""Leases: who works on a task for a role, until when, and the token that fences everybody else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from contracts.errors import Fenced, Killed
from state_store.port import Delivery, Kill
from state_store.transaction import Transaction

LEASE_SECONDS: Final = 10.0
"""A lease that is not renewed for this long is free; workers renew every 2 s."""
LEASE_US: Final = int(LEASE_SECONDS * 1_000_000)


@dataclass(frozen=True, slots=True)
class Leases:
    """The rules of leases by the store's clock. `is_alive` frees the leases of a dead process at once."""

    is_alive: Callable[[str], bool] | None = None

    def holds(self, tx: Transaction, holder: str, expires_us: int) -> bool:
        """Whether a lease of this holder still keeps others out."""
        return expires_us > tx.now_us() and (self.is_alive is None or self.is_alive(holder))

    async def take(self, tx: Transaction, delivery: Delivery) -> int:
        """A new lease for the delivery; returns its token."""
        d = delivery
        row = (d.role, d.task_id, d.event_id, d.holder, tx.now_us() + LEASE_US)
        return await tx.insert("lease_take", row)

    async def renew(self, tx: Transaction, holder: str, role: str) -> None:
        await tx.run("leases_renew", (tx.now_us() + LEASE_US, holder, role))

    async def watch(self, tx: Transaction, holder: str, role: str) -> tuple[bool, list[Kill]]:
        """Whether the holder has any lease for this role, expired ones included; and the kills that hold now."""
        held = any(row[0] == role for row in await tx.rows("leases_of", (holder,)))
        return held, await kills(tx, active=True)

    async def of(self, tx: Transaction, holder: str) -> dict[tuple[str, str], int]:
        """(role, task) -> token of what the holder still has."""
        now = tx.now_us()
        rows = await tx.rows("leases_of", (holder,))
        return {(role, task_id): token for role, task_id, token, expires_us in rows if expires_us > now}

    async def check(self, tx: Transaction, delivery: Delivery) -> None:
        """That this delivery may write intents: it has the lease, and no kill came after its start."""
        row = await tx.row("lease_of", (delivery.role, delivery.task_id))
        if not delivery.token or row is None or row[0] != delivery.token:
            raise Fenced(f"the lease of {delivery.role} on task {delivery.task_id} is in other hands")
        for kill in await kills(tx, active=True):
            if kill.seq > delivery.kill_seq and covers(kill, delivery.role, delivery.task_id):
                raise Killed(kill.reason or "the kill switch covers this task", hint="gavotte lift")


async def release(tx: Transaction, token: int) -> None:
    """Let a lease go; harmless where its token has been replaced by another's."""
    await tx.run("lease_release", (token,))


async def kills(tx: Transaction, *, active: bool = False) -> list[Kill]:
    """All kills in order, or those that hold now."""
    rows = await tx.rows("kills_active" if active else "kills_all")
    return [_kill(row) for row in rows]


async def kill_by_event(tx: Transaction, event_id: str) -> tuple[Kill, str | None] | None:
    """The kill that an event raised, and the event that lifted it."""
    row = await tx.row("kill_by_event", (event_id,))
    return None if row is None else (_kill(row), row[5])


async def kill_reason(tx: Transaction, seq: int) -> str:
    """Why this kill was raised; never empty."""
    row = await tx.row("kill_by_seq", (seq,))
    return (row[4] if row else "") or "the kill switch covers this task"


def covers(kill: Kill, role: str, task_id: str) -> bool:
    """Whether a kill stops this role on this task."""
    return (
        kill.scope == "all"
        or (kill.scope == "role" and kill.target == role)
        or (kill.scope == "task" and kill.target == task_id)
    )


def _kill(row: tuple[int, str, str, str, str, str | None]) -> Kill:
    seq, event_id, scope, target, reason, lifted_by = row
    return Kill(seq, event_id, scope, target, reason, lifted_by is not None)
