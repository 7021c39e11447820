"""What the sweep claims: for each role what it should have and has not. The store alone can lose nothing by it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from contracts.topology import HEARD_BY_ALL
from state_store.consequences import CORE_ROLES
from state_store.fold import FOLD_VERSION, TaskState, deadline_id
from state_store.leases import Leases
from state_store.port import Due, Recorded
from state_store.streams import Streams, recorded
from state_store.transaction import Transaction

FOUND_MAX: Final = 500
"""Missed events and deliveries in one sweep: what is left comes with the next."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one sweep found, and how far the role's mark may move; `mark` None where it stays."""

    due: list[Due]
    mark: int | None


class Sweep:
    """Questions about all that a role has open. Reads only; the mark is moved by `move_mark`."""

    def __init__(self, streams: Streams, rules: Leases) -> None:
        self.streams = streams
        self.rules = rules

    async def look(self, tx: Transaction, role: str, consumes: Sequence[str], older_than_seconds: float) -> Found:
        """Everything due for a role, deliveries that were begun first."""
        due = await self._open(tx, role)
        due += await self._overdue(tx, role)
        cutoff_us = tx.now_us() - int(older_than_seconds * 1_000_000)
        due += await self._unpublished(tx, role, cutoff_us)
        missed, mark = await self._missed(tx, role, consumes, cutoff_us)
        return Found(due + missed, mark)

    async def next_waiting(self, tx: Transaction, role: str, task_id: str, besides: str) -> Recorded | None:
        """The earliest event of the task that could go on now."""
        for row in await self._ready(tx, role, task_id):
            meant = not besides or (row.event_id != besides and row.event_type not in HEARD_BY_ALL)
            if row.status == "started" or row.event_id != row.cause_id or not meant:
                continue
            event = await self.streams.event(tx, row.cause_id)
            if event is not None:
                return event
        return None

    # -- deliveries that were begun, retried or queued ---------------------------------------------------------------

    async def _open(self, tx: Transaction, role: str) -> list[Due]:
        found = []
        for row in await self._ready(tx, role, None):
            event = await self.streams.event(tx, row.cause_id)
            if event is None:
                continue
            if row.event_id != row.cause_id:
                found.append(Due("deadline", event, row.event_id))
            else:
                found.append(Due({"started": "lease", "retry": "retry"}.get(row.status, "waiting"), event))  # type: ignore[arg-type]  # three literals
            if len(found) == FOUND_MAX:
                break
        return found

    async def _ready(self, tx: Transaction, role: str, task_id: str | None) -> list[_Open]:
        """Open deliveries that nobody works on and that are first in line, or may pass those before them."""
        keys = {"role": role, "task_id": task_id, "now_us": tx.now_us()}
        rows = [_Open(*row) for row in await tx.rows("open_of_task" if task_id else "open_of_role", keys)]
        held: dict[str, bool] = {}
        begun: dict[str, int] = {}
        ready = []
        for row in rows:
            if row.task_id not in held:
                held[row.task_id] = row.holder is not None and self.rules.holds(tx, row.holder, row.expires_us or 0)
            first = row.first_sequence is None or row.sequence is None or row.sequence <= row.first_sequence
            if not held[row.task_id] and (first or (row.passes and row.task_id not in begun)):
                ready.append(row)
            if row.status == "started" or (row.status == "waiting" and row.passes):
                begun[row.task_id] = 1
        return ready

    # -- deadlines ---------------------------------------------------------------------------------------------------

    async def _overdue(self, tx: Transaction, role: str) -> list[Due]:
        found = []
        for task_id, text, version in await tx.rows("overdue_tasks", (role, tx.now_us())):
            if version != FOLD_VERSION:
                state = (await self.streams.head(tx, task_id)).state
            else:
                state = TaskState.model_validate_json(text)
            key = deadline_id(state)
            if await tx.row("delivery_exists", (role, key)) or await self._worked_on(tx, role, task_id):
                continue
            row = await tx.one("event_by_sequence", (task_id, state.since_sequence))
            found.append(Due("deadline", recorded(row), key))
            if len(found) == FOUND_MAX:
                break
        return found

    async def _worked_on(self, tx: Transaction, role: str, task_id: str) -> bool:
        row = await tx.row("lease_of", (role, task_id))
        return row is not None and self.rules.holds(tx, row[2], row[3])

    # -- events that never went out ----------------------------------------------------------------------------------

    async def _unpublished(self, tx: Transaction, role: str, cutoff_us: int) -> list[Due]:
        """Whoever claims these again is told that they are closed, and what to publish."""
        found = []
        for event_id, cause_id in await tx.rows("unpublished", (role, cutoff_us, FOUND_MAX)):
            event = await self.streams.event(tx, cause_id)
            if event is not None:
                found.append(Due("unpublished", event, None if event_id == cause_id else event_id))
        return found

    # -- events that never came --------------------------------------------------------------------------------------

    async def _missed(
        self, tx: Transaction, role: str, consumes: Sequence[str], cutoff_us: int
    ) -> tuple[list[Due], int | None]:
        types = _types(consumes)
        row = await tx.row("sweep_mark", (role, types))
        mark = row[0] if row else 0
        (younger,) = await tx.one("first_younger", (mark, cutoff_us))
        upto = younger - 1 if younger is not None else (await tx.one("last_position"))[0]
        if upto <= mark:
            return [], None
        keys = {"after": mark, "upto": upto, "types": types, "role": role, "core": role in CORE_ROLES}
        found = [recorded(r) for r in await tx.rows("missed", keys | {"limit": FOUND_MAX})]
        settled = found[0].position - 1 if found else upto
        return [Due("missed", event) for event in found], settled if settled > mark else None


@dataclass(frozen=True, slots=True)
class _Open:
    event_id: str
    cause_id: str
    task_id: str
    status: str
    due_us: int | None
    event_type: str
    sequence: int | None
    holder: str | None
    expires_us: int | None
    first_sequence: int | None

    @property
    def passes(self) -> bool:
        """Operators' words and deadlines need not wait for what is parked or retried."""
        return self.event_id != self.cause_id or self.event_type in HEARD_BY_ALL


async def move_mark(tx: Transaction, role: str, consumes: Sequence[str], position: int) -> None:
    """Everything up to here is settled for the role."""
    await tx.run("sweep_mark_put", (role, _types(consumes), position))


def _types(consumes: Sequence[str]) -> str:
    return json.dumps(sorted(set(consumes)))


async def mark_partitions(
    tx: Transaction, rules: Leases, role: str, partitions: Sequence[int], holder: str
) -> frozenset[int]:
    """Mark partitions dirty; those that a dead holder left dirty."""
    wanted = json.dumps(sorted(partitions))
    before = await tx.rows("marks_of", (role, wanted))
    await tx.each("mark_put", [(role, partition, holder) for partition in partitions])
    alive = rules.is_alive or (lambda _: False)
    return frozenset(partition for partition, by in before if by != holder and not alive(by))


async def clean_partitions(tx: Transaction, role: str, partitions: Sequence[int], holder: str) -> None:
    """This holder let go in an orderly way."""
    await tx.each("mark_clean", [(role, partition, holder) for partition in partitions])
