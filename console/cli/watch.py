"""`watch` and `why`: a task as it happens, and why it stands where it stands."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from console.cli.call import EXIT_FAILED, EXIT_WAITS_FOR_PERSON, Call, Json, TaskId, command
from console.cli.output import put, put_hanging, put_json, say, styled
from console.harmless import clipped, harmless
from console.words import MICRO, moment, short_id, span

if TYPE_CHECKING:
    from agents.wiring import Runtime
    from console.following import Seen
    from console.supervise import Crew
    from state_store.fold import TaskState

SILENCE_SECONDS = 2.0
SENTENCE_CHARACTERS_MAX = 2000
STYLES = {
    "TaskSucceeded": "green",
    "ProductionDeployed": "green",
    "ReviewPassed": "green",
    "TaskFailed": "red",
    "TaskCancelled": "red",
    "DeploymentRolledBack": "red",
    "ChangesRequested": "yellow",
    "TaskEscalated": "yellow",
    "BudgetExhausted": "yellow",
    "ApprovalRequested": "bold",
}


def add_to(app: typer.Typer) -> None:
    """Put these commands into the program."""
    command(app)(watch)
    command(app)(why)


async def watch(call: Call, task: TaskId) -> int:
    """Follow a task until it ends or waits for a person."""
    runtime = await call.runtime()
    task_id = await runtime.store.find_task(task)
    put_heading(await _state(runtime, task_id))
    state = await until_rest(runtime, task_id)
    return await finish(call, state)


async def why(call: Call, task: TaskId, json: Json = False) -> None:
    """Say whose turn it is, since when, until when, and what is awaited from whom."""
    from dataclasses import asdict

    from console.supervise import living_agents
    from console.why import explain
    from contracts import ids

    runtime = await call.runtime()
    task_id = await runtime.store.find_task(task)
    state = await _state(runtime, task_id)
    inbox = await runtime.store.inbox(task_id=task_id)
    kills = await runtime.store.kills()
    found = explain(state, inbox, kills, living_agents(call.settings), ids.now_us())
    if json:
        put_json(asdict(found))
        return
    put(f'Task {short_id(task_id)} "{clipped(state.title, 100)}" {standing(state)}.')
    for sentence in found.sentences:
        put(clipped(sentence, SENTENCE_CHARACTERS_MAX))
    for said in found.commands:
        put(f"  try: {harmless(said)}{call.suffix()}")


async def _state(runtime: Runtime, task_id: str) -> TaskState:
    from console.acts import state_of

    return await state_of(runtime, task_id)


def standing(state: TaskState) -> str:
    """Where a task stands, as the end of a sentence."""
    if state.ended:
        return "was cancelled" if state.step == "cancelled" else f"has {state.step}"
    return f"is {state.status}, step {state.step.replace('_', ' ')}"


def nearby(path: str) -> str:
    """A path below the current folder is shown from here."""
    here = Path.cwd()
    return f"./{Path(path).relative_to(here)}" if Path(path).is_relative_to(here) else path


def put_heading(state: TaskState) -> None:
    """The first line of a timeline."""
    title = clipped(state.title, 100)
    put(f'{styled(f"Task {short_id(state.task_id)}", "bold")} "{title}"   {harmless(nearby(state.repository))}')


async def until_rest(
    runtime: Runtime, task_id: str, *, after: int = 0, crew: Crew | None = None, quiet: bool = False
) -> TaskState:
    """Print the events after a sequence as they come, until the task ends or waits for a person.

    With a crew of our own, its failure ends the wait (Unavailable).
    """
    from contracts.errors import Unavailable

    watching = asyncio.create_task(_until_rest(runtime, task_id, after, quiet=quiet))
    other = asyncio.create_task(crew.failed.wait() if crew is not None else notice_silence(runtime))
    try:
        await asyncio.wait({watching, other} if crew is not None else {watching}, return_when=asyncio.FIRST_COMPLETED)
        if crew is not None and not watching.done():
            raise Unavailable(crew.failure, hint=f"look into {crew.settings.logs}")
        return await watching
    finally:
        watching.cancel()
        other.cancel()
        await asyncio.gather(watching, other, return_exceptions=True)


async def notice_silence(runtime: Runtime) -> bool:
    """Say once that no agents are running, so that nobody waits for nothing."""
    from console.supervise import living_roles

    while True:
        await asyncio.sleep(SILENCE_SECONDS)
        if not living_roles(runtime.settings.run):
            say("no agents are running, nothing moves: gavotte up")
            return True


async def _until_rest(runtime: Runtime, task_id: str, after: int, *, quiet: bool) -> TaskState:
    from contextlib import aclosing

    from console.following import PERSON_STATUSES, follow

    row = await runtime.store.task(task_id)
    head = row.state.sequence if row else 0
    async with aclosing(follow(runtime, task_id)) as events:
        async for seen in events:
            if seen.recorded.sequence > after and not quiet:
                put_event(seen, runtime.settings.operator_name)
            resting = seen.state.ended or seen.state.status in PERSON_STATUSES
            if resting and seen.recorded.sequence >= max(head, after):
                return seen.state
    raise AssertionError("a task is followed for ever")


def put_event(seen: Seen, me: str) -> None:
    """One line of the timeline, and what belongs below it."""
    line = seen.line(me)
    began = seen.state.submitted_at_us or seen.recorded.envelope.time_us
    at = span_since(seen.recorded.envelope.time_us - began)
    what = f"{line.what:<18}"
    shown = f"{styled(at, 'dim')}  {line.who:<9} {styled(what, STYLES.get(line.what, ''))} "
    put_hanging(f"{at}  {line.who:<9} {what} ", line.detail, shown)
    for text in line.below:
        put_hanging(f"{'':>21}└ ", text)


def span_since(elapsed_us: int) -> str:
    """Time since the submission, as the timeline's first column."""
    seconds = elapsed_us / MICRO
    return f"{f'{seconds:.1f} s' if seconds < 600 else span(seconds):>9}"


async def finish(call: Call, state: TaskState) -> int:
    """The last words of a watched task, and the exit code; a person at a terminal is asked for the approval."""
    if state.step == "succeeded":
        return 0
    if state.ended:
        say(f"the task {standing(state)}: {clipped(state.outcome or '', 300)}")
        return EXIT_FAILED
    id_ = short_id(state.task_id)
    if state.pause is not None:
        say(f"waits for a person: {clipped(state.pause.reason, 300)}")
        hint = state.pause.hint or f"gavotte resume {id_}"
        say(f"  try: {harmless(hint)}{call.suffix()}")
        return EXIT_WAITS_FOR_PERSON
    until = moment(state.approval.expires_at_us) if state.approval else ""
    say(f"waits for a person until {until}: gavotte approve {id_}{call.suffix()}")
    return EXIT_WAITS_FOR_PERSON
