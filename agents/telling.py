"""Stop 6, the news: what is recorded goes to the bus, with all that is recorded at the same time, until it is there."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from agents.emission import Emission
from bus.port import Bus, Message
from contracts.crashpoints import crashpoint
from contracts.errors import Retryable
from embedded.gathering import Gathering
from state_store.port import Recorded

log = logging.getLogger(__name__)

PAUSE_SECONDS_MIN: Final = 0.1
PAUSE_SECONDS_MAX: Final = 10.0


class Telling:
    """`await telling(recorded)`: returns when the bus has it all. What the commit itself told is there already.

    What is recorded is never dead-lettered. It is tried until it goes; after the first try by itself, so that nothing
    waits for another's topic.
    """

    def __init__(self, bus: Bus, emission: Emission) -> None:
        self._bus = bus
        self._emission = emission
        self._together: Gathering[Sequence[Message], None] = Gathering(self._publish)
        self._complained = -math.inf

    async def __call__(self, recorded: Sequence[Recorded]) -> None:
        messages = [self._emission.message(event) for event in recorded if not event.told]
        if not messages:
            return
        publish: Callable[[Sequence[Message]], Awaitable[None]] = self._together
        pause_seconds = PAUSE_SECONDS_MIN
        crashpoint("worker.publish.before")
        while True:
            try:
                await publish(messages)
                break
            except Retryable as error:
                self._complain(error)
                await asyncio.sleep(pause_seconds)
                publish, pause_seconds = self._bus.publish, min(pause_seconds * 2, PAUSE_SECONDS_MAX)
        crashpoint("worker.publish.after")

    def _complain(self, error: Retryable) -> None:
        """Once in a while for all that wait."""
        now = asyncio.get_running_loop().time()
        if now >= self._complained + PAUSE_SECONDS_MAX:
            self._complained = now
            log.warning("publishing waits for the bus: %s", error)

    async def _publish(self, calls: Sequence[Sequence[Message]]) -> Sequence[None]:
        await self._bus.publish([message for call in calls for message in call])
        return [None] * len(calls)
