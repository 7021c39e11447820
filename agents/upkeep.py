"""What a running agent does for the house: now and then it lets the bus forget what every group has read long ago."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator
from typing import Final

from bus.port import Bus, Prunable
from contracts.errors import GavotteError

log = logging.getLogger(__name__)

INTERVAL_SECONDS: Final = 3600.0


@contextlib.asynccontextmanager
async def upkeep(
    bus: Bus, retention_seconds: float, *, interval_seconds: float = INTERVAL_SECONDS
) -> AsyncIterator[None]:
    """Prune the bus about once in an interval while the body runs, if it keeps its log itself."""
    if not isinstance(bus, Prunable):
        yield
        return
    pruning = asyncio.create_task(_prune(bus, retention_seconds, interval_seconds))
    try:
        yield
    finally:
        pruning.cancel()
        await asyncio.gather(pruning, return_exceptions=True)


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
