"""The tables, and how they come to be those of this build: numbered scripts, each run once by the owner."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg

from contracts.errors import GavotteError, Refused
from state_store.postgres.connections import dial, explained, shown

LOCK: Final = 0x6761766F747465_03
"""The advisory lock of whoever migrates."""
VERSIONS: Final = """
CREATE TABLE IF NOT EXISTS migrations (
    number bigint PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL, applied_at_us bigint NOT NULL)
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One script. `sha256` tells when a released one was edited."""

    number: int
    name: str
    script: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.script.encode()).hexdigest()


def known() -> list[Migration]:
    """All scripts of this build, in order."""
    folder = resources.files("state_store.postgres").joinpath("migrations")
    found = []
    for script in folder.iterdir():
        named = re.fullmatch(r"(\d{4})_(\w+)\.sql", script.name)
        if named:
            found.append(Migration(int(named[1]), named[2], script.read_text()))
    return sorted(found, key=lambda migration: migration.number)


async def connect(url: str) -> Any:
    """A plain connection for what the owner does."""
    return await dial(url, {"lock_timeout": "30s"})


async def migrate(url: str) -> list[Migration]:
    """Run the scripts that this database has not seen, each in its transaction; those that were run."""
    connection, done = await connect(url), []
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
        await connection.execute(VERSIONS)
        applied = await _applied(connection)
        _compare(applied, shown(url))
        for migration in known():
            if migration.number not in applied:
                await _run(connection, migration)
                done.append(migration)
    except GavotteError:
        raise
    except Exception as error:
        raise explained(error, shown(url)) from error
    finally:
        await asyncio.shield(connection.close(timeout=5))
    return done


async def start_over(url: str, schema: str) -> str:
    """An empty schema of this name with all tables, whatever was in it before; the address that leads into it."""
    connection = await connect(url)
    try:
        await connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE; CREATE SCHEMA "{schema}"')
    except Exception as error:
        raise explained(error, shown(url)) from error
    finally:
        await connection.close(timeout=5)
    inside = f"{url}{'&' if urlsplit(url).query else '?'}search_path={schema}"
    await migrate(inside)
    return inside


async def _run(connection: Any, migration: Migration) -> None:
    async with connection.transaction():
        await connection.execute(migration.script)
        await connection.execute(
            "INSERT INTO migrations (number, name, sha256, applied_at_us) VALUES ($1, $2, $3, $4)",
            migration.number,
            migration.name,
            migration.sha256,
            time.time_ns() // 1000,
        )


async def check(connection: Any, where: str) -> list[str]:
    """That the tables are those of this build; what has been applied. Raises Refused with the way forward."""
    try:
        applied = await _applied(connection)
    except asyncpg.UndefinedTableError:
        raise Refused(f"{where} has no tables yet", hint="gavotte store migrate") from None
    except Exception as error:
        raise explained(error, where) from error
    _compare(applied, where)
    missing = [migration for migration in known() if migration.number not in applied]
    if missing:
        names = ", ".join(f"{migration.number:04d} {migration.name}" for migration in missing)
        raise Refused(f"{where} lacks the migrations {names}", hint="gavotte store migrate")
    return [f"{number:04d}" for number in sorted(applied)]


def _compare(applied: dict[int, str], where: str) -> None:
    here = {migration.number: migration for migration in known()}
    newer = sorted(set(applied) - set(here))
    if newer:
        raise Refused(
            f"{where} was migrated by a newer build (number {newer[-1]}, this one knows {max(here)})",
            hint="upgrade gavotte here",
        )
    for number, sha256 in applied.items():
        if here[number].sha256 != sha256:
            raise Refused(
                f"{where}: migration {number:04d} was another script when it was run", hint="which build was it?"
            )


async def _applied(connection: Any) -> dict[int, str]:
    return {row[0]: row[1] for row in await connection.fetch("SELECT number, sha256 FROM migrations")}
