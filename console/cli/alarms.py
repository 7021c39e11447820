"""`alarms`: what looks wrong, over all tasks."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from console.cli.call import EXIT_FAILED, Call, Json, command
from console.cli.output import put, put_json, put_table, say, styled
from console.harmless import clipped, to_json
from console.words import moment, short_id

if TYPE_CHECKING:
    from agents.watch import Alarm
    from agents.wiring import Runtime

SENTENCE_CHARACTERS_MAX = 300


def add_to(app: typer.Typer) -> None:
    """Put this command into the program."""
    command(app)(alarms)


async def alarms(
    call: Call,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on looking; say what is new and what is over, until Ctrl-C.")
    ] = False,
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, max=3600, help="The pause between two looks of --follow.")
    ] = 5.0,
    json: Json = False,
) -> int:
    """List what looks wrong: deadlines that passed, turns that nobody takes, retries, letters; exit 1 where something does."""
    from console.alarms import fields, sentence, sight
    from contracts import ids

    runtime = await call.runtime()
    if follow:
        await _follow(runtime, every, json=json)
    found, now_us = (await sight(runtime)).alarms, ids.now_us()
    if json:
        put_json([fields(alarm, now_us) for alarm in found])
    elif found:
        rows = [
            (
                alarm.kind,
                short_id(alarm.task_id),
                moment(alarm.since_us),
                clipped(sentence(alarm, now_us), SENTENCE_CHARACTERS_MAX),
            )
            for alarm in found
        ]
        put_table(("alarm", "task", "since", "what"), rows)
    else:
        say("no alarms")
    return EXIT_FAILED if found else 0


async def _follow(runtime: Runtime, every_seconds: float, *, json: bool) -> None:
    from console.alarms import fields, follow
    from contracts import ids

    async with aclosing(follow(runtime, every_seconds)) as looks:
        async for raised, over in looks:
            for what, style, alarms_ in (("raised", "yellow", raised), ("over", "green", over)):
                for alarm in alarms_:
                    if json:
                        put(to_json({"what": what, **fields(alarm, ids.now_us())}))
                    else:
                        put(f"{moment(ids.now_us())}  {styled(line(what, alarm), style)}")


def line(what: str, alarm: Alarm) -> str:
    """An alarm as it comes or goes, in one line."""
    from console.alarms import command, sentence
    from contracts import ids

    head = f"{alarm.kind}: {short_id(alarm.task_id)}".removesuffix(": ")
    if what == "over":
        return f"{head} is over"
    return f"{head}: {clipped(sentence(alarm, ids.now_us()), SENTENCE_CHARACTERS_MAX)}; try: {command(alarm)}"
