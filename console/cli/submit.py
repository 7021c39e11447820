"""`submit`: a task is asked for, recorded, and watched if you like."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from console.cli.call import Call, Json, command
from console.cli.output import on_terminal, put, put_json, say, warn
from console.harmless import clipped, harmless
from console.words import count

if TYPE_CHECKING:
    from agents.wiring import Runtime
    from console.submission import Author, Submitted
    from console.supervise import Crew
    from state_store.fold import TaskState

PATIENCE_SECONDS = 1.5
NO_TESTS = "no tests found, so no change can pass (--test CMD names them)"
AUTHORS = ("model", "command", "patch")


def add_to(app: typer.Typer) -> None:
    """Put this command into the program."""
    command(app)(submit)


async def submit(
    call: Call,
    description: Annotated[
        str, typer.Argument(metavar="[DESCRIPTION]", help="What is to be done, in words; - reads stdin.")
    ] = "",
    repo: Annotated[Path, typer.Option(metavar="PATH", help="The repository; its HEAD is used.")] = Path(),
    title: Annotated[
        str, typer.Option(metavar="TEXT", help="A line for lists; default the first line of the description.")
    ] = "",
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="A file with the description.")] = None,
    author: Annotated[
        str, typer.Option(metavar="|".join(AUTHORS), help="Who writes the change; default by what is given.")
    ] = "",
    command_: Annotated[
        str, typer.Option("--command", metavar="CMD", help="The codemod of the author `command`.")
    ] = "",
    patch: Annotated[str, typer.Option(metavar="FILE", help="The diff of the author `patch`; - reads stdin.")] = "",
    scope: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Files it may touch; may be repeated.")
    ] = None,
    tokens: Annotated[int | None, typer.Option(min=0, help="At most so many tokens.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="At most so many model and tool calls.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="At most so many minutes of work.")] = None,
    dollars: Annotated[float | None, typer.Option(min=0, help="At most so many dollars.")] = None,
    revisions: Annotated[int | None, typer.Option(min=1, help="At most so many proposed changes.")] = None,
    idempotency_key: Annotated[
        str, typer.Option(metavar="KEY", help="Submitting again with this key is the same task.")
    ] = "",
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow it until it ends or waits for a person.")
    ] = False,
    json: Json = False,
) -> int:
    """Ask for a change to a repository: it is planned, written, tested, reviewed and, after your word, deployed."""
    from console.cli.budgets import named_caps
    from console.submission import Wish
    from console.submission import submit as record
    from console.supervise import living_roles

    settings = call.settings
    caps = named_caps(tokens, steps, minutes, dollars)
    wish = Wish(
        repository=repo,
        author=chosen_author(author, command_, patch),
        title=title or (f"Apply {Path(patch).name}" if patch not in {"", "-"} and not description and not file else ""),
        description=described(description, file),
        command=words_of(command_),
        patch=bytes_of(patch) if patch else None,
        scope=tuple(scope or ()),
        budget=settings.tasks.budget().model_copy(update=caps),
        revisions_max=revisions or settings.tasks.revisions,
        idempotency_key=idempotency_key or None,
    )
    running = living_roles(settings.run)
    async with AsyncExitStack() as opened:
        crew = await own_crew(call, opened) if watch and not running else None
        runtime = await call.runtime(create=True)
        with patience("copying the commit out of the repository ..."):
            made = await record(runtime, wish)
        talk(made)
        if json:
            put_json(submitted_fields(made))
        elif not watch:
            put(f"task {made.task_id}")
        if not watch:
            if not running:
                say(f"no agents are running: gavotte up{call.suffix()}")
            return 0
        return await watched(call, runtime, made.task_id, crew, json=json)


@contextmanager
def patience(words: str) -> Iterator[None]:
    """Say on a terminal what takes so long, if it does."""
    waiting = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, say, words) if sys.stderr.isatty() else None
    try:
        yield
    finally:
        if waiting is not None:
            waiting.cancel()


async def own_crew(call: Call, opened: AsyncExitStack) -> Crew:
    """Four agents for the life of this command."""
    from console.acts import enrol
    from console.supervise import Crew, posts

    settings = call.settings.make_folders()
    enrol(settings)
    crew = await opened.enter_async_context(Crew(settings, posts()))
    say("no agents are running: starting four for the life of this command")
    await crew.ready()
    return crew


async def watched(call: Call, runtime: Runtime, task_id: str, crew: Crew | None, *, json: bool) -> int:
    """Follow the task; a person at the terminal is asked for the approval, and the task followed on."""
    from console.acts import state_of
    from console.cli.watch import finish, put_heading, until_rest

    if not json:
        put_heading(await state_of(runtime, task_id))
    after = 0
    while True:
        state = await until_rest(runtime, task_id, after=after, crew=crew, quiet=json)
        after = state.sequence
        asks = not json and on_terminal() and state.step == "awaiting_approval" and state.pause is None
        if not asks or not await decided(runtime, state):
            return await finish(call, state)


async def decided(runtime: Runtime, state: TaskState) -> bool:
    """Ask the person at the terminal; False where they leave it open."""
    from console import acts
    from console.cli.acts import confirmed, put_request

    what = await acts.asked(runtime, state.task_id)
    put_request(what)
    if not await confirmed(runtime, what):
        return False
    await acts.approve(runtime, what)
    return True


def talk(made: Submitted) -> None:
    """What a person should know about the repository."""
    settings = made.project.settings
    if made.facts.dirty_files:
        left = count(made.facts.dirty_files, "changed or new file is", "changed or new files are")
        warn(f"{left} left out: HEAD ({made.facts.head_commit[:12]}) is used; commit what should be in")
    if made.new_project:
        tests = f"tests by `{clipped(shlex.join(settings.test_command), 100)}`" if settings.test_command else NO_TESTS
        name, path = harmless(made.project.name), harmless(shlex.quote(made.project.path))
        say(f"registered {name}: {tests}, approval {settings.approval};")
        say(f"  released to {harmless(settings.production or '')}; to change it: gavotte project add {path}")


def submitted_fields(made: Submitted) -> dict[str, object]:
    """A submission for programs."""
    return {
        "task_id": made.task_id,
        "title": made.title,
        "repository": made.project.path,
        "base_commit": made.facts.head_commit,
        "project": made.project.name,
        "project_registered": made.new_project,
        "files_left_out": made.facts.dirty_files,
    }


def chosen_author(author: str, command: str, patch: str) -> Author:
    """The author that was named, or follows from what was given; raises Usage where the two disagree."""
    from contracts.errors import Usage

    if author and author not in AUTHORS:
        raise Usage(f"no author is called {author!r}", hint=f"known: {', '.join(AUTHORS)}")
    given = [name for name, value in (("patch", patch), ("command", command)) if value]
    if len(given) > 1 or (author and given and given != [author]):
        raise Usage("--patch and --command belong to one author each", hint="give the one that is meant")
    return author or (given[0] if given else "model")  # type: ignore[return-value]  # checked against AUTHORS above


def described(description: str, file: Path | None) -> str:
    """The description from the argument, a file or stdin."""
    from contracts.errors import Usage

    if file is not None and description:
        raise Usage("the description is given twice", hint="give the argument or --file")
    if file is not None:
        description = bytes_of(str(file)).decode("utf-8", "replace")
    elif description == "-":
        description = sys.stdin.buffer.read().decode("utf-8", "replace")
    return description.strip()


def words_of(command: str) -> tuple[str, ...]:
    """A command line as words, as a shell would split it; nothing of it is run by a shell."""
    import shlex

    from contracts.errors import Usage

    try:
        return tuple(shlex.split(command))
    except ValueError as error:
        raise Usage(f"--command: {error}", hint="close the quote") from None


def bytes_of(file: str) -> bytes:
    """A file's bytes, or those of stdin; raises Usage."""
    from contracts.errors import Usage

    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).expanduser().read_bytes()
    except OSError as error:
        raise Usage(f"{file} cannot be read: {error.strerror}") from None
