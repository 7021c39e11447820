"""What a task's state is: a pure fold of its events. What may happen next is a table.

`TRANSITIONS` names every legal move; `evolve` applies one event (`state_store.appliers` says how); `fold` applies many.
Types that are not in the table are annotations (a further agent's): they stand in the stream and move nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.envelope import Event
from contracts.errors import Illegal
from contracts.events import Budget
from contracts.ids import derived_of
from contracts.topology import ESCALATED_SECONDS, awaited
from state_store.appliers import APPLY, READ, Approval, Pause, Release, Told

FOLD_VERSION: Final = 2
"""Raised with every change of meaning, so that an older build never overwrites a newer view."""

Status = Literal["running", "waiting", "succeeded", "failed", "cancelled", "escalated"]

START: Final = "unknown"
ENDED: Final = frozenset({"succeeded", "failed", "cancelled"})

TRANSITIONS: Final[dict[str, dict[str, str]]] = {
    START: {"TaskSubmitted": "submitted"},
    "submitted": {"PlanProposed": "planned", "PlanRejected": "plan_rejected"},
    "plan_rejected": {"PlanProposed": "planned", "PlanRejected": "plan_rejected"},
    "planned": {"ChangeProposed": "proposed"},
    "proposed": {"ReviewPassed": "reviewed", "ChangesRequested": "revising"},
    "revising": {"ChangeProposed": "proposed"},
    "reviewed": {"StagingDeployed": "staged", "DeploymentRolledBack": "rolled_back"},
    "staged": {"ApprovalRequested": "awaiting_approval", "ProductionDeployed": "released"},
    "awaiting_approval": {
        "ApprovalGranted": "approved",
        "ApprovalDenied": "denied",
        "ApprovalExpired": "expired",
    },
    "approved": {
        "ProductionDeployed": "released",
        "DeploymentRolledBack": "rolled_back",
        "ApprovalRequested": "awaiting_approval",
    },
    "denied": {},
    "expired": {"ApprovalRequested": "awaiting_approval"},
    "released": {"TaskSucceeded": "succeeded", "DeploymentRolledBack": "rolled_back"},
    "rolled_back": {"StagingDeployed": "staged"},
}
"""step -> event type -> next step: the dance itself. What is legal in every step is named below.

A rejected plan may be followed by another one: after a person corrected the task and let it go on. An approval may be
followed by another question: where whoever gave it may not.
"""

ANYWHERE: Final[dict[str, str]] = {"TaskFailed": "failed", "TaskCancelled": "cancelled"}
"""Legal in every step that has not ended, also while paused; said by the owner alone."""

MOVELESS: Final = frozenset({"TaskCancelRequested", "KillRaised", "KillLifted", "BudgetRaised"})
"""Legal in every step that has not ended; they set a mark and leave the step as it is."""

AFTER_THE_END: Final = frozenset({"KillLifted"})
"""Legal also where the task has ended: a kill that outlived its task can be taken away."""

FACTS_OF_ACTS: Final = frozenset({"ProductionDeployed", "DeploymentRolledBack"})
"""What was done in the world is recorded in any step until the end, whatever was decided meanwhile."""

PAUSES: Final[dict[str, str]] = {"TaskEscalated": "TaskResumed", "BudgetExhausted": "BudgetRaised"}
"""What pauses a task -> what lets it go on from the step in which it stood."""


class TaskState(BaseModel):
    """Everything a role may lean on, as a pure function of the task's events up to `sequence`."""

    model_config = ConfigDict(frozen=True)

    task_id: str
    sequence: int = 0
    step: str = START
    pause: Pause | None = None
    cancel_requested: bool = False
    cancel_reason: str = ""
    cancel_operator: str = ""
    since_us: int = 0
    since_sequence: int = 0
    """The event that began the present step or pause; deadlines are named after it."""
    step_sequence: int = 0
    """The event that led into the present step; pauses in it do not count."""
    submitted_at_us: int = 0
    ended_at_us: int | None = None

    title: str = ""
    task_type: str = "change"
    author: str = "model"
    repository: str = ""
    project_id: str = ""
    project_digest: str = ""
    base_commit: str = ""
    submitter: str = ""
    scope: tuple[str, ...] = ()
    revisions_max: int = 3
    budget: Budget = Budget()  # one for all, which is frozen: a factory would make another for each comparison
    corrections: dict[str, str] = Field(default_factory=dict)

    plan_id: str | None = None
    change_id: str | None = None
    submission_id: str | None = None
    review_id: str | None = None
    revisions: int = 0
    escalations: int = 0
    rollbacks: int = 0
    """How often a release was taken back: the next try is another act, every other pause leaves it the same."""
    head_commit: str | None = None
    digest: str | None = None
    branch: str | None = None
    approval: Approval | None = None
    releases: dict[str, Release] = Field(default_factory=dict)
    outcome: str | None = None
    outcome_code: str | None = None

    @property
    def ended(self) -> bool:
        return self.step in ENDED

    @property
    def status(self) -> Status:
        """The word for people and programs; `waiting` means that a person is awaited."""
        if self.step in ENDED:
            return self.step  # type: ignore[return-value]  # ENDED holds three of the status words
        if self.pause is not None:
            return "escalated" if self.pause.kind == "escalated" else "waiting"
        row = awaited(self.step)
        return "waiting" if row is not None and row.person else "running"


def owner(state: TaskState) -> str | None:
    """The role whose turn it is, or that asked the person who is awaited; None only before the start and at the end."""
    if state.pause is not None and state.step not in ENDED:
        return state.pause.role
    row = awaited(state.step)
    return row.owner if row else None


