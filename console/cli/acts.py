"""What a person decides: approve, deny, cancel, resume, kill, lift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from console.cli.call import Call, Json, TaskId, command
from console.cli.output import on_terminal, put, put_fields, put_json, say
from console.harmless import harmless, harmless_lines
from console.words import moment, short_digest, short_id

if TYPE_CHECKING:
    from agents.wiring import Runtime
    from console.acts import Asked
    from state_store.port import Kill, Recorded

Note = Annotated[str, typer.Option(metavar="TEXT", help="A word for the record.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why; it goes into the record.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Values = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A corrected value; may be repeated.")
]


def add_to(app: typer.Typer) -> None:
    """Put these commands into the program."""
    for function in (approve, deny, cancel, resume):
        command(app)(function)
    command(app)(kill)
    command(app)(lift)


async def approve(
    call: Call,
    task: TaskId,
    note: Note = "",
    values: Values = None,
    digest: Annotated[str, typer.Option(metavar="DIGEST", help="Approve only if this is what is asked for.")] = "",
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Let what was reviewed into production: exactly the digest that is shown."""
    from console import acts
    from contracts.errors import Conflict

    runtime = await call.runtime()
    what = await acts.asked(runtime, await runtime.store.find_task(task))
    if digest and what.approval.digest != digest:
        raise Conflict(f"asked for is {what.approval.digest}, not {digest}", hint="look at it again: gavotte diff")
    if not json:
        put_request(what)
    if on_terminal() and not yes and not await confirmed(runtime, what):
        say("nothing was decided")
        return 1
    recorded = await acts.approve(runtime, what, note=note, values=acts.pairs(values or []))
    own = " by the one who submitted it" if what.state.submitter == runtime.settings.operator_name else ""
    put_act(call, recorded, json, f"approved {short_digest(what.approval.digest)}{own}, signed")
    return 0


async def deny(call: Call, task: TaskId, reason: Reason = "", json: Json = False) -> None:
    """Refuse what was reviewed; the task fails."""
    from console import acts

    runtime = await call.runtime()
    what = await acts.asked(runtime, await runtime.store.find_task(task))
    put_act(call, await acts.deny(runtime, what, reason=reason), json, f"denied {short_digest(what.approval.digest)}")


async def cancel(call: Call, task: TaskId, reason: Reason = "", json: Json = False) -> None:
    """Ask the owner of a task to end it."""
    from console import acts

    runtime = await call.runtime()
    state = await acts.open_state_of(runtime, await runtime.store.find_task(task))
    put_act(
        call, await acts.cancel(runtime, state, reason=reason), json, "cancellation asked for; its owner ends the task"
    )


async def resume(call: Call, task: TaskId, values: Values = None, note: Note = "", json: Json = False) -> None:
    """Let an escalated task go on, with named values corrected (revisions_max, title, description)."""
    from console import acts

    runtime = await call.runtime()
    state = await acts.open_state_of(runtime, await runtime.store.find_task(task))
    recorded = await acts.resume(runtime, state, corrections=acts.pairs(values or []), note=note)
    put_act(call, recorded, json, "resumed, signed")


