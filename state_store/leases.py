"""Leases: who works on a task for a role, until when, and the token that fences everybody else."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from contracts.errors import Fenced, Killed
from state_store.port import Delivery, Kill
from state_store.queries import SQL

LEASE_SECONDS: Final = 10.0
"""A lease that is not renewed for this long is free; workers renew every 2 s."""
LEASE_US: Final = int(LEASE_SECONDS * 1_000_000)


@dataclass(frozen=True, slots=True)
class Leases:
    """The rules of leases by the store's clock. `is_alive` frees the leases of a dead process at once."""

    clock: Callable[[], int]
    is_alive: Callable[[str], bool] | None = None

    def holds(self, holder: str, expires_us: int) -> bool:
        """Whether a lease of this holder still keeps others out."""
        return expires_us > self.clock() and (self.is_alive is None or self.is_alive(holder))

    def take(self, conn: sqlite3.Connection, delivery: Delivery) -> int:
        """A new lease for the delivery; returns its token."""
        d = delivery
        row = (d.role, d.task_id, d.event_id, d.holder, self.clock() + LEASE_US)
        return conn.execute(SQL["lease_take"], row).lastrowid or 0

    def renew(self, conn: sqlite3.Connection, holder: str, role: str) -> None:
        conn.execute(SQL["leases_renew"], (self.clock() + LEASE_US, holder, role))

    def holding(self, conn: sqlite3.Connection, holder: str, role: str) -> bool:
        """Whether the holder has any lease for this role, expired ones included."""
        return any(row[0] == role for row in conn.execute(SQL["leases_of"], (holder,)))

    def of(self, conn: sqlite3.Connection, holder: str) -> dict[tuple[str, str], int]:
        """(role, task) -> token of what the holder still has."""
        now = self.clock()
        rows = conn.execute(SQL["leases_of"], (holder,))
        return {(role, task_id): token for role, task_id, token, expires_us in rows if expires_us > now}

    def check(self, conn: sqlite3.Connection, delivery: Delivery) -> None:
        """That this delivery may write intents: it has the lease, and no kill came after its start."""
        row = conn.execute(SQL["lease_of"], (delivery.role, delivery.task_id)).fetchone()
        if not delivery.token or row is None or row[0] != delivery.token:
            raise Fenced(f"the lease of {delivery.role} on task {delivery.task_id} is in other hands")
        for kill in kills(conn, active=True):
            if kill.seq > delivery.kill_seq and covers(kill, delivery.role, delivery.task_id):
                raise Killed(kill.reason or "the kill switch covers this task", hint="gavotte lift")


def release(conn: sqlite3.Connection, token: int) -> None:
    """Let a lease go; harmless where its token has been replaced by another's."""
    conn.execute(SQL["lease_release"], (token,))


def kills(conn: sqlite3.Connection, *, active: bool = False) -> list[Kill]:
    """All kills in order, or those that hold now."""
    rows = conn.execute(SQL["kills_active" if active else "kills_all"])
    return [_kill(row) for row in rows]


def kill_by_event(conn: sqlite3.Connection, event_id: str) -> tuple[Kill, str | None] | None:
    """The kill that an event raised, and the event that lifted it."""
    row = conn.execute(SQL["kill_by_event"], (event_id,)).fetchone()
    return None if row is None else (_kill(row), row[5])


def kill_reason(conn: sqlite3.Connection, seq: int) -> str:
    """Why this kill was raised; never empty."""
    row = conn.execute(SQL["kill_by_seq"], (seq,)).fetchone()
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
