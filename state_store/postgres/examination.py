"""What a server, its tables and our rights there are like, in findings a person can act on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from contracts.errors import Refused
from state_store.postgres.connections import shown
from state_store.postgres.migrations import check, connect

VERSION_MIN: Final = 15
DURABLE: Final = {"fsync": ("on",), "full_page_writes": ("on",), "synchronous_commit": ("on", "remote_apply")}
"""Settings without which an acknowledged commit can be lost, and the values that keep it."""
FORBIDDEN: Final = ("UPDATE", "DELETE", "TRUNCATE")


@dataclass(frozen=True, slots=True)
class Seen:
    """`ok`; `better`: it works and could be better; `lacks`: something needed is missing."""

    name: str
    verdict: Literal["ok", "better", "lacks"]
    said: str
    hint: str = ""


async def examine(url: str) -> list[Seen]:
    """Look at everything that can be looked at. Raises Unavailable, Refused or Usage where we are not let in."""
    connection = await connect(url)
    try:
        found = [await _server(connection, shown(url)), *await _durability(connection)]
        tables = await _tables(connection, shown(url))
        found.append(tables)
        if tables.verdict == "ok":
            found.append(await _rights(connection))
    finally:
        await connection.close(timeout=5)
    return found


async def _server(connection: Any, where: str) -> Seen:
    version = connection.get_server_version()
    said = f"{where}: version {version.major}.{version.micro}"
    if version.major < VERSION_MIN:
        return Seen("server", "lacks", said, f"PostgreSQL {VERSION_MIN} or newer")
    return Seen("server", "ok", said)


async def _durability(connection: Any) -> list[Seen]:
    found = []
    for name, safe in DURABLE.items():
        value = await connection.fetchval("SELECT current_setting($1)", name)
        if value not in safe:
            lost = "the loss of one machine" if value in {"local", "remote_write"} else "a power cut"
            found.append(Seen(name, "better", f"it is {value}: {lost} may lose what was acknowledged", f"{name} = on"))
    return found or [Seen("durability", "ok", "what is acknowledged is on the disk")]


async def _tables(connection: Any, where: str) -> Seen:
    try:
        applied = await check(connection, where)
    except Refused as error:
        return Seen("tables", "lacks", error.message, error.hint)
    return Seen("tables", "ok", f"as this build knows them (migration {applied[-1]})")


async def _rights(connection: Any) -> Seen:
    user = await connection.fetchval("SELECT session_user")
    missing = [
        right
        for right in ("SELECT", "INSERT")
        if not await connection.fetchval("SELECT has_table_privilege('events', $1)", right)
    ]
    if missing:
        return Seen("rights", "lacks", f"{user} may not {' or '.join(missing)} events", "gavotte store grants")
    broad = [
        right for right in FORBIDDEN if await connection.fetchval("SELECT has_table_privilege('events', $1)", right)
    ]
    if broad:
        said = f"{user} is the owner of the tables, or as good as that: only triggers hold it back"
        return Seen("rights", "better", said, "give each role a login of its own: gavotte store grants")
    rows = await connection.fetch("SELECT type FROM writers WHERE db_role = session_user ORDER BY type")
    return Seen("rights", "ok", f"{user} may write {', '.join(row[0] for row in rows) or 'nothing'}")
