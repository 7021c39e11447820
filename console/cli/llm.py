"""`llm`: the calls of models that a task made, and each of them down to the bytes that were sent."""

from __future__ import annotations

import json as json_
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from console.cli.call import Call, Json, command
from console.cli.output import put, put_fields, put_json, put_table, say
from console.harmless import clipped, harmless_lines
from console.words import count, dollars, moment, short_id, span

if TYPE_CHECKING:
    from agents.model.calls import CallRecord
    from agents.wiring import Runtime
    from state_store.port import Step

MILLI = 1000


def add_to(app: typer.Typer) -> None:
    """Put this command into the program."""
    command(app)(llm)


async def llm(
    call: Call,
    what: Annotated[
        list[str], typer.Argument(metavar="TASK | show ID", help="The task whose calls are listed, or one call of it.")
    ],
    request: Annotated[
        bool, typer.Option("--request", help="With `show`: print the bytes of the request, as they were sent.")
    ] = False,
    response: Annotated[
        bool, typer.Option("--response", help="With `show`: print what the model answered, as it came.")
    ] = False,
    json: Json = False,
) -> None:
    """List the calls of models that a task made, or `show ID` one of them."""
    from contracts.errors import Usage

    shows = what[0] == "show"
    if len(what) != 1 + shows or (not shows and (request or response)) or (request and response):
        raise Usage("name a task, or `show` and the id of one call", hint="gavotte llm TASK; gavotte llm show ID")
    runtime = await call.runtime()
    if shows:
        await put_call(runtime, what[1], request=request, response=response, json=json)
    else:
        await put_calls(runtime, what[0], json=json)


async def put_calls(runtime: Runtime, task: str, *, json: bool) -> None:
    """The list of a task's calls."""
    from agents.model.calls import records

    task_id = await runtime.store.find_task(task)
    found = records(await runtime.store.steps(task_id))
    if json:
        put_json([asdict(record) for record in found])
        return
    if not found:
        say("this task has asked no model")
        return
    head = ("call", "time", "role", "model", "prompt", "outcome", "took", "in", "out", "cost")
    put_table(head, [_row(record) for record in found], right=("took", "in", "out", "cost"))
    tokens = sum(record.tokens_in + record.tokens_out for record in found)
    cost = sum(record.cost_microdollars for record in found)
    guessed = sum(record.estimated for record in found)
    rest = f", {guessed} estimated (~)" if guessed else ""
    say(f"{count(len(found), 'call')}, {count(tokens, 'token')}, {dollars(cost)}{rest}")


def _row(record: CallRecord) -> tuple[str, ...]:
    task_id, _, number = record.id.partition(".")
    guess = "~" if record.estimated else ""
    odd = record.stop_reason if record.stop_reason in {"max_tokens", "refusal"} else ""
    outcome = "abandoned" if record.abandoned else record.failure or odd or record.outcome
    return (
        f"{short_id(task_id)}.{number}",
        moment(record.began_at_us),
        record.role if record.purpose == record.role else f"{record.role} ({record.purpose})",
        record.model,
        f"{record.prompt} {record.prompt_hash[:8]}",
        outcome.replace("_", " "),
        "" if record.latency_ms is None else span(record.latency_ms / MILLI),
        f"{guess}{record.tokens_in}",
        str(record.tokens_out),
        f"{guess}{dollars(record.cost_microdollars)}",
    )


async def put_call(runtime: Runtime, id_: str, *, request: bool, response: bool, json: bool) -> None:
    """One call: what is known of it, or the bytes of its request or response."""
    from agents.model.calls import request_of
    from contracts.errors import NotFound

    record, step = await find_call(runtime, id_)
    if request:
        await _put_raw(await request_of(runtime.store, step))
        return
    answer: dict[str, Any] = json_.loads(step.result) if step.result else {}
    if response:
        if "message" not in answer:
            raise NotFound(f"call {record.id} brought no answer: {record.error or record.outcome}")
        put_json(answer["message"])
        return
    fields = asdict(record)
    if json:
        put_json({**fields, "answer": answer.get("message")})
        return
    put_fields([(name.replace("_", " "), clipped(str(value), 400)) for name, value in fields.items() if value])


async def _put_raw(raw: bytes) -> None:
    """Bytes as they are into a pipe, and harmless ones onto a terminal."""
    if sys.stdout.isatty():
        put(harmless_lines(raw.decode("utf-8", "replace")))
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(raw)
    sys.stdout.buffer.flush()


async def find_call(runtime: Runtime, id_: str) -> tuple[CallRecord, Step]:
    """A call by the id that `llm TASK` lists; raises NotFound or Usage."""
    from agents.model.calls import calls, records
    from contracts.errors import NotFound, Usage

    task, dot, number = id_.rpartition(".")
    if not dot or not number.isdecimal():
        raise Usage(f"{id_!r} is no id of a call", hint="gavotte llm TASK lists them, for instance 3f6c2a11.2")
    task_id = await runtime.store.find_task(task)
    steps = await runtime.store.steps(task_id)
    at = int(number) - 1
    found = list(zip(records(steps), calls(steps), strict=True))
    if not 0 <= at < len(found):
        raise NotFound(f"task {task_id} has {count(len(found), 'call')}, none has the number {number}")
    return found[at]
