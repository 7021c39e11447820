"""`config`: every setting with its origin, and whether what the settings name is there and answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from console.cli.call import Call, Json, command
from console.cli.machine import put_findings
from console.cli.output import put_json, put_table
from console.doctor import Finding
from console.words import count
from contracts.errors import GavotteError

if TYPE_CHECKING:
    from agents.settings import Settings
    from agents.wiring import Runtime

ANSWER_SECONDS_MAX: Final = 30.0
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


async def registry(settings: Settings) -> str:
    """That the schema registry answers and knows our events."""
    from agents.wiring import registry_of
    from contracts.confluent import subject_of
    from contracts.registry import CommittedIds

    there = registry_of(settings)
    if there is None:
        return "none: the committed ids travel"
    try:
        first = CommittedIds().all()[0]
        known = await there.lookup(subject_of(first), first.text)
    finally:
        await there.close()
    return f"{there.url} answers" + ("" if known else "; our events are not there yet: gavotte contracts push")


async def dependencies(call: Call) -> list[Finding]:
    """Store and bus, each by a question whose answer changes nothing."""
    settings = call.settings
    if settings.store.backend == "sqlite" and not settings.database.exists():
        return [Finding("store", "ok", f"{settings.database} is made at first use")]
    try:
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            runtime = await call.runtime()
    except GavotteError as error:
        return [Finding("store, bus", "lacks", error.message, error.hint)]
    except TimeoutError:
        return [Finding("store, bus", "lacks", f"no answer within {ANSWER_SECONDS_MAX:g} s", "gavotte doctor")]
    return [await tried("store", lambda: store(runtime)), await tried("bus", lambda: bus(runtime))]


async def store(runtime: Runtime) -> str:
    """That the store answers."""
    events = (await runtime.store.statistics()).get("events", 0)
    return f"{runtime.settings.store.backend} answers: {count(events, 'event')}"


async def bus(runtime: Runtime) -> str:
    """That the bus answers."""
    topics = runtime.topology.topics()
    for topic in topics:
        await runtime.bus.read(topic, records_max=1)
    return f"{runtime.settings.bus.backend} answers: {count(len(topics), 'topic')}"


async def tried(name: str, question: Callable[[], Awaitable[str]]) -> Finding:
    """A finding of what was answered, or of why there was no answer."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            return Finding(name, "ok", await question())
    except GavotteError as error:
        return Finding(name, "lacks", error.message, error.hint)
    except TimeoutError:
        return Finding(name, "lacks", f"no answer within {ANSWER_SECONDS_MAX:g} s", "gavotte doctor")
