"""The watcher: whose turn it is in every task, since when and until when, and what looks wrong. It commands nobody.

A read-only process manager over the topology, the inbox and the deadlines. Switched off, every task still ends.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from contracts.topology import CORE_AGENTS, awaited
from state_store.fold import TaskState, due_us, owner
from state_store.port import InboxRow, Kill, TaskFilter, TaskRow

OPEN: Final = ("running", "waiting", "escalated")
"""Tasks that have not ended."""
GRACE_US: Final = 60_000_000
"""The owner acts on a deadline at its next sweep: later than that it is overdue."""
STALLED_US: Final = 120_000_000
"""After so many sweeps somebody should be at work."""
TASKS_MAX: Final = 10_000
ROWS_MAX: Final = 10_000

Kind = Literal["overdue", "unattended", "stalled", "retrying", "parked", "letter"]
"""overdue: the deadline has passed, and the owner did not act. unattended: no process of the role whose turn it is lives.
stalled: nobody is at work on it. retrying: a delivery failed and is tried again. parked: a delivery was laid aside, and
its task waits for nobody. letter: a role gave up on an event."""

_KINDS: Final[dict[str, Kind]] = {"retry": "retrying", "parked": "parked", "dead": "letter"}
_CORE: Final = frozenset(agent.role for agent in CORE_AGENTS)


class Readable(Protocol):
    """What the watcher needs of the store: three questions, so that it cannot change anything."""

    async def tasks(self, wanted: TaskFilter) -> list[TaskRow]: ...

    async def inbox(
        self, *, task_id: str | None = None, statuses: Sequence[str] = (), limit: int = 200
    ) -> list[InboxRow]: ...

    async def kills(self) -> list[Kill]: ...


@dataclass(frozen=True, slots=True)
class Turn:
    """Whose turn it is: `role` owns the task, empty at its end; `person` where it waits for one. Times in microseconds."""

    task_id: str
    title: str
    status: str
    step: str
    role: str
    person: bool
    awaits: tuple[str, ...]
    since_us: int
    until_us: int | None

    @property
    def who(self) -> str:
        """A role, `a person`, or empty at the end."""
        return "a person" if self.person else self.role


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that looks wrong: with a delivery, where `event_id` is set, or with the task's turn.

    `since_us` is when it began; `due_us` the deadline that passed, or the next attempt.
    """

    kind: Kind
    task_id: str
    role: str
    since_us: int
    step: str = ""
    event_id: str = ""
    event_type: str = ""
    attempt: int = 0
    due_us: int | None = None
    reason: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """The same for the same alarm, look after look."""
        return (self.kind, self.task_id, self.role, self.event_id)


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at everything that has not ended: the newest tasks first, alarms by their beginning."""

    turns: tuple[Turn, ...]
    alarms: tuple[Alarm, ...]


async def look(store: Readable, living: Collection[str] | None, now_us: int) -> Sight:
    """All turns and alarms. `living` are the names of all live agent processes (`coding-host-4711`), None if not known."""
    turns = {row.state.task_id: turn_of(row.state) for row in await store.tasks(TaskFilter(OPEN, limit=TASKS_MAX))}
    kills = [kill for kill in await store.kills() if not kill.lifted]
    inbox: dict[str, list[InboxRow]] = {task_id: [] for task_id in turns}
    for row in await store.inbox(statuses=("started", "waiting", "retry", "parked", "dead"), limit=ROWS_MAX):
        if row.task_id in turns or row.role not in _CORE:  # a task that has ended concerns further agents alone
            inbox.setdefault(row.task_id, []).append(row)
    alarms = [
        alarm for task_id, rows in inbox.items() for alarm in alarms_of(turns.get(task_id), rows, kills, living, now_us)
    ]
    return Sight(tuple(turns.values()), tuple(sorted(alarms, key=lambda alarm: alarm.since_us)))


def turn_of(state: TaskState) -> Turn:
    """Whose turn it is in this state: read off the table of what is awaited."""
    row = awaited(state.step)
    awaits = row.awaits if row is not None and not state.ended else ()
    if state.pause is not None:
        awaits = ("TaskResumed",) if state.pause.kind == "escalated" else ("BudgetRaised",)
    return Turn(
        task_id=state.task_id,
        title=state.title,
        status=state.status,
        step=state.step,
        role=owner(state) or "",
        person=state.status in {"waiting", "escalated"},
        awaits=awaits,
        since_us=state.since_us,
        until_us=due_us(state),
    )


def alarms_of(
    turn: Turn | None, inbox: Sequence[InboxRow], kills: Sequence[Kill], living: Collection[str] | None, now_us: int
) -> list[Alarm]:
    """What looks wrong with one task; `turn` None where it has ended. What a kill holds is no alarm, but for letters."""
    found = []
    if turn is not None and turn.role and not any(covers(kill, turn.task_id, turn.role) for kill in kills):
        found = [*_overdue(turn, now_us), *_nobody(turn, inbox, living, now_us)]
    for row in inbox:
        held = any(covers(kill, row.task_id, row.role) for kill in kills)
        asked = row.status == "parked" and turn is not None and turn.person  # the person is asked about it
        if row.status in _KINDS and (row.status == "dead" or not (held or asked)):
            found.append(_of_delivery(row))
    return found


def covers(kill: Kill, task_id: str, role: str) -> bool:
    """Whether an active kill stops this task in the hands of this role."""
    if kill.lifted:
        return False
    return kill.scope == "all" or (kill.scope, kill.target) in {("task", task_id), ("role", role)}


def roles_of(living: Iterable[str]) -> set[str]:
    """The roles of live processes, from their names: a role, then the machine or the place in a crew, then the pid."""
    return {name.partition("-")[0] for name in living}


def _overdue(turn: Turn, now_us: int) -> list[Alarm]:
    if turn.until_us is None or turn.until_us + GRACE_US > now_us:
        return []
    return [Alarm("overdue", turn.task_id, turn.role, turn.until_us, turn.step, due_us=turn.until_us)]


def _nobody(turn: Turn, inbox: Sequence[InboxRow], living: Collection[str] | None, now_us: int) -> list[Alarm]:
    """Nobody could do it, or nobody does."""
    if turn.person:
        return []
    if living is not None and turn.role not in roles_of(living):
        return [Alarm("unattended", turn.task_id, turn.role, turn.since_us, turn.step)]
    own = [row for row in inbox if row.role == turn.role]
    if turn.since_us + STALLED_US > now_us or any(_is_cared_for(row, living, now_us) for row in own):
        return []
    return [Alarm("stalled", turn.task_id, turn.role, turn.since_us, turn.step)]


def _is_cared_for(row: InboxRow, living: Collection[str] | None, now_us: int) -> bool:
    """Whether somebody is at work on it, or it has an alarm of its own."""
    if row.status == "started":
        return living is None or row.holder in living or row.updated_at_us + STALLED_US > now_us
    return row.status in _KINDS


def _of_delivery(row: InboxRow) -> Alarm:
    return Alarm(
        _KINDS[row.status],
        row.task_id,
        row.role,
        row.updated_at_us,
        event_id=row.event_id,
        event_type=row.event_type,
        attempt=row.attempt,
        due_us=row.due_us if row.status == "retry" else None,
        reason=row.reason,
    )