async def kill(
    call: Call,
    task: Annotated[str, typer.Option(metavar="TASK", help="Stop this task.")] = "",
    role: Annotated[str, typer.Option(metavar="ROLE", help="Stop all work of this role.")] = "",
    all_: Annotated[bool, typer.Option("--all", help="Stop everything.")] = False,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Stop work within seconds; it stays stopped, over restarts too, until it is lifted."""
    from console import acts

    scope = chosen(task, role, everything=all_)
    runtime = await call.runtime(create=True)
    target = await runtime.store.find_task(task) if task else runtime.topology.agent(role).role if role else ""
    recorded = await acts.kill(runtime, scope, target, reason=reason)
    shown = "everything" if scope == "all" else f"{scope} {target}"
    put_act(
        call,
        recorded,
        json,
        f"{shown} is stopped; to go on: gavotte lift {short_id(recorded.envelope.id)}{call.suffix()}",
    )


async def lift(
    call: Call,
    kill_id: Annotated[str, typer.Argument(metavar="[KILL]", help="The kill's id, or any unique part of it.")] = "",
    task: Annotated[str, typer.Option(metavar="TASK", help="Lift the kills of this task.")] = "",
    role: Annotated[str, typer.Option(metavar="ROLE", help="Lift the kills of this role.")] = "",
    all_: Annotated[bool, typer.Option("--all", help="Lift the kills of everything.")] = False,
    note: Note = "",
    json: Json = False,
) -> None:
    """Let go on what a kill stopped."""
    from console import acts

    runtime = await call.runtime()
    scope = "" if kill_id else chosen(task, role, everything=all_)
    target = await runtime.store.find_task(task) if task else role
    for raised in await matching(runtime, kill_id, scope, target):
        shown = "everything" if raised.scope == "all" else f"{raised.scope} {raised.target}"
        put_act(call, await acts.lift(runtime, raised, note=note), json, f"{shown} goes on, signed")


async def matching(runtime: Runtime, kill_id: str, scope: str, target: str) -> list[Kill]:
    """The active kills that are meant; raises NotFound or Usage."""
    from contracts.errors import NotFound, Usage

    active = [kill for kill in await runtime.store.kills() if not kill.lifted]
    if kill_id:
        found = [kill for kill in active if kill_id in kill.event_id]
        if len(found) > 1:
            raise Usage(f"{kill_id} fits {len(found)} kills", hint=", ".join(kill.event_id for kill in found))
    else:
        found = [kill for kill in active if kill.scope == scope and (scope == "all" or kill.target == target)]
    if not found:
        known = ", ".join(f"{short_id(kill.event_id)} ({kill.scope} {kill.target})" for kill in active)
        raise NotFound("no such kill is active", hint=f"active: {known}" if known else "nothing is stopped")
    return found


def chosen(task: str, role: str, *, everything: bool) -> str:
    """The one scope that was named; raises Usage."""
    from contracts.errors import Usage

    named = [name for name, given in (("task", task), ("role", role), ("all", everything)) if given]
    if len(named) != 1:
        raise Usage("name one of --task, --role and --all", hint="gavotte kill --all stops everything")
    return named[0]


def put_request(what: Asked) -> None:
    """What would run: said before anybody is asked."""
    put_fields(
        [
            ("task", f"{what.state.task_id}  {what.state.title}"),
            ("digest", what.approval.digest),
            ("commit", what.request.commit),
            ("change", what.request.summary),
            ("risk", what.request.risk),
            ("because", "; ".join(what.request.reasons)),
            ("values", ", ".join(f"{name}={value}" for name, value in what.request.values.items())),
            ("staging", what.state.releases["staging"].path if "staging" in what.state.releases else ""),
            ("until", moment(what.approval.expires_at_us)),
        ]
    )


async def confirmed(runtime: Runtime, what: Asked) -> bool:
    """Ask the person at the terminal, who may look at the diff first."""
    from console.cli.asking import ask

    while True:
        answer = (await ask("Approve? [y/N/diff] ") or "n").lower()
        if answer not in {"d", "diff"}:
            return answer in {"y", "yes"}
        put(harmless_lines(await diff_of(runtime, what)))


async def diff_of(runtime: Runtime, what: Asked) -> str:
    """The diff of what is asked for."""
    from console.cli.events import change_of, diff_text

    return await diff_text(runtime, await change_of(runtime, what.state.task_id, None))


def put_act(call: Call, recorded: Recorded, json: bool, words: str) -> None:
    """What was recorded; and that nobody hears it, where nobody does."""
    from console.supervise import living_roles

    envelope = recorded.envelope
    if json:
        put_json(
            {"event_id": envelope.id, "type": envelope.type, "task_id": envelope.task_id, "position": recorded.position}
        )
    else:
        put(harmless(words))
    if not living_roles(call.settings.run):
        say(f"no agents are running: gavotte up{call.suffix()}")
