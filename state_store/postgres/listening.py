"""News of the log as the server tells it: one connection that listens, for all who wait in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

from contracts.errors import GavotteError
from state_store.postgres.connections import SESSION, dial

CHANNEL: Final = "gavotte_events"
"""The trigger on events notifies it, and the server passes that on when the transaction is committed."""


class Listener:
    """Wakes whoever waits when something was recorded. What it cannot hear it does not promise: look, too."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None
        self._news = asyncio.Event()
        self._opening = asyncio.Lock()

    async def alarm(self) -> Callable[[float], Awaitable[None]]:
        """Listen from now on, where the server can be reached; what waits until something is heard, or for so long."""
        async with self._opening:
            if self._connection is None or self._connection.is_closed():
                with contextlib.suppress(GavotteError):  # whoever waits looks as well, and is told there
                    await self._listen()
        news = self._news

        async def wait(seconds: float) -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):  # wait_for may swallow a cancellation
                    await news.wait()

        return wait

    async def _listen(self) -> None:
        connection = await dial(self._url, SESSION | {"application_name": "gavotte listener"})
        await connection.add_listener(CHANNEL, self._hear)
        connection.add_termination_listener(self._hear)
        self._connection = connection

    async def close(self) -> None:
        """Stop listening. Safe to call twice."""
        if self._connection is not None:
            with contextlib.suppress(Exception):
                await self._connection.close(timeout=2.0)
            self._connection = None

    def _hear(self, *_: object) -> None:
        self._news.set()
        self._news = asyncio.Event()
