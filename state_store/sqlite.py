"""The store on SQLite: transactions of the database that this process shares with others."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from contracts import ids
from contracts.codec import Codec
from contracts.topology import Topology
from embedded.file import Database
from state_store import audit
from state_store.bodies import Bodies
from state_store.queries import SCHEMA, SQL
from state_store.store import Rules, Store
from state_store.transaction import Clash, Row, Values, at_once

T = TypeVar("T")


class SqliteTransaction:
    """Statements on a connection, each answered at once."""

    __slots__ = ("_clock", "_connection")

    def __init__(self, connection: sqlite3.Connection, clock: Callable[[], int] = ids.now_us) -> None:
        self._connection = connection
        self._clock = clock

    def now_us(self) -> int:
        return self._clock()

    async def one(self, name: str, values: Values = ()) -> Row:
        found: Row = self._connection.execute(SQL[name], values).fetchone()
        return found

    async def row(self, name: str, values: Values = ()) -> Row | None:
        found: Row | None = self._connection.execute(SQL[name], values).fetchone()
        return found

    async def rows(self, name: str, values: Values = ()) -> Sequence[Row]:
        return self._connection.execute(SQL[name], values).fetchall()

    async def run(self, name: str, values: Values = ()) -> int:
        return self._connection.execute(SQL[name], values).rowcount

    async def each(self, name: str, values: Sequence[Values]) -> None:
        self._connection.executemany(SQL[name], values)

    async def insert(self, name: str, values: Values) -> int:
        try:
            return self._connection.execute(SQL[name], values).lastrowid or 0
        except sqlite3.IntegrityError as error:
            raise Clash(str(error)) from error


class SqliteStore(Store):
    """`StateStore` on a database that was opened with `SCHEMA`; the database belongs to who opened it.

    `bodies` is the folder of large bodies, None keeps all in the database.
    """

    def __init__(
        self,
        database: Database,
        bodies: Path | None,
        codec: Codec,
        *,
        clock: Callable[[], int] = ids.now_us,
        is_alive: Callable[[str], bool] | None = None,
        topology: Topology | None = None,
    ) -> None:
        super().__init__(codec, Bodies(bodies), is_alive, topology)
        self._database = database
        self._clock = clock

    async def _read(self, rules: Rules[T]) -> T:
        return await self._database.read(lambda conn: at_once(rules(SqliteTransaction(conn, self._clock))))

    async def _change(self, rules: Rules[T], tasks: Sequence[str], *, alone: bool) -> T:
        """Every transaction of the file is alone in it."""
        del tasks, alone
        return await self._database.write(lambda conn: at_once(rules(SqliteTransaction(conn, self._clock))))

    async def close(self) -> None:
        """Nothing is held here: the database is closed by who opened it."""


def verify_file(path: Path, exported: audit.Heads | None = None) -> list[str]:
    """Check a database file that nobody needs to be running for; it is opened for reading only."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        return at_once(audit.faults(SqliteTransaction(connection), exported))
    finally:
        connection.close()


__all__ = ["SCHEMA", "SqliteStore", "SqliteTransaction", "verify_file"]
