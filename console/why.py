"""Why a task stands where it stands: whose turn it is, since when, until when, and what is open; plain sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agents.watch import Turn, alarms_of, covers, turn_of
from console.words import moment, span

if TYPE_CHECKING:
    from state_store.fold import TaskState
    from state_store.port import InboxRow, Kill

MICRO = 1_000_000
OPEN_STATUSES = ("started", "waiting", "retry", "parked", "dead")


@dataclass(frozen=True)
class Why:
    """The answer. `turn` is a role, `a person`, or empty at the end; times in microseconds."""

    task_id: str
    status: str
    step: str
    turn: str
    role: str
    awaits: tuple[str, ...]
    since_us: int
    until_us: int | None
    sentences: tuple[str, ...]
    commands: tuple[str, ...] = field(default_factory=tuple)


def explain(
    state: TaskState, inbox: Sequence[InboxRow], kills: Sequence[Kill], living: Sequence[str] | None, now_us: int
) -> Why:
    """All that is known about the wait. `living` are the names of all live agent processes, None if not known."""
    turn = turn_of(state)
    role = turn.role
    sentences, commands = _standing(state, turn)
    if turn.until_us is not None:
        sentences.append(_time(turn.since_us, turn.until_us, now_us))
    covering = [kill for kill in kills if covers(kill, state.task_id, role)]
    for kill in covering:
        sentences.append(f"A kill of {_scope(kill)} stops it{f': {kill.reason}' if kill.reason else ''}.")
        commands.append(f"gavotte lift {kill.event_id}")
    open_rows = [row for row in inbox if row.status in OPEN_STATUSES]
    sentences += [_delivery(row, now_us) for row in open_rows]
    commands += [f"gavotte dlq redrive {row.event_id}" for row in open_rows if row.status == "dead"]
    kinds = {alarm.kind for alarm in alarms_of(turn, inbox, kills, living, now_us)}
    if "unattended" in kinds:
        sentences.append(f"No {role} agent is running on this machine.")
        commands.append("gavotte up")
    if "stalled" in kinds:
        sentences.append(f"Nobody is at work on it, though {role} agents are running.")
        commands.append("gavotte doctor")
    return Why(
        task_id=state.task_id,
        status=state.status,
        step=state.step,
        turn=turn.who,
        role=role,
        awaits=turn.awaits,
        since_us=turn.since_us,
        until_us=turn.until_us,
        sentences=tuple(sentences),
        commands=tuple(commands),
    )


def _standing(state: TaskState, turn: Turn) -> tuple[list[str], list[str]]:
    id_, role = state.task_id, turn.role
    if state.ended:
        return [f"The task has {_ended(state)}{f': {state.outcome}' if state.outcome else ''}."], []
    if state.pause is not None:
        commands = [state.pause.hint or f"gavotte resume {id_}", f"gavotte cancel {id_}"]
        return [f"It waits for a person, because {role} cannot go on: {state.pause.reason}."], commands
    if turn.person and state.approval is not None:
        digest = state.approval.digest
        commands = [f"gavotte diff {id_}", f"gavotte approve {id_}", f"gavotte deny {id_}"]
        return [f"It waits for a person to approve {digest} for production; {role} asked."], commands
    words = " or ".join(turn.awaits) or "nothing"
    sentences = [f"It is {role}'s turn: {words} is awaited from it after step {state.step}."]
    if state.cancel_requested:
        sentences.append(
            f"{state.cancel_operator or 'Somebody'} asked to cancel it; {role} answers with TaskCancelled."
        )
    return sentences, []


def _ended(state: TaskState) -> str:
    return "been cancelled" if state.step == "cancelled" else state.step


def _time(since_us: int, until_us: int, now_us: int) -> str:
    since = f"So since {moment(since_us)} ({span((now_us - since_us) / MICRO)} ago)"
    if until_us < now_us:
        return f"{since}; the deadline {moment(until_us)} has passed, the owner acts on it at its next sweep."
    return f"{since}, until {moment(until_us)} (in {span((until_us - now_us) / MICRO)}) at the latest."


def _scope(kill: Kill) -> str:
    return "everything" if kill.scope == "all" else f"{kill.scope} {kill.target}"


def _delivery(row: InboxRow, now_us: int) -> str:
    because = f": {row.reason}" if row.reason else ""
    what = row.event_type or f"the unrecorded event {row.event_id}"
    words = {
        "started": f"{row.role} is at work on {what} (begun {row.starts} times)"
        if row.starts > 1
        else f"{row.role} is at work on {what}",
        "waiting": f"{row.role} keeps {what} until its turn",
        "retry": f"{row.role} tries {what} again (attempt {row.attempt + 1})",
        "parked": f"{row.role} has parked {what}",
        "dead": f"{row.role} has given up on {what}, it is a letter now",
    }
    due = ""
    if row.status == "retry" and row.due_us is not None:
        due = " now" if row.due_us <= now_us else f" in {span((row.due_us - now_us) / MICRO)}"
    return f"{words[row.status]}{due}{because}."
