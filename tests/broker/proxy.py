"""A wire that can be cut: connections go through it to a port, until it breaks and after it is mended."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self


class Wire:
    """Forwards 127.0.0.1:`front` to 127.0.0.1:`behind`."""

    def __init__(self, front: int, behind: int) -> None:
        self.front = front
        self.behind = behind
        self.cut = False
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.front)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.breaks()
        assert self._server is not None
        self._server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def breaks(self) -> None:
        """Every connection ends, and new ones at once."""
        self.cut = True
        for end in list(self._ends):
            end.transport.abort()
        await asyncio.sleep(0)

    def is_mended(self) -> None:
        """Connections go through again."""
        self.cut = False

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.cut:
            writer.transport.abort()
            return
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.behind)
        except OSError:
            writer.transport.abort()
            return
        self._ends |= {writer, there_writer}
        for source, target in ((reader, there_writer), (there_reader, writer)):
            task = asyncio.create_task(self._forward(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while found := await source.read(65536):
                target.write(found)
                await target.drain()
        target.transport.abort()
        self._ends.discard(target)
