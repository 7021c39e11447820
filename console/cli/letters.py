"""`dlq`: what could not be handled, and how it is sent on its way again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from console.cli.call import Call, Json, command
from console.cli.output import put, put_fields, put_json, put_table, say
from console.harmless import clipped, harmless_lines, to_json
from console.words import moment, short_id

if TYPE_CHECKING:
    from agents.wiring import Runtime
    from dlq_tools.letters import Found

Reference = Annotated[
    str, typer.Argument(metavar="LETTER", help="Any unique part of the event's id, or the letter's place.")
]
Role = Annotated[str, typer.Option(metavar="ROLE", help="Whose letter, where several roles failed on one event.")]

dlq = typer.Typer(help="Letters: what could not be handled.", no_args_is_help=True, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Put these commands into the program."""
    app.add_typer(dlq, name="dlq")
    command(dlq, "list")(list_)
    command(dlq)(show)
    command(dlq)(redrive)


async def list_(
    call: Call,
    all_: Annotated[
        bool, typer.Option("--all", help="Also those handled since, and those that a redrive followed.")
    ] = False,
    json: Json = False,
) -> None:
    """List the letters that wait for somebody, the newest first."""
    from dlq_tools.letters import newest

    runtime = await call.runtime()
    every = await _letters(runtime)
    found = every if all_ else [each for each in newest(every) if each.open]
    if json:
        put_json([fields(each) for each in found])
        return
    if not found:
        say("no letters")
        return
    rows = [
        (
            short_id(each.event_id) or each.place,
            each.role,
            each.envelope.type if each.envelope else "unreadable",
            short_id(each.task_id),
            str(each.letter.attempt),
            each.letter.code,
            moment(each.letter.last_at_us),
            clipped(each.letter.message, 80),
        )
        for each in found
    ]
    put_table(("letter", "role", "event", "task", "tries", "code", "since", "reason"), rows, right=("tries",))


async def show(call: Call, letter: Reference, role: Role = "", json: Json = False) -> None:
    """Print a letter: what came, who failed on it, and how."""
    from dlq_tools.letters import pick

    runtime = await call.runtime()
    found = pick(await _letters(runtime), letter, role)
    said = fields(found) | {"payload": await payload_of(runtime, found), "stacktrace": found.letter.stacktrace}
    if json:
        put_json(said)
        return
    put_fields([_for_people(name, value) for name, value in said.items() if name != "stacktrace" and value is not None])
    if found.letter.stacktrace:
        put()
        put(harmless_lines(found.letter.stacktrace).rstrip())


def _for_people(name: str, value: Any) -> tuple[str, str]:
    """A field of a letter in words: times as moments, data as JSON."""
    if name.endswith("_us"):
        return name.removesuffix("_us"), moment(value)
    return name, to_json(value) if isinstance(value, dict | bool) else str(value)


async def redrive(call: Call, letter: Reference, role: Role = "", json: Json = False) -> None:
    """Try a letter again: its task goes on by a signed act of yours, and the record returns to its topic."""
    from console import acts
    from dlq_tools import letters
    from state_store.port import TaskRow

    runtime = await call.runtime()
    found = letters.pick(await _letters(runtime), letter, role)
    operator = runtime.settings.operator_name
    row: TaskRow | None = await runtime.store.task(found.task_id) if found.task_id else None
    resumed = row is not None and row.state.pause is not None and row.state.pause.kind == "escalated"
    if row is not None and resumed:
        await acts.resume(runtime, row.state, note=f"redrive of {found.event_id} for {found.role}")
    reopened = await letters.redrive(runtime.bus, runtime.store, found, operator)
    if json:
        put_json({**fields(found), "reopened": reopened, "resumed": resumed})
        return
    put(
        f"redriven {found.event_id or found.place} to {found.role}"
        + (", its task is resumed, signed" if resumed else "")
    )


async def _letters(runtime: Runtime) -> list[Found]:
    from dlq_tools.letters import letters

    return await letters(runtime.bus, runtime.store, runtime.topology)


async def payload_of(runtime: Runtime, found: Found) -> Any:
    """The payload as far as it can be read."""
    from contracts.errors import GavotteError

    try:
        stored = await runtime.codec.inward(found.envelope, found.letter.headers, found.letter.value)
        return runtime.codec.decode_plain(stored)[2]
    except GavotteError as error:
        return f"{len(found.letter.value)} bytes: {error.message}"


def fields(found: Found) -> dict[str, Any]:
    """A letter for programs. Times are microseconds."""
    letter = found.letter
    return {
        "event_id": found.event_id or None,
        "task_id": found.task_id or None,
        "type": found.envelope.type if found.envelope else None,
        "role": found.role,
        "open": found.open,
        "place": found.place,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "code": letter.code,
        "stage": letter.stage,
        "message": letter.message,
        "error_class": letter.error_class,
        "attempt": letter.attempt,
        "instance": letter.instance,
        "first_at_us": letter.first_at_us,
        "last_at_us": letter.last_at_us,
        "redrive_count": letter.redrive_count,
    }
