"""What a running agent does for the house: it lets the bus forget what all have read, and leaves when the house is gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator
from typing import Final

from bus.port import Bus, Prunable
from contracts.errors import GavotteError, Unavailable
from embedded.liveness import Presence

log = logging.getLogger(__name__)

INTERVAL_SECONDS: Final = 3600.0
LOOK_SECONDS: Final = 2.0


@contextlib.asynccontextmanager
async def upkeep(
    bus: Bus,
    retention_seconds: float,
    presence: Presence,
    stop: asyncio.Event,
    *,
    interval_seconds: float = INTERVAL_SECONDS,
    look_seconds: float = LOOK_SECONDS,
) -> AsyncIterator[None]:
    """While the body runs: prune the bus about once in an interval, if it keeps its log itself; and set `stop` when the
    proof that this process lives was removed, with the data folder most likely. Then Unavailable is raised at the end.
    """
    duties = [asyncio.create_task(_leave(presence, look_seconds, stop))]
    if isinstance(bus, Prunable):
        duties.append(asyncio.create_task(_prune(bus, retention_seconds, interval_seconds)))
    try:
        yield
    finally:
        for duty in duties:
            duty.cancel()
        await asyncio.gather(*duties, return_exceptions=True)
    if not presence.is_current():
        raise Unavailable(
            f"{presence.path} was removed while this agent ran: others take it for dead",
            hint="if the data folder was replaced, start again",
        )


async def gone(presence: Presence, look_seconds: float = LOOK_SECONDS) -> None:
    """Wait until the presence is no longer the one in its folder."""
    while presence.is_current():  # noqa: ASYNC110  nobody tells of a removed file
        await asyncio.sleep(look_seconds)


async def _leave(presence: Presence, look_seconds: float, stop: asyncio.Event) -> None:
    await gone(presence, look_seconds)
    stop.set()


async def _prune(bus: Prunable, retention_seconds: float, interval_seconds: float) -> None:
    while True:
        await asyncio.sleep(interval_seconds * random.uniform(0.5, 1.5))  # noqa: S311  so that not all come at once
        try:
            removed = await bus.prune(retention_seconds)
        except GavotteError as error:
            log.warning("pruning waits: %s", error)
            continue
        if removed:
            log.info("the bus has forgotten %d records that every group has read", removed)
