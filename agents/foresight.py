"""Stops 2 and 3 of the path for many records at once, where they give no question; the others are left to their deliveries."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agents.work import Work
    from agents.worker import Worker
    from contracts.envelope import Event


def foresee(worker: Worker, works: Iterable[Work]) -> None:
    """Ask the inbox for all of these with one look; each work has what was found for it. They begin now.

    Of records alone whose bytes are the stored ones: others are checked one by one.
    """
    found: dict[str, tuple[Work, Event, bytes]] = {}
    for work in works:
        record = work.record
        if record is None or record.envelope is None or work.careful:
            continue
        try:
            event = worker.recall(work, record, record.envelope)
        except Exception:  # noqa: BLE001, S112  # read again by its delivery, where one place decides what it means
            continue
        found[event.id] = (work, event, record.value)
    if not found:
        return
    for event_id, claim in worker.store.ready(worker.agent.role, list(found)).items():
        work, event, value = found[event_id]
        work.foreseen = (event, value, claim)
