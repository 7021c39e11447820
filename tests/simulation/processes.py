"""Standing still: a process whose handles wait, while its leases run out, and that then goes on as if nothing had been."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


class Gate:
    """Open, or shut while the process stands still."""

    def __init__(self) -> None:
        self._thawed: asyncio.Event | None = None

    def freeze(self) -> None:
        if self._thawed is None:
            self._thawed = asyncio.Event()

    def thaw(self) -> None:
        if self._thawed is not None:
            self._thawed.set()
            self._thawed = None

    async def passed(self) -> None:
        """Wait while the process stands still."""
        while self._thawed is not None:
            await self._thawed.wait()

    async def pause(self, seconds: float) -> None:
        """Time that a tool takes."""
        await self.passed()
        await asyncio.sleep(seconds)
        await self.passed()


class Handle:
    """What a process holds of store or bus: each call waits at the gate, before and after."""

    def __init__(self, gate: Gate, thing: Any) -> None:
        self._gate = gate
        self._thing = thing

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._thing, name)
        if not asyncio.iscoroutinefunction(found):
            return found
        guarded = self._guarded(found)
        setattr(self, name, guarded)
        return guarded

    def _guarded(self, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            await self._gate.passed()
            result = await method(*args, **kwargs)
            await self._gate.passed()
            return result

        return guarded
