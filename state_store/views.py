"""The view of tasks: rows that say nothing but what their events say, and can be dropped and folded anew."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from contracts.errors import NotFound, Usage
from contracts.ids import SYSTEM_TASK
from state_store.fold import FOLD_VERSION, TaskState, due_us, owner
from state_store.journal import spent_of
from state_store.port import TaskFilter, TaskRow
from state_store.streams import Head, Story, Streams
from state_store.transaction import Transaction

CANDIDATES_SHOWN = 5


async def save(tx: Transaction, head: Head, now_us: int) -> None:
    """Write the row of the task at its head; the stream of the system has none."""
    if head.task_id == SYSTEM_TASK:
        return
    row = view_row(head, now_us)
    if await tx.run("view_update", row) == 0:
        await tx.run("view_insert", row)


COLUMNS: Final = (
    *("task_id", "sequence", "head_hash", "fold_version", "status", "step", "owner", "due_us", "title"),
    *("updated_at_us", "state"),
)
"""Of a view, but for what names its beginning."""


def view_values(head: Head, now_us: int) -> tuple[Any, ...]:
    """What a view says of a task at its head, in the order of `COLUMNS`."""
    state = head.state
    text = state.model_dump_json(exclude_defaults=True)  # it is written at each hop
    return (
        *(head.task_id, head.sequence, head.hash, FOLD_VERSION, state.status, state.step, owner(state), due_us(state)),
        *(state.title, now_us, text),
    )


def view_row(head: Head, now_us: int) -> dict[str, Any]:
    """The same by the names of the columns."""
    return dict(zip(COLUMNS, view_values(head, now_us), strict=True))


async def rebuild_after(tx: Transaction, streams: Streams, after: str, limit: int) -> tuple[int, str | None]:
    """Fold the next tasks anew, in the order of their ids, and put their views in place: whoever looks misses none.

    Returns how many tasks, and the last one's id, None at the end. `limit` is of events.
    """
    stories, ended = await streams.stories(tx, after, limit)
    anew = [_view_anew(story) for story in stories]
    if anew:
        await tx.each("view_put", anew)
    ids = [view["task_id"] for view in anew]
    if ended:
        await tx.run("views_drop_after", (FOLD_VERSION, after, json.dumps(ids)))
        return len(ids), None
    await tx.run("views_drop", (FOLD_VERSION, after, ids[-1], json.dumps(ids)))
    return len(ids), ids[-1]


def _view_anew(story: Story) -> dict[str, Any]:
    first, last, state = story
    row = view_row(Head(last.task_id, last.sequence, last.hash, state), last.recorded_at_us)
    return row | {"first_position": first.position, "correlation_id": first.correlation_id}


async def task_row(tx: Transaction, streams: Streams, task_id: str) -> TaskRow | None:
    """One task; folded where its view is missing."""
    rows = await _rows(tx, streams, TaskFilter(limit=1), task_id)
    if rows:
        return rows[0]
    events = await streams.read(tx, task_id)
    if not events or task_id == SYSTEM_TASK:
        return None
    state = await streams.state_at(tx, task_id, events[-1].sequence)
    return TaskRow(state, await spent_of(tx, task_id), events[0].envelope.correlation_id, events[-1].recorded_at_us)


async def task_rows(tx: Transaction, streams: Streams, wanted: TaskFilter) -> list[TaskRow]:
    """Tasks, newest first."""
    return await _rows(tx, streams, wanted, None)


async def _rows(tx: Transaction, streams: Streams, wanted: TaskFilter, task_id: str | None) -> list[TaskRow]:
    found = await tx.rows(
        "task_rows",
        {
            "task_id": task_id,
            "statuses": json.dumps(wanted.statuses) if wanted.statuses else None,
            "text": wanted.text,
            "retrying": wanted.retrying,
            "limit": wanted.limit,
        },
    )
    rows = []
    for id_, sequence, version, text, *rest in found:
        if version == FOLD_VERSION:
            state = TaskState.model_validate_json(text)
        else:  # another build's view: it may say what this one cannot read
            state = await streams.state_at(tx, id_, sequence)
        rows.append(TaskRow(state, await spent_of(tx, id_), *rest))
    return rows


async def find_task(tx: Transaction, part: str) -> str:
    """The one task whose id has this part."""
    wanted = part.strip().lower()
    if not re.fullmatch(r"[0-9a-f-]{1,36}", wanted):
        raise NotFound(f"no task is called {part!r}", hint="gavotte tasks lists them; any unique part of an id will do")
    found: list[str] = [task_id for (task_id,) in await tx.rows("task_ids_like", (wanted, CANDIDATES_SHOWN + 1))]
    if not found:
        raise NotFound(f"no task has {part!r} in its id", hint="gavotte tasks lists them")
    if len(found) > 1:
        shown = ", ".join(found[:CANDIDATES_SHOWN]) + (", ..." if len(found) > CANDIDATES_SHOWN else "")
        raise Usage(f"{part!r} could be any of {shown}", hint="type more of the id")
    return found[0]
