"""`config`: every setting with its origin, and whether what the settings name is there and answers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from console.cli.call import Call, Json, command
from console.cli.machine import put_findings
from console.cli.output import put_json, put_table
from console.doctor import ANSWER_SECONDS_MAX, Finding, bus, registry, store, tried
from console.words import count
from contracts.errors import GavotteError

if TYPE_CHECKING:
    from agents.settings import Settings

MADE_WHEN_NEEDED: Final = frozenset({"data", "operator.key"})

config = typer.Typer(help="Settings and where each came from.", no_args_is_help=True, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Put these commands into the program."""
    app.add_typer(config, name="config")
    command(config)(show)
    command(config)(check)


def show(call: Call, json: Json = False) -> None:
    """Print every setting, its value and its origin; secrets are masked."""
    rows = call.settings.rows()
    if json:
        put_json([{"key": key, "value": value, "origin": origin} for key, value, origin in rows])
        return
    put_table(("setting", "value", "origin"), rows)


async def check(call: Call, json: Json = False) -> int:
    """Read the settings and try what they name: files, registry, store, bus; exit 1 where something does not answer."""
    settings = call.settings  # Usage names what is wrong with them
    chosen = [key for key, _, origin in settings.rows() if origin != "default"]
    found = [Finding("settings", "ok", f"{count(len(chosen), 'value')} set, the rest by default", "")]
    found += files(settings)
    found.append(await tried("registry", lambda: registry(settings)))
    found += await dependencies(call)
    return put_findings(found, json=json)


def files(settings: Settings) -> list[Finding]:
    """Files that are set and cannot be read."""
    wrong = []
    for key, value, origin in settings.rows():
        path = Path(value)
        if key in MADE_WHEN_NEEDED or not value or not isinstance(settings.value(key), Path) or path.is_file():
            continue
        wrong.append(Finding("files", "lacks", f"{key}: there is no file {path}", f"it is set by {origin}"))
    return wrong


async def dependencies(call: Call) -> list[Finding]:
    """Store and bus, each by a question whose answer changes nothing."""
    settings = call.settings
    if not settings.has_record:
        made = Finding("store", "ok", f"{settings.database} is made at first use")
        return [made] if settings.bus.backend == "embedded" else [made, await tried("bus", lambda: bus_alone(settings))]
    try:
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            runtime = await call.runtime()
    except GavotteError as error:
        return [Finding("store, bus", "lacks", error.message, error.hint)]
    except TimeoutError:
        return [Finding("store, bus", "lacks", f"no answer within {ANSWER_SECONDS_MAX:g} s", "gavotte doctor")]
    return [await tried("store", lambda: store(runtime)), await tried("bus", lambda: bus(runtime))]


async def bus_alone(settings: Settings) -> str:
    """That the bus answers, where there is no store yet."""
    from agents.wiring import open_bus
    from contracts.topology import Topology

    async with open_bus(settings) as (there, _):
        await there.read(Topology().topics()[0], records_max=1)
    return f"{settings.bus.backend} answers"
