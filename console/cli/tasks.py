"""`tasks` and `show`: what was asked for, and where it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from console.cli.call import Call, Json, TaskId, command
from console.cli.output import put_fields, put_json, put_table, say
from console.harmless import clipped
from console.words import count, dollars, moment, short_id, span

if TYPE_CHECKING:
    from agents.wiring import Runtime
    from state_store.fold import TaskState
    from state_store.port import TaskRow

STATUSES = ("running", "waiting", "succeeded", "failed", "cancelled", "escalated")


def add_to(app: typer.Typer) -> None:
    """Put these commands into the program."""
    command(app)(tasks)
    command(app)(show)


async def tasks(
    call: Call,
    status: Annotated[
        list[str] | None, typer.Option(help=f"Only these: {', '.join(STATUSES)}; may be repeated.")
    ] = None,
    text: Annotated[str, typer.Option(metavar="TEXT", help="Only titles with this text.")] = "",
    retrying: Annotated[
        bool, typer.Option("--retrying", help="Only tasks with a delivery that is tried again.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="So many at most, the newest first.")] = 50,
    json: Json = False,
) -> None:
    """List the tasks, the newest first."""
    from contracts.errors import Usage
    from state_store.port import TaskFilter

    unknown = sorted(set(status or ()) - set(STATUSES))
    if unknown:
        raise Usage(f"no task is ever {unknown[0]!r}", hint=f"known: {', '.join(STATUSES)}")
    runtime = await call.runtime()
    found = await runtime.store.tasks(TaskFilter(tuple(status or ()), text, retrying, limit))
    if json:
        put_json([task_fields(row) for row in found])
        return
    if not found:
        say("no such task")
        return
    rows = [
        (
            short_id(row.state.task_id),
            row.state.status,
            waiting_for(row.state),
            moment(row.updated_at_us),
            clipped(row.state.title, 60),
            clipped(row.state.repository.rpartition("/")[2], 30),
        )
        for row in found
    ]
    put_table(("task", "status", "waits for", "since", "title", "repository"), rows)


async def show(call: Call, task: TaskId, json: Json = False) -> None:
    """Print where a task stands, what it spent and what came out of it."""
    runtime = await call.runtime()
    task_id = await runtime.store.find_task(task)
    row = await row_of(runtime, task_id)
    if json:
        from console.run_record import run_record

        put_json({**task_fields(row), **run_record(row, await runtime.store.steps(task_id))})
        return
    spent, budget = row.spent, row.state.budget
    put_fields(
        [
            *state_rows(row.state),
            ("tokens", f"{spent.tokens} of {budget.tokens}"),
            ("steps", f"{spent.steps} of {budget.steps}"),
            ("work", f"{span(spent.wall_seconds)} of {span(budget.wall_seconds)}"),
            ("cost", f"{dollars(spent.cost_microdollars)} of {dollars(budget.cost_microdollars)}"),
            ("correlation", row.correlation_id),
            ("retrying", count(row.retrying, "delivery", "deliveries") if row.retrying else ""),
            ("parked", count(row.parked, "delivery", "deliveries") if row.parked else ""),
        ]
    )


async def row_of(runtime: Runtime, task_id: str) -> TaskRow:
    """The task's row; raises NotFound."""
    from contracts.errors import NotFound

    row = await runtime.store.task(task_id)
    if row is None:
        raise NotFound(f"there is no task {task_id}", hint="gavotte tasks")
    return row


def waiting_for(state: TaskState) -> str:
    """Who or what is awaited: a role, `approval`, `resume`, `budget`, or nothing at the end."""
    from state_store.fold import owner

    if state.ended:
        return ""
    if state.pause is not None:
        return "resume" if state.pause.kind == "escalated" else "budget"
    return "approval" if state.status == "waiting" else owner(state) or ""


def task_fields(row: TaskRow) -> dict[str, Any]:
    """A task for programs: stable names. Times are microseconds, money is micro-dollars."""
    state = row.state
    return {
        "task_id": state.task_id,
        "title": state.title,
        "status": state.status,
        "step": state.step,
        "waiting_for": waiting_for(state) or None,
        "outcome": state.outcome,
        "outcome_code": state.outcome_code,
        "spent": {
            "tokens": row.spent.tokens,
            "steps": row.spent.steps,
            "wall_seconds": row.spent.wall_seconds,
            "cost_microdollars": row.spent.cost_microdollars,
        },
        "budget": state.budget.model_dump(),
        "author": state.author,
        "submitter": state.submitter,
        "repository": state.repository,
        "project_id": state.project_id,
        "base_commit": state.base_commit,
        "head_commit": state.head_commit,
        "branch": state.branch,
        "digest": state.digest,
        "revisions": state.revisions,
        "pause": state.pause.model_dump() if state.pause else None,
        "approval": state.approval.model_dump() if state.approval else None,
        "releases": {name: release.model_dump() for name, release in state.releases.items()},
        "cancel_requested": state.cancel_requested,
        "correlation_id": row.correlation_id,
        "submitted_at_us": state.submitted_at_us,
        "since_us": state.since_us,
        "ended_at_us": state.ended_at_us,
        "updated_at_us": row.updated_at_us,
        "events": state.sequence,
        "retrying": row.retrying,
        "parked": row.parked,
    }


def state_rows(state: TaskState) -> list[tuple[str, str]]:
    """A state for people."""
    approval = state.approval
    asked = f"{approval.decision}, {approval.digest}" if approval else ""
    if approval and approval.operator:
        asked += f", by {approval.operator}" + (" (who submitted it)" if approval.self_approved else "")
    return [
        ("task", state.task_id),
        ("title", clipped(state.title, 200)),
        ("status", state.status),
        ("step", state.step.replace("_", " ")),
        ("waits for", waiting_for(state)),
        ("because", clipped(state.pause.reason, 300) if state.pause else ""),
        ("try", state.pause.hint if state.pause else ""),
        ("outcome", clipped(state.outcome or "", 300)),
        ("author", state.author),
        ("submitter", state.submitter),
        ("repository", state.repository),
        ("base", state.base_commit),
        ("branch", state.branch or ""),
        ("head", state.head_commit or ""),
        ("revision", f"{state.revisions} of {state.revisions_max}" if state.revisions else ""),
        ("approval", asked),
        *(
            (name, f"{release.path}{' (rolled back)' if release.rolled_back else ''}")
            for name, release in state.releases.items()
        ),
        ("submitted", moment(state.submitted_at_us) if state.submitted_at_us else ""),
        ("ended", moment(state.ended_at_us) if state.ended_at_us else ""),
    ]
