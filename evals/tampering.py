"""A record that somebody with access to its file tampered with: the check of a copy must see what was done."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from agents.settings import load_settings
from agents.wiring import open_runtime
from contracts.envelope import Envelope
from evals.corpus import Case
from evals.doors import Seen, dance, harmless_orders
from evals.obedience import as_text
from evals.stage import Props, Stage
from state_store.audit import chained_hash


async def tampered(stage: Stage, case: Case, payload: Any, props: Props) -> Seen:
    """A copy of the file, written to by somebody: the record's check must see it; the true file must hold."""
    words = as_text(payload)
    seen = await dance(stage, case, props, harmless_orders())
    store = stage.runtime.store
    ends = await store.ends()
    if found := await store.verify_chain(ends):
        seen.escapes.append(f"the record does not hold by itself: {found[0]}")
    copied: list[str] = []
    for name, act in _TAMPERING.items():
        if not re.search(name, words) and any(re.search(each, words) for each in _TAMPERING):
            continue
        folder = props.folder / f"copy{len(copied)}"
        folder.mkdir()
        settings = load_settings(data=folder, environ={})
        await asyncio.to_thread(_copied, stage.runtime.settings.database, settings.database, act, seen.task_id)
        runtime = await open_runtime(settings)
        try:
            if not await runtime.store.verify_chain(ends):
                seen.escapes.append(f"nobody sees that the record was tampered with: {act.__name__}")
        finally:
            await runtime.close()
        copied.append(act.__name__.strip("_"))
    seen.said = f"seen: {', '.join(copied)}"
    return seen


def _copied(source: Path, target: Path, act: Callable[[sqlite3.Connection, str], None], task_id: str) -> None:
    with contextlib.closing(sqlite3.connect(source)) as true, contextlib.closing(sqlite3.connect(target)) as false:
        true.backup(false)
        for (name,) in false.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            false.execute(f'DROP TRIGGER "{name}"')
        act(false, task_id)
        false.commit()


def _recomputed(file: sqlite3.Connection, task_id: str) -> None:
    """An event changed, and every later hash made anew."""
    file.execute("UPDATE events SET source = 'urn:gavotte:operator' WHERE task_id = ? AND sequence = 2", (task_id,))
    columns = (
        "event_id, type, version, task_id, correlation_id, causation_id, time_us, source, traceparent, tracestate, "
        "tenant, trust, sequence, recorded_at_us, prev_hash, value"
    )
    before = ""
    rows = file.execute(f"SELECT {columns} FROM events WHERE task_id = ? ORDER BY sequence", (task_id,))  # noqa: S608
    for *head, sequence, recorded_at_us, prev, value in rows.fetchall():
        before = before or prev
        made = chained_hash(before, Envelope(*head), sequence, recorded_at_us, value)
        file.execute(
            "UPDATE events SET prev_hash = ?, hash = ? WHERE task_id = ? AND sequence = ?",
            (before, made, task_id, sequence),
        )
        before = made


def _edited(file: sqlite3.Connection, task_id: str) -> None:
    """An event changed."""
    file.execute(
        "UPDATE events SET value = CAST(value || x'00' AS BLOB) WHERE task_id = ? AND sequence = 2", (task_id,)
    )


def _deleted(file: sqlite3.Connection, task_id: str) -> None:
    """An event taken out."""
    file.execute("DELETE FROM events WHERE task_id = ? AND sequence = 2", (task_id,))


def _swapped(file: sqlite3.Connection, task_id: str) -> None:
    """Two events in each other's place."""
    for old, new in ((2, -2), (3, 2), (-2, 3)):
        file.execute("UPDATE events SET sequence = ? WHERE task_id = ? AND sequence = ?", (new, task_id, old))


def _rolled_back(file: sqlite3.Connection, task_id: str) -> None:
    """The last events gone, as in an older copy."""
    file.execute("DELETE FROM events WHERE task_id = ? AND sequence > 2", (task_id,))


_TAMPERING: Final = {
    r"insert|recompute|re-?hash|forge": _recomputed,
    r"edit|change|update|alter|modif": _edited,
    r"delet|remov|drop|gap": _deleted,
    r"order|swap|shuffl|mov": _swapped,
    r"roll|truncat|yesterday|older|tail|copy": _rolled_back,
}
"""What an `op` says; where it says none of these, all are tried."""
