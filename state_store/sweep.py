"""What the sweep claims: for each role what it should have and has not. The store alone can lose nothing by it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from contracts.topology import HEARD_BY_ALL
from state_store.consequences import CORE_ROLES
from state_store.fold import FOLD_VERSION, TaskState, deadline_id
from state_store.leases import Leases
from state_store.port import Due, Recorded
from state_store.queries import SQL
from state_store.streams import Streams, recorded

FOUND_MAX: Final = 500
"""Missed events and deliveries in one sweep: what is left comes with the next."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one sweep found, and how far the role's mark may move; `mark` None where it stays."""

    due: list[Due]
    mark: int | None


class Sweep:
    """Questions about all that a role has open. Reads only; the mark is moved by `move_mark`."""

    def __init__(self, streams: Streams, rules: Leases, clock: Callable[[], int]) -> None:
        self.streams = streams
        self.rules = rules
        self.clock = clock

    def look(self, conn: sqlite3.Connection, role: str, consumes: Sequence[str], older_than_seconds: float) -> Found:
        """Everything due for a role, deliveries that were begun first."""
        due = self._open(conn, role)
        due += self._overdue(conn, role)
        cutoff_us = self.clock() - int(older_than_seconds * 1_000_000)
        due += self._unpublished(conn, role, cutoff_us)
        missed, mark = self._missed(conn, role, consumes, cutoff_us)
        return Found(due + missed, mark)

    def next_waiting(self, conn: sqlite3.Connection, role: str, task_id: str, besides: str) -> Recorded | None:
        """The earliest event of the task that could go on now."""
        for row in self._ready(conn, role, task_id):
            if row.status == "started" or row.event_id != row.cause_id or row.event_id == besides:
                continue
            event = self.streams.event(conn, row.cause_id)
            if event is not None:
                return event
        return None

    # -- deliveries that were begun, retried or queued ---------------------------------------------------------------

    def _open(self, conn: sqlite3.Connection, role: str) -> list[Due]:
        found = []
        for row in self._ready(conn, role, None):
            event = self.streams.event(conn, row.cause_id)
            if event is None:
                continue
            if row.event_id != row.cause_id:
                found.append(Due("deadline", event, row.event_id))
            else:
                found.append(Due({"started": "lease", "retry": "retry"}.get(row.status, "waiting"), event))  # type: ignore[arg-type]  # three literals
            if len(found) == FOUND_MAX:
                break
        return found

    def _ready(self, conn: sqlite3.Connection, role: str, task_id: str | None) -> list[_Open]:
        """Open deliveries that nobody works on and that are first in line, or may pass those before them."""
        keys = {"role": role, "task_id": task_id, "now_us": self.clock()}
        rows = [_Open(*row) for row in conn.execute(SQL["open_of_task" if task_id else "open_of_role"], keys)]
        held: dict[str, bool] = {}
        begun: dict[str, int] = {}
        ready = []
        for row in rows:
            if row.task_id not in held:
                held[row.task_id] = row.holder is not None and self.rules.holds(row.holder, row.expires_us or 0)
            first = row.first_sequence is None or row.sequence is None or row.sequence <= row.first_sequence
            if not held[row.task_id] and (first or (row.passes and row.task_id not in begun)):
                ready.append(row)
            if row.status == "started" or (row.status == "waiting" and row.passes):
                begun[row.task_id] = 1
        return ready

    # -- deadlines ---------------------------------------------------------------------------------------------------

    def _overdue(self, conn: sqlite3.Connection, role: str) -> list[Due]:
        found = []
        for task_id, text, version in conn.execute(SQL["overdue_tasks"], (role, self.clock())).fetchall():
            if version != FOLD_VERSION:
                state = self.streams.head(conn, task_id).state
            else:
                state = TaskState.model_validate_json(text)
            key = deadline_id(state)
            if conn.execute(SQL["delivery_exists"], (role, key)).fetchone() or self._worked_on(conn, role, task_id):
                continue
            row = conn.execute(SQL["event_by_sequence"], (task_id, state.since_sequence)).fetchone()
            found.append(Due("deadline", recorded(row), key))
            if len(found) == FOUND_MAX:
                break
        return found

    def _worked_on(self, conn: sqlite3.Connection, role: str, task_id: str) -> bool:
        row = conn.execute(SQL["lease_of"], (role, task_id)).fetchone()
        return row is not None and self.rules.holds(row[2], row[3])

    # -- events that never went out ----------------------------------------------------------------------------------

    def _unpublished(self, conn: sqlite3.Connection, role: str, cutoff_us: int) -> list[Due]:
        """Whoever claims these again is told that they are closed, and what to publish."""
        found = []
        for event_id, cause_id in conn.execute(SQL["unpublished"], (role, cutoff_us, FOUND_MAX)).fetchall():
            event = self.streams.event(conn, cause_id)
            if event is not None:
                found.append(Due("unpublished", event, None if event_id == cause_id else event_id))
        return found

    # -- events that never came --------------------------------------------------------------------------------------

    def _missed(
        self, conn: sqlite3.Connection, role: str, consumes: Sequence[str], cutoff_us: int
    ) -> tuple[list[Due], int | None]:
        types = _types(consumes)
        row = conn.execute(SQL["sweep_mark"], (role, types)).fetchone()
        mark = row[0] if row else 0
        (younger,) = conn.execute(SQL["first_younger"], (mark, cutoff_us)).fetchone()
        upto = younger - 1 if younger is not None else conn.execute(SQL["last_position"]).fetchone()[0]
        if upto <= mark:
            return [], None
        keys = {"after": mark, "upto": upto, "types": types, "role": role, "core": role in CORE_ROLES}
        found = [recorded(r) for r in conn.execute(SQL["missed"], keys | {"limit": FOUND_MAX})]
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


def move_mark(conn: sqlite3.Connection, role: str, consumes: Sequence[str], position: int) -> None:
    """Everything up to here is settled for the role."""
    conn.execute(SQL["sweep_mark_put"], (role, _types(consumes), position))


def _types(consumes: Sequence[str]) -> str:
    return json.dumps(sorted(set(consumes)))


def mark_partitions(
    conn: sqlite3.Connection, rules: Leases, role: str, partitions: Sequence[int], holder: str
) -> frozenset[int]:
    """Mark partitions dirty; those that a dead holder left dirty."""
    wanted = json.dumps(sorted(partitions))
    before = conn.execute(SQL["marks_of"], (role, wanted)).fetchall()
    conn.executemany(SQL["mark_put"], [(role, partition, holder) for partition in partitions])
    alive = rules.is_alive or (lambda _: False)
    return frozenset(partition for partition, by in before if by != holder and not alive(by))


def clean_partitions(conn: sqlite3.Connection, role: str, partitions: Sequence[int], holder: str) -> None:
    """This holder let go in an orderly way."""
    conn.executemany(SQL["mark_clean"], [(role, partition, holder) for partition in partitions])