def deadline_seconds(state: TaskState) -> int | None:
    """How long the state may last from `since_us`; None where the task has ended."""
    if state.pause is not None:
        return ESCALATED_SECONDS
    row = awaited(state.step)
    return row.within_seconds if row else None


def due_us(state: TaskState) -> int | None:
    """When the state has lasted too long. An open approval ends exactly when it says it expires."""
    approval = state.approval
    if state.step == "awaiting_approval" and state.pause is None and approval is not None:
        return approval.expires_at_us
    seconds = deadline_seconds(state)
    return None if seconds is None else state.since_us + seconds * 1_000_000


def deadline_id(state: TaskState) -> str:
    """The inbox key of the present state's deadline: the same for all who find it, another once the task moved."""
    return derived_of(state.task_id, "deadline", state.since_sequence)


def next_step(state: TaskState, type_: str) -> str | None:
    """The step after an event of this type, or None where it is not legal now. Annotations leave the step as it is."""
    if state.step in ENDED:
        return None if moves(type_) and type_ not in AFTER_THE_END else state.step
    if not moves(type_):
        return state.step
    if type_ in ANYWHERE and state.step != START:
        return ANYWHERE[type_]
    if type_ in MOVELESS:
        return state.step if state.step != START else None
    if type_ in PAUSES:
        return state.step if state.pause is None and state.step != START else None
    if type_ == "TaskResumed":
        return state.step if state.pause is not None and state.pause.kind == "escalated" else None
    table = TRANSITIONS[state.step]
    if state.pause is not None and type_ not in FACTS_OF_ACTS:
        return None
    if type_ in table:
        return table[type_]
    if type_ in FACTS_OF_ACTS and state.step != START:
        return state.step
    return None


def moves(type_: str) -> bool:
    """Whether events of this type may move a task's state; all others are annotations."""
    return type_ in _MOVING


def evolve(state: TaskState, event: Event, sequence: int) -> TaskState:
    """The state after the event; raises Illegal where `TRANSITIONS` does not allow it."""
    payload = event.payload if event.type in READ else None  # which may not have been decoded yet
    return _with(state, changes(state, event.envelope, payload, sequence))


def _with(state: TaskState, changed: dict[str, Any]) -> TaskState:
    """What `model_copy(update=...)` makes, without a first copy of everything."""
    return _filled(state.__dict__ | changed, state.__pydantic_fields_set__ | changed.keys())


def _filled(fields: dict[str, Any], told: set[str]) -> TaskState:
    """A state of fields that are all there and valid, as pydantic lays it out."""
    state = TaskState.__new__(TaskState)
    _put(state, "__dict__", fields)
    _put(state, "__pydantic_fields_set__", told)
    _put(state, "__pydantic_extra__", None)
    _put(state, "__pydantic_private__", None)
    return state


_put: Final = object.__setattr__


def changes(state: TaskState, told: Told, payload: Any, sequence: int) -> dict[str, Any]:
    """What the event changes in the state, field by field; raises Illegal likewise. The payload need not have more than
    `READ` names."""
    step = next_step(state, told.type)
    if step is None:
        standing = f"{state.step} ({state.pause.kind})" if state.pause else state.step
        raise Illegal(f"{told.type} is not legal for task {state.task_id} in step {standing}")
    changed: dict[str, Any] = {"sequence": sequence, "step": step}
    applier = APPLY.get(told.type)
    if applier is not None:
        changed.update(applier(state, told, payload))
    if step in ENDED:
        changed["pause"] = None
        if state.step not in ENDED:
            changed["ended_at_us"] = told.time_us
    if step != state.step:
        changed["step_sequence"] = sequence
    if step != state.step or changed.get("pause", state.pause) != state.pause:
        changed["since_us"] = told.time_us
        changed["since_sequence"] = sequence
    return changed


_NOTHING: Final = vars(TaskState(task_id=""))


def _unknown(task_id: str) -> dict[str, Any]:
    return _NOTHING | {"task_id": task_id, "corrections": {}, "releases": {}}


def unknown(task_id: str) -> TaskState:
    """The state of a task before its first event."""
    return _filled(_unknown(task_id), {"task_id"})


class Fold:
    """A fold over many events, for which no state is made but the last."""

    def __init__(self, task_id: str) -> None:
        self._now: Any = SimpleNamespace(**_unknown(task_id))

    def add(self, told: Told, payload: Any, sequence: int) -> None:
        """The next event; its payload, or the fields of it that `READ` names, else None. Raises Illegal."""
        now = vars(self._now)
        now |= changes(self._now, told, payload, sequence) if moves(told.type) else {"sequence": sequence}

    def state(self) -> TaskState:
        """The state after all of them."""
        fields = dict(vars(self._now))
        return _filled(fields, set(fields))


def fold(task_id: str, events: Iterable[tuple[int, Event | None]], start: TaskState | None = None) -> TaskState:
    """The state after all events, given as (sequence, event); None stands for an annotation not decoded here."""
    state = start or TaskState(task_id=task_id)
    for sequence, event in events:
        state = _with(state, {"sequence": sequence}) if event is None else evolve(state, event, sequence)
    return state


_MOVING: Final = (
    frozenset(type_ for row in TRANSITIONS.values() for type_ in row)
    | frozenset(ANYWHERE)
    | MOVELESS
    | frozenset(PAUSES)
    | frozenset(PAUSES.values())
)
