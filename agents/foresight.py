"""Stops 2 and 3 of the path for many records at once, where they give no question; the others are left to their deliveries."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agents.work import Work
    from agents.worker import Worker
    from contracts.envelope import Event


async def foresee(worker: Worker, works: Iterable[Work]) -> None:
    """Decode these records and ask the inbox for all of them with one look; each work has what was found for it.

    They are to be handled now: what is seen here is as old as that.
    """
    found: dict[str, tuple[Work, Event, bytes]] = {}
    for work in works:
        try:
            event, value = await worker.read(work)
        except Exception:  # noqa: BLE001, S112  # read again by its delivery, where one place decides what it means
            continue
        if event is not None:
            found[event.id] = (work, event, value)
    if not found:
        return
    for event_id, claim in (await worker.store.ready(worker.agent.role, list(found))).items():
        work, event, value = found[event_id]
        work.foreseen = (event, value, claim)
