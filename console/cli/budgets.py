"""The caps of a task: what is used of them, what calls under way hold, and how a person sets them anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from console.cli.acts import Note, put_act
from console.cli.call import Call, Json, TaskId, command
from console.cli.output import put_json, put_table, say
from console.words import dollars, span

if TYPE_CHECKING:
    from collections.abc import Callable

    from state_store.port import TaskRow

budget = typer.Typer(help="The caps of a task.", no_args_is_help=True, rich_markup_mode=None)

AXES: dict[str, tuple[str, Callable[[Any], str]]] = {
    "tokens": ("tokens", str),
    "steps": ("steps", str),
    "wall_seconds": ("work", span),
    "cost_microdollars": ("cost", dollars),
}
"""Field of the budget -> its name for people and how they read it."""


def add_to(app: typer.Typer) -> None:
    """Put these commands into the program."""
    app.add_typer(budget, name="budget")
    command(budget, "show")(show)
    command(budget, "raise")(raise_)


async def show(call: Call, task: TaskId, json: Json = False) -> None:
    """Print what a task has used of its four caps, and what is held for calls whose outcome is not known."""
    from console.cli.tasks import row_of

    runtime = await call.runtime()
    row = await row_of(runtime, await runtime.store.find_task(task))
    axes = axes_of(row)
    if json:
        put_json({"task_id": row.state.task_id, "status": row.state.status, "axes": axes})
        return
    columns = ("spent", "held", "left", "cap")
    rows = [(name, *(words(axes[axis][column]) for column in columns)) for axis, (name, words) in AXES.items()]
    put_table(("", *columns), rows, right=columns)
    if row.state.pause is not None and row.state.pause.kind == "budget":
        say(f"it waits: {row.state.pause.reason}")
        say(f"try: gavotte budget raise {row.state.task_id}{call.suffix()} --tokens, --steps, --minutes or --dollars")


def axes_of(row: TaskRow) -> dict[str, dict[str, float]]:
    """Each cap with what is spent of it, held and left, in the units of the events.

    Once the task has ended, no outcome is waited for: what calls still held is spent.
    """
    found = {}
    for axis in AXES:
        cap, used = getattr(row.state.budget, axis), getattr(row.spent, axis)
        held = 0 if row.state.ended else getattr(row.spent, f"held_{axis}")
        found[axis] = {"spent": used - held, "held": held, "left": max(0, cap - used), "cap": cap}
    return found


async def raise_(
    call: Call,
    task: TaskId,
    tokens: Annotated[int | None, typer.Option(min=0, help="Tokens in all.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Model and tool calls in all.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Minutes of work in all.")] = None,
    dollars: Annotated[float | None, typer.Option(min=0, help="Dollars in all.")] = None,
    note: Note = "",
    json: Json = False,
) -> None:
    """Set new caps for a task; what is not named stays. A task that paused on one goes on."""
    from console import acts
    from contracts.errors import Usage

    if tokens is None and steps is None and minutes is None and dollars is None:
        raise Usage("name at least one cap", hint="--tokens, --steps, --minutes or --dollars")
    runtime = await call.runtime()
    state = await acts.open_state_of(runtime, await runtime.store.find_task(task))
    caps = state.budget.model_copy(update=named_caps(tokens, steps, minutes, dollars))
    put_act(call, await acts.raise_budget(runtime, state, caps, note=note), json, "budget raised, signed")


def named_caps(tokens: int | None, steps: int | None, minutes: float | None, dollars: float | None) -> dict[str, int]:
    """The caps that were named, in the units of the events."""
    given = {
        "tokens": tokens,
        "steps": steps,
        "wall_seconds": None if minutes is None else round(minutes * 60),
        "cost_microdollars": None if dollars is None else round(dollars * 1_000_000),
    }
    return {name: value for name, value in given.items() if value is not None}
