"""The broker and the PostgreSQL server of a run: real ones, durable as they are set up, started at the first use.

All that is measured on them shares them, each with topics and tables of its own. The address of a running server in
`GAVOTTE_BENCH_KAFKA` or `GAVOTTE_BENCH_POSTGRES` is used instead; its CPU time is then not known.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from deploy.local.kafka import Kafka
from deploy.local.postgres import SUPERUSER, Postgres

SEGMENTS = 24
"""Of the write-ahead log that are filled and then used again, more than a round needs: a server that has run for a while
has such. A new one makes each of 16 MiB when it comes to it, some 70 ms in which nobody can commit."""
FILL_SEGMENT = "SELECT pg_logical_emit_message(true, 'bench', 'x'); SELECT pg_switch_wal()"


class Servers:
    """Ended by `close`; what was never asked for was never started."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._pids: dict[str, int] = {}

    def close(self) -> None:
        self._stack.close()

    @cached_property
    def kafka(self) -> str:
        """Where the broker is, as `bootstrap.servers` wants it."""
        if given := os.environ.get("GAVOTTE_BENCH_KAFKA"):
            return given
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="gavotte-bench-kafka-"))
        broker = self._stack.enter_context(Kafka(Path(folder), heap_mib=512))
        self._pids["broker"] = broker.pid or 0
        return broker.servers

    @cached_property
    def postgres(self) -> str:
        """The address of the database, as the owner of what is made in it."""
        if given := os.environ.get("GAVOTTE_BENCH_POSTGRES"):
            return given
        server = self._stack.enter_context(Postgres(settings={"min_wal_size": "1GB"}))
        self._pids["postgres"] = server.pid or 0
        asyncio.run(_execute(server.url_of(SUPERUSER), *[FILL_SEGMENT] * SEGMENTS, "CHECKPOINT"))
        return server.url

    def execute(self, statement: str) -> None:
        """Run a statement in the database."""
        asyncio.run(_execute(self.postgres, statement))

    @contextlib.contextmanager
    def schema(self) -> Iterator[str]:
        """The address of an empty schema, dropped at the end."""
        name = f"bench_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE SCHEMA {name}")
        try:
            yield f"{self.postgres}?options=-csearch_path%3D{name}"
        finally:
            self.execute(f"DROP SCHEMA {name} CASCADE")

    def pids(self) -> dict[str, list[int]]:
        """The processes of each server that was started here."""
        return {name: [pid, *children(pid)] for name, pid in self._pids.items()}


def children(pid: int) -> list[int]:
    """The direct children of a process."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def _execute(url: str, *statements: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
