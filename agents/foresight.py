"""Stops 2 and 3 of the path for many records at once, where they give no question; the others are left to their deliveries."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from agents.work import Work
from bus.lanes import Lanes
from contracts.envelope import Event
from contracts.errors import Retryable
from state_store.port import Claim

if TYPE_CHECKING:
    from agents.worker import Worker

Found = dict[str, tuple[Work, Event, bytes]]
"""event id -> its work, the event, the value as it is stored."""


def foresee(worker: Worker, works: Iterable[Work]) -> None:
    """Ask the inbox for all of these with one look; each work has what was found for it. They begin now.

    Of records alone whose bytes are the stored ones.
    """
    found: Found = {}
    for work in works:
        record = work.record
        if record is None or record.envelope is None or work.careful:
            continue
        try:
            work.envelope, event = record.envelope, worker.recall(record, record.envelope)
        except Exception:  # noqa: BLE001, S112  # read again by its delivery, where one place decides what it means
            continue
        found[event.id] = (work, event, record.value)
    if not found:
        return
    _seen(found, worker.store.ready(worker.agent.role, list(found)))


async def foresee_there(worker: Worker, works: Iterable[Work]) -> None:
    """The same for records whose bytes are checked, by a store that may be on a server.

    Those are left out of which a registry is to be asked first.
    """
    found: Found = {}
    for work in works:
        record = work.record
        if record is None or record.envelope is not None or not worker.codec.wire.knows(record.value):
            continue
        try:
            event, value = await worker.read(work)
        except Exception:  # noqa: BLE001, S112  # likewise
            continue
        if event is not None:
            found[event.id] = (work, event, value)
    if found:
        with contextlib.suppress(Retryable):  # each asks for itself, and hears of it
            _seen(found, await worker.store.ready_there(worker.agent.role, list(found)))


def first_in_line(lanes: Lanes[Work], works: Iterable[Work | None]) -> list[Work]:
    """Those that will be handled at once; what is seen for one that is queued would be old when its turn comes."""
    room, keys, found = lanes.room, set[bytes](), list[Work]()
    for work in works:
        if work is None or work.key in keys:
            continue
        keys.add(work.key)
        if len(found) < room and not work.careful and lanes.is_free(work.key):
            found.append(work)
    return found


def _seen(found: Found, ready: Mapping[str, Claim]) -> None:
    for event_id, claim in ready.items():
        work, event, value = found[event_id]
        work.foreseen = (event, value, claim)
