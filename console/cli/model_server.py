"""`model-server`: a server that speaks the Messages API, for tests of one's own and for trying things without a key."""

from __future__ import annotations

import contextlib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from console.cli.call import Call, command
from console.cli.output import put, say
from console.words import count

if TYPE_CHECKING:
    from agents.model.faults import Fault
    from agents.model.script import Answers


def add_to(app: typer.Typer) -> None:
    """Put this command into the program."""
    command(app, "model-server")(model_server)


async def model_server(
    call: Call,
    script: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The answers, as JSON or TOML; default those of the demo.")
    ] = None,
    cassette: Annotated[
        str, typer.Option(metavar="TASK", help="Answer as the journal of this task was answered.")
    ] = "",
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND:WHEN", help="A fault, for instance 429:every=5,retry_after=2; may be repeated."),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 0,
    key: Annotated[str, typer.Option(metavar="KEY", help="The only key that is accepted; default any.")] = "",
    calls: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every call as a line of JSON, besides GET /calls.")
    ] = None,
) -> int:
    """Serve the Messages API from a script or a recorded task.

    With faults, if you like. It prints its URL.
    """
    from agents.model.faults import parse
    from agents.model.server import ModelServer, serving
    from console.cli.processes import stop_signals

    answers, faults, source = await answers_of(call, script, cassette)
    faults = (*(parse(words) for words in fault or ()), *faults)
    with contextlib.ExitStack() as opened:
        log = opened.enter_context(calls.open("a", encoding="utf-8")) if calls is not None else None
        server = ModelServer(answers, faults, key=key, calls_file=log)
        stopped = opened.enter_context(stop_signals())
        async with serving(server, host, port) as url:
            put(url)
            say(f"{source}; GAVOTTE_MODEL_URL={url} makes gavotte ask here; Ctrl-C ends it")
            await stopped.wait()
    say(f"{count(len(server.seen), 'call')}")
    return 0


async def answers_of(call: Call, script: Path | None, cassette: str) -> tuple[Answers, tuple[Fault, ...], str]:
    """Who answers, the faults that a script brings, and what to call it; raises Usage where both are named."""
    from agents.model.cassette import CassetteAnswers
    from agents.model.script import Script, ScriptAnswers
    from contracts.errors import Usage

    if cassette and script is not None:
        raise Usage("--script and --cassette are two sources of answers", hint="give the one that is meant")
    if cassette:
        runtime = await call.runtime()
        task_id = await runtime.store.find_task(cassette)
        return CassetteAnswers(await runtime.store.steps(task_id)), (), f"answers of task {task_id}"
    if script is not None:
        found = Script.load(script)
        return ScriptAnswers(found), found.faults, f"answers of {script}"
    with resources.as_file(resources.files("console").joinpath("demo_script.json")) as path:
        return ScriptAnswers(Script.load(path)), (), "answers of the demo"
