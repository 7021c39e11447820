"""Which store the settings name: a file in the data folder, or a PostgreSQL database."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from contracts.errors import Usage

if TYPE_CHECKING:
    from agents.settings import Settings
    from bus.port import Bus
    from contracts.codec import Codec
    from contracts.topology import Topology
    from embedded.file import Database
    from state_store.port import StateStore


async def file_of(settings: Settings) -> Database | None:
    """The file of the data folder with the tables of whatever lives in it; None where nothing does."""
    from embedded.file import Database

    schema = []
    if settings.store.backend == "sqlite":
        from state_store.queries import SCHEMA as STORE_SCHEMA

        schema.append(STORE_SCHEMA)
    if settings.bus.backend == "embedded":
        from bus.embedded import SCHEMA as BUS_SCHEMA

        schema.append(BUS_SCHEMA)
    return await Database.open(settings.database, schema=schema) if schema else None


async def store_of(
    settings: Settings, database: Database | None, codec: Codec, topology: Topology, bus: Bus | None = None
) -> StateStore:
    """The store; `database` is that file, and `bus` told by its commits where it is in there, too.

    Raises Unavailable, Refused or Usage with the way forward.
    """
    if settings.store.backend == "postgres":
        from state_store.postgres.store import PostgresStore

        url, size = postgres_url(settings), settings.store.connections
        return await PostgresStore.open(url, codec, size=size, topology=topology)
    if database is None:
        raise Usage("the store sqlite lives in a file, and none was opened")
    from agents.transport import news_of
    from embedded.liveness import is_alive
    from state_store.sqlite import SqliteStore

    alive = functools.partial(is_alive, settings.run)
    news = news_of(bus, topology) if bus is not None else None
    return SqliteStore(database, settings.bodies, codec, is_alive=alive, topology=topology, news=news)


def postgres_url(settings: Settings, *, owner: bool = False) -> str:
    """The address of the database; for the owner of its tables the one that is set apart, if there is one."""
    chosen = settings.store
    url = (chosen.owner_url if owner else None) or chosen.url
    if url is None:
        raise Usage(
            "store.backend is postgres and store.url names no database",
            hint="GAVOTTE_STORE__URL=postgresql://user:password@host/database; make kafka runs a server here",
        )
    return url.get_secret_value()
