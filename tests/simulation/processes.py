"""Two ways to be away without being dead: cut off from store and bus, and standing still.

A process that is cut off goes on by itself, its clock ticks and its watchdogs bark, but every call waits. One that stands
still does nothing at all, as on a machine that was suspended: it comes back later and knows nothing of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from bus import simulated
from bus.simulated import Process, SimulatedLoop

is_of_the_dead = simulated._is_of_the_dead


class Gate:
    """Between a process and the rest: open, or shut while it is cut off."""

    def __init__(self) -> None:
        self._opened: asyncio.Event | None = None

    def shut(self) -> None:
        if self._opened is None:
            self._opened = asyncio.Event()

    def open(self) -> None:
        if self._opened is not None:
            self._opened.set()
            self._opened = None

    async def passed(self) -> None:
        """Wait while the process is cut off."""
        while self._opened is not None:
            await self._opened.wait()


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


class Freezer:
    """Keeps what a process that stands still was about to do, and gives it back when it goes on."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self._kept: dict[Process, list[asyncio.Handle]] = {}

    def freeze(self, process: Process) -> None:
        self._kept.setdefault(process, [])

    def thaw(self, process: Process) -> None:
        self._loop._ready.extend(self._kept.pop(process, []))

    def passes_over(self, handle: asyncio.Handle) -> bool:
        """Whether the loop shall not run this: it is of the dead, or of one that stands still."""
        process = handle._context.get(simulated._process)  # type: ignore[attr-defined]  # what the loop itself asks
        if process in self._kept and process.alive:
            self._kept[process].append(handle)
            return True
        return is_of_the_dead(handle)
