"""The database in memory and inline, for simulations: no threads, every commit a point where a seed may interleave."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, TypeVar

from contracts.errors import Unavailable
from embedded.file import Database, Occupied

T = TypeVar("T")

CrashPoint = Callable[[str], None]
"""Called with 'before_commit' or 'after_commit'; raises to let the process of the simulation die there."""


class InlineDatabase(Database):
    """The same interface over `:memory:`. Several processes of one simulation each hold a `share` of it.

    A share's `crash_point` may raise: before the commit the change is undone, after it the change stays and the caller
    never hears of it. Closing a share leaves the data to the others; the last one closed drops it.
    """

    def __init__(self, store: _Memory, crash_point: CrashPoint | None = None) -> None:
        self.path = Path(":memory:")
        self._store = store
        self._crash_point = crash_point
        self._closed = False
        store.shares += 1

    @classmethod
    async def open(cls, path: Path = Path(":memory:"), *, schema: Sequence[str] = ()) -> Self:  # noqa: ARG003
        """A new, empty database; the path is ignored."""
        connection = sqlite3.connect(":memory:", isolation_level=None, cached_statements=512)
        connection.execute("PRAGMA recursive_triggers=ON")
        database = cls(_Memory(connection))
        await database.add_schema(schema)
        return database

    async def add_schema(self, schema: Sequence[str]) -> None:
        for script in schema:
            self._store.connection.executescript(script)

    def share(self, crash_point: CrashPoint | None = None) -> InlineDatabase:
        """The same data for another process of the simulation."""
        return InlineDatabase(self._store, crash_point)

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        await asyncio.sleep(0)
        return self.look(query)

    def look(self, query: Callable[[sqlite3.Connection], T]) -> T:
        self._check_open()
        return query(self._store.connection)

    def write_at_once(self, change: Callable[[sqlite3.Connection], T], *, flush: bool = True) -> T:
        """Never here: each commit is a point at which others may come between."""
        del change, flush
        raise Occupied

    async def survey(self, query: Callable[[sqlite3.Connection], T]) -> T:
        return await self.read(query)

    async def write(self, change: Callable[[sqlite3.Connection], T], *, flush: bool = True) -> T:
        del flush  # nothing of it outlives the simulation
        await asyncio.sleep(0)
        self._check_open()
        connection = self._store.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = change(connection)
            self._may_crash("before_commit")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._may_crash("after_commit")
        await asyncio.sleep(0)
        return result

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._store.shares -= 1
        if self._store.shares == 0:
            self._store.connection.close()

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the database of this simulation is closed in this process")

    def _may_crash(self, point: str) -> None:
        if self._crash_point is not None:
            self._crash_point(point)


class _Memory:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.shares = 0
