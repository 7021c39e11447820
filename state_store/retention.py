"""What the store lets go of: the words of old steps of ended tasks, and large bodies that nothing names any more.

Events are never removed. Of a step its line stays (what was done, why, digests, cost); its arguments and its result
become empty, which no recorded text is. A task with a delivery that may still run is left whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from state_store.bodies import Bodies
from state_store.transaction import Transaction

TASKS_AT_ONCE: Final = 50
"""Tasks whose steps are emptied in one transaction, so that others get a turn."""
ROWS_PER_PAGE: Final = 500

_NAMES: Final = re.compile(rb"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Found:
    """What may go. `steps` counts, `bodies` is digest -> bytes on the disk."""

    tasks: tuple[str, ...]
    steps: int
    bodies: dict[str, int]


async def find(tx: Transaction, bodies: Bodies, before_us: int) -> Found:
    """What is older than a moment: steps of tasks that ended before it, files written before it and named nowhere."""
    rows = await tx.rows("prunable_tasks", (before_us,))
    old = bodies.files_before(before_us) | dict(await tx.rows("bodies_before", (before_us,)))
    if old:
        for digest in await _named(tx, bodies, {task_id for task_id, _ in rows}):
            old.pop(digest, None)
    return Found(tuple(task_id for task_id, _ in rows), sum(count for _, count in rows), old)


async def empty_steps(tx: Transaction, tasks: Sequence[str], before_us: int) -> None:
    """Take arguments and results out of the steps of these tasks, of those that still may be."""
    still = {task_id for task_id, _ in await tx.rows("prunable_tasks", (before_us,))}
    await tx.each("steps_empty", [(task_id,) for task_id in tasks if task_id in still])


async def remove_bodies(tx: Transaction, digests: Sequence[str], before_us: int) -> list[str]:
    """Remove bodies that lie in rows unless they were stored again meanwhile; those that are gone."""
    return [digest for digest in digests if await tx.run("body_remove", (digest, before_us))]


async def _named(tx: Transaction, bodies: Bodies, emptied: set[str]) -> set[str]:
    """Digests that anything kept names: events, steps but those of `emptied` tasks, effects, and bodies among these."""
    found: set[str] = set()
    for query in ("event_texts", "step_texts", "effect_texts", "body_texts"):
        after: int | str = "" if query in {"effect_texts", "body_texts"} else 0
        while page := await tx.rows(query, (after, ROWS_PER_PAGE)):
            for after, task_id, *texts in page:  # noqa: B007  the last one is where the next page begins
                if query != "step_texts" or task_id not in emptied:
                    found |= _digests(texts)
    unread = found
    while unread:  # a kept body may name another one
        unread = _digests([bodies.bytes_of(digest) for digest in unread]) - found
        found |= unread
    return found


def _digests(texts: Sequence[str | bytes | None]) -> set[str]:
    raw = (text.encode() if isinstance(text, str) else text for text in texts if text)
    return {name.decode() for text in raw for name in _NAMES.findall(text)}
