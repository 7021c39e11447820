"""The view of tasks: rows that say nothing but what their events say, and can be dropped and folded anew."""

from __future__ import annotations

import json
import re
import sqlite3

from contracts.errors import NotFound, Usage
from contracts.ids import SYSTEM_TASK
from state_store.fold import FOLD_VERSION, TaskState, due_us, owner
from state_store.journal import spent_of
from state_store.port import TaskFilter, TaskRow
from state_store.queries import SQL
from state_store.streams import Head, Streams

CANDIDATES_SHOWN = 5


def save(conn: sqlite3.Connection, head: Head, now_us: int) -> None:
    """Write the row of the task at its head; the stream of the system has none."""
    if head.task_id == SYSTEM_TASK:
        return
    state = head.state
    row = {
        "task_id": head.task_id,
        "sequence": head.sequence,
        "head_hash": head.hash,
        "fold_version": FOLD_VERSION,
        "status": state.status,
        "step": state.step,
        "owner": owner(state),
        "due_us": due_us(state),
        "title": state.title,
        "updated_at_us": now_us,
        "state": state.model_dump_json(),
    }
    if conn.execute(SQL["view_update"], row).rowcount == 0:
        conn.execute(SQL["view_insert"], row)


def drop(conn: sqlite3.Connection) -> None:
    """Forget the views that this build may rebuild."""
    conn.execute(SQL["views_drop"], (FOLD_VERSION,))


def rebuild_after(conn: sqlite3.Connection, streams: Streams, after: str, limit: int) -> list[str]:
    """Fold the next tasks in the order of their ids; returns their ids, fewer than `limit` at the end."""
    found = [task_id for (task_id,) in conn.execute(SQL["tasks_after"], (after, limit))]
    for task_id in found:
        if task_id == SYSTEM_TASK:
            continue
        head = streams.head(conn, task_id)
        (last_us,) = conn.execute(SQL["last_recorded"], (task_id, head.sequence)).fetchone()
        save(conn, head, last_us)
    return found


def task_row(conn: sqlite3.Connection, streams: Streams, task_id: str) -> TaskRow | None:
    """One task; folded where its view is missing."""
    rows = _rows(conn, streams, TaskFilter(limit=1), task_id)
    if rows:
        return rows[0]
    events = streams.read(conn, task_id)
    if not events or task_id == SYSTEM_TASK:
        return None
    state = streams.state_at(conn, task_id, events[-1].sequence)
    return TaskRow(state, spent_of(conn, task_id), events[0].envelope.correlation_id, events[-1].recorded_at_us)


def task_rows(conn: sqlite3.Connection, streams: Streams, wanted: TaskFilter) -> list[TaskRow]:
    """Tasks, newest first."""
    return _rows(conn, streams, wanted, None)


def _rows(conn: sqlite3.Connection, streams: Streams, wanted: TaskFilter, task_id: str | None) -> list[TaskRow]:
    found = conn.execute(
        SQL["task_rows"],
        {
            "task_id": task_id,
            "statuses": json.dumps(wanted.statuses) if wanted.statuses else None,
            "text": wanted.text,
            "retrying": wanted.retrying,
            "limit": wanted.limit,
        },
    ).fetchall()
    rows = []
    for id_, sequence, version, text, *rest in found:
        if version == FOLD_VERSION:
            state = TaskState.model_validate_json(text)
        else:  # another build's view: it may say what this one cannot read
            state = streams.state_at(conn, id_, sequence)
        rows.append(TaskRow(state, spent_of(conn, id_), *rest))
    return rows


def find_task(conn: sqlite3.Connection, part: str) -> str:
    """The one task whose id has this part."""
    wanted = part.strip().lower()
    if not re.fullmatch(r"[0-9a-f-]{1,36}", wanted):
        raise NotFound(f"no task is called {part!r}", hint="gavotte tasks lists them; any unique part of an id will do")
    found: list[str] = [task_id for (task_id,) in conn.execute(SQL["task_ids_like"], (wanted, CANDIDATES_SHOWN + 1))]
    if not found:
        raise NotFound(f"no task has {part!r} in its id", hint="gavotte tasks lists them")
    if len(found) > 1:
        shown = ", ".join(found[:CANDIDATES_SHOWN]) + (", ..." if len(found) > CANDIDATES_SHOWN else "")
        raise Usage(f"{part!r} could be any of {shown}", hint="type more of the id")
    return found[0]
