"""The port of the store: what is true about tasks, deliveries, steps and effects.

The store is the only truth; the bus carries the news. Every method is one transaction. Backends: SQLite
(`state_store.sqlite`), PostgreSQL (later). Both run the suite in tests/contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from contracts.envelope import Envelope, Event
from contracts.project import Project
from contracts.registry import Schema
from contracts.topology import Agent
from state_store.fold import TaskState

DeliveryStatus = Literal["started", "waiting", "retry", "parked", "done", "superseded", "dead"]


class Encoded(NamedTuple):
    """An event with its framed Avro value, ready to be stored and published as these very bytes."""

    event: Event
    value: bytes


class Recorded(NamedTuple):
    """An event as stored. `sequence` counts in its task from 1, `position` over all; `time` fields are microseconds."""

    envelope: Envelope
    value: bytes
    sequence: int
    position: int
    recorded_at_us: int
    prev_hash: str
    hash: str
    told: bool = False
    """Whether the commit that recorded it put it on a bus in the same file: it need not be published any more."""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the journal: the intent of a model or tool call and, once known, its outcome.

    `arguments_digest` and `state_digest` are sha256 hex. `outcome` is "ok", "error" or "" while unknown; `result` is
    JSON text, empty in an outcome whose words retention let go. Costs are micro-dollars. `reserved_*` is charged while the outcome is unknown,
    and so is the time from `began_at_us` to `deadline_us`, when the step has to be over; 0 there sets no time apart.
    """

    task_id: str
    cause_id: str
    role: str
    ordinal: int
    kind: Literal["model", "tool", "value"]
    name: str
    arguments: str
    arguments_digest: str
    state_digest: str
    why: str = ""
    began_at_us: int = 0
    ended_at_us: int | None = None
    outcome: Literal["", "ok", "error"] = ""
    result: str = ""
    error: str = ""
    reserved_tokens: int = 0
    reserved_cost_microdollars: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_microdollars: int = 0
    estimated: bool = False
    model: str = ""
    prompt: str = ""
    prompt_hash: str = ""
    abandoned: bool = False
    attempt: int = 1
    deadline_us: int = 0


@dataclass(frozen=True, slots=True)
class Spent:
    """What a task has used so far, unknown outcomes at their reservation. Wall time is work, not waiting.

    `held_*` is the part that calls without an outcome hold: they are under way, or died and were not begun again.
    """

    tokens: int = 0
    steps: int = 0
    wall_seconds: float = 0.0
    cost_microdollars: int = 0
    held_tokens: int = 0
    held_steps: int = 0
    held_wall_seconds: float = 0.0
    held_cost_microdollars: int = 0


ClaimStatus = Literal["free", "waiting", "done", "closed"]


class Claim(NamedTuple):
    """What the inbox says of one event for one role.

    free     go on: `state` is the task at `basis` (the consumed event included), `steps` the journal so far;
             `unpublished` what a pause said that may not be on the bus yet;
    waiting  an earlier event of this task is open for this role, or its lease is another worker's, or not due yet;
    done     handled before: `unpublished` are the emitted events that were not marked published;
    closed   superseded, dead or parked: publish `unpublished` likewise, acknowledge and forget.
    """

    status: ClaimStatus
    state: TaskState | None = None
    basis: int = 0
    sequence: int = 0
    """The consumed event's place in its task: at the basis, or before it."""
    known: bool = True
    """Whether the consumed event was already recorded."""
    starts: int = 0
    attempt: int = 0
    steps: tuple[Step, ...] = ()
    unpublished: tuple[Recorded, ...] = ()
    kill_seq: int = 0
    killed_by: str = ""
    """Reason of an active kill that covers this delivery, or empty."""
    detail: str = ""
    """Why it is waiting or closed, in words."""
    seen: Any = None
    """The backend's own note of what it saw, to be handed back in the Delivery; None says nothing."""


class Delivery(NamedTuple):
    """One role handling one event: the key of the inbox and what the handling is based on.

    `event_id` is the inbox key: the consumed event's id, or a derived id for a deadline. `cause_id` is the event that
    emitted events name as their cause. `token` is the fencing token of the lease, 0 on the fast path without one.
    """

    role: str
    event_id: str
    task_id: str
    cause_id: str
    basis: int
    kill_seq: int = 0
    token: int = 0
    holder: str = ""
    seen: Any = None
    """The claim's `seen`: with it a backend may commit without looking again at what has not changed."""


class Commit(NamedTuple):
    """Stop 5 of the path: everything one delivery changes, in one transaction.

    `consumed` is given where the event was unknown to the store; it is appended first. `status` is done, or retry,
    parked, dead together with `reason*` and, for retry, `due_us`. `started_at_us` lets work be counted.
    """

    delivery: Delivery
    status: Literal["done", "retry", "parked", "dead"] = "done"
    consumed: Encoded | None = None
    emitted: tuple[Encoded, ...] = ()
    reason: str = ""
    reason_code: str = ""
    due_us: int | None = None
    attempt: int = 0


CommitStatus = Literal["recorded", "superseded", "repeated", "fenced", "killed"]


class Committed(NamedTuple):
    """What became of a commit.

    recorded    as asked; `events` are the emitted ones as stored;
    superseded  the task moved on so that an emitted event is illegal: nothing emitted, the delivery is closed;
    repeated    this delivery was done before: `events` are those of the first time;
    fenced      another worker holds the lease: nothing was written;
    killed      a newer kill covers the delivery: it was parked instead, nothing emitted.
    """

    status: CommitStatus
    events: tuple[Recorded, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    """A durable start: `token` fences, `starts` counts begun handlings without progress. `status` waiting: not ours."""

    status: Literal["started", "waiting", "killed", "closed"]
    token: int = 0
    starts: int = 0
    steps: tuple[Step, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Due:
    """Something the sweep found for a role: an event to deliver, or a deadline that passed.

    For a deadline `event` is the last event that moved the task, and `deadline_id` the inbox key of its delivery.
    """

    kind: Literal["missed", "retry", "lease", "waiting", "deadline", "unpublished"]
    event: Recorded
    deadline_id: str | None = None


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task for lists and `show`: the state and what was spent."""

    state: TaskState
    spent: Spent
    correlation_id: str
    updated_at_us: int
    retrying: int = 0
    parked: int = 0


@dataclass(frozen=True, slots=True)
class InboxRow:
    """A delivery for people: `why`, `tasks --retrying`, tests."""

    role: str
    event_id: str
    event_type: str
    task_id: str
    status: DeliveryStatus
    attempt: int
    starts: int
    due_us: int | None
    reason: str
    reason_code: str
    published: bool
    holder: str = ""
    updated_at_us: int = 0


@dataclass(frozen=True, slots=True)
class Effect:
    """An act on the outside world by its semantic key: intended, and once it is certain, its receipt (JSON text)."""

    key: str
    task_id: str
    kind: str
    intent: str
    receipt: str | None
    token: int


@dataclass(frozen=True, slots=True)
class Kill:
    """An active or lifted kill. `scope` task, role or all; `target` a task id, a role, or empty."""

    seq: int
    event_id: str
    scope: str
    target: str
    reason: str
    lifted: bool


@dataclass(frozen=True, slots=True)
class RegisteredAgent:
    """A further agent's row and schemas as its start registered them."""

    agent: Agent
    schemas: tuple[Schema, ...] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What retention let go of, or would: ended tasks and how many of their steps, large bodies and their bytes."""

    tasks: int = 0
    steps: int = 0
    bodies: int = 0
    body_bytes: int = 0


Heads = Mapping[str, tuple[int, str]]
"""task id -> (sequence, hash) of the last event."""


@dataclass(frozen=True, slots=True)
class Ends:
    """What the log was at a moment: how many events, the heads of all streams, and `order`, one sha256 hex over the
    hashes of all events in the order of their positions, the last of which was `position`."""

    events: int
    position: int
    order: str
    heads: Heads


@dataclass(frozen=True, slots=True)
class OpenWork:
    """What has not ended: `tasks` of everybody by status, `deliveries` of one role by status in its inbox."""

    tasks: Mapping[str, int]
    deliveries: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks to list, newest first. `text` is looked for in titles."""

    statuses: tuple[str, ...] = ()
    text: str = ""
    retrying: bool = False
    limit: int = 50


class StateStore(Protocol):
    """What every backend offers. Errors: Unavailable (retry), Conflict, Illegal, NotFound, Corrupt."""

    # -- events ---------------------------------------------------------------------------------------------------
    async def append(self, events: Sequence[Encoded], *, expected_sequence: int | None = None) -> list[Recorded]:
        """Append operators' and clients' events. Known ids are answered with what was recorded (idempotent).

        `expected_sequence` is the head the decision was made on; Conflict where it moved on in a way that matters
        (another decision); Illegal where TRANSITIONS forbids it; an approval past its expiry by the store's clock is
        Illegal. A TaskSubmitted whose task exists with another payload is Conflict, naming the first.
        """
        ...

    async def stream(self, task_id: str, *, upto: int | None = None) -> list[Recorded]:
        """The events of a task in order; empty for an unknown one."""
        ...

    async def tail(self, after_position: int, limit: int = 500) -> list[Recorded]:
        """Events of all tasks after a global position, in order; none is ever skipped."""
        ...

    async def envelopes(self, after_position: int, limit: int = 500) -> list[tuple[int, Envelope]]:
        """The same by position and envelope, for readers who need no payload: it is not even read."""
        ...

    async def news(self, after_position: int, *, timeout_seconds: float = 5.0) -> int:
        """Where the log ends, as soon as that is behind a position, or when the time is over: for live views."""
        ...

    async def event(self, event_id: str) -> Recorded | None:
        """One event by its id."""
        ...

    async def find_task(self, prefix: str) -> str:
        """The task whose id has this unique part; NotFound, or Usage naming the candidates."""
        ...

    async def task(self, task_id: str) -> TaskRow | None: ...

    async def tasks(self, wanted: TaskFilter) -> list[TaskRow]: ...

    # -- deliveries -----------------------------------------------------------------------------------------------
    async def claim(
        self, role: str, event: Encoded | None, envelope: Envelope, *, inbox_id: str | None = None, holder: str = ""
    ) -> Claim:
        """Ask the inbox about an event (stop 3). Reads only. `event` may be None while its payload is not to be decoded;
        where it is unknown then, there is no state. `inbox_id` replaces the event's id as inbox key (deadlines). A
        delivery that `holder` itself has begun is free to it."""
        ...

    def ready(self, role: str, event_ids: Sequence[str]) -> Mapping[str, Claim]:
        """Of many recorded events the claims of those that are free without a question, by event id; one look for all.

        What is not among them is to be asked for with `claim`. Who must ask a server first knows of none.
        """
        ...

    async def ready_there(self, role: str, event_ids: Sequence[str]) -> Mapping[str, Claim]:
        """The same, also of a store on a server."""
        ...

    async def start(self, delivery: Delivery, consumed: Encoded | None, *, waiting: bool = False) -> Started:
        """The durable start: the consumed event if unknown, lease, basis, starts + 1. With `waiting`, only note that
        the event waits its turn (a detached record)."""
        ...

    async def commit(self, request: Commit) -> Committed:
        """Stop 5. Judged apart from all other commits of the same group."""
        ...

    async def published(self, role: str, inbox_ids: Sequence[str]) -> None:
        """The emitted events of these deliveries are on the bus."""
        ...

    async def sweep(self, role: str, consumes: Sequence[str], *, older_than_seconds: float = 30.0) -> list[Due]:
        """What the role should have and has not: missed events, due retries and deadlines, dead leases, waiting turns."""
        ...

    async def next_waiting(self, role: str, task_id: str, *, besides: str = "") -> Recorded | None:
        """The earliest event of the task that waits for its turn or was reopened and could go on now, or None.

        `besides` is the operator's word at hand: neither that nor another word is meant, since words move nothing by
        themselves. Deadlines are left to the sweep.
        """
        ...

    async def inbox(
        self, *, task_id: str | None = None, statuses: Sequence[str] = (), limit: int = 200
    ) -> list[InboxRow]: ...

    async def reopen(self, role: str, event_id: str) -> bool:
        """Make a dead or parked delivery due now (a redrive); False where there is none such."""
        ...

    async def forgive(self, delivery: Delivery) -> None:
        """Take back one start: the worker was asked to stop, the delivery is not to blame. The lease is let go."""
        ...

    async def mark_partitions(self, role: str, partitions: Sequence[int], holder: str) -> frozenset[int]:
        """Mark partitions dirty for this holder; returns those that were dirty before (their holder died)."""
        ...

    async def clean_partitions(self, role: str, partitions: Sequence[int], holder: str) -> None: ...

    # -- leases and kills -----------------------------------------------------------------------------------------
    async def renew(self, holder: str, role: str) -> list[Kill]:
        """Renew all leases of the holder; returns the kills that are active now. Lost leases show in `leases`."""
        ...

    async def leases(self, holder: str) -> dict[tuple[str, str], int]:
        """(role, task) -> token of the leases that the holder still has."""
        ...

    async def kills(self) -> list[Kill]: ...

    # -- steps, effects, bodies -------------------------------------------------------------------------------------
    async def step_intent(self, delivery: Delivery, step: Step) -> Step:
        """Write an intent, or answer with what is recorded under its key.

        Same digest and outcome ok: that step, to be used as the answer. Same digest with an error or without an outcome:
        the step with its attempt raised (an unknown try is charged as estimated). Another digest: the old tail is
        marked abandoned.
        The reservation and its check are this one transaction, over all processes of the task. Where the wall clock has
        less left than the step asks for, its deadline comes sooner: the step that is returned says when.
        Raises Fenced, Killed, CancelRequested (the task's owner must end it) or Exhausted (a cap would be passed).
        """
        ...

    async def step_outcome(self, delivery: Delivery, step: Step) -> None:
        """Write the outcome of an intent; accepted from a stale token too, so nothing paid goes unrecorded."""
        ...

    async def steps(self, task_id: str) -> list[Step]: ...

    async def effect_intent(self, delivery: Delivery, key: str, kind: str, intent: str) -> Effect:
        """Write the intent of an act, or answer with what is recorded under the key (with or without receipt)."""
        ...

    async def effect_receipt(self, key: str, receipt: str) -> None: ...

    async def effects(self, task_id: str) -> list[Effect]: ...

    async def unfinished_act(self, task_id: str) -> str | None:
        """The key of an act that is to be finished before the task may end: it was begun and is not certain, or it
        changed production and the task's history does not tell it yet.
        """
        ...

    async def effect_withdraw(self, key: str) -> None:
        """The world was asked and the act did not happen and will not: drop the open intent."""
        ...

    async def put_body(self, raw: bytes) -> str:
        """Store bytes once under their digest `sha256:...` and return it."""
        ...

    async def body(self, digest: str) -> bytes | None: ...

    # -- projects, agents, views, checks -----------------------------------------------------------------------------
    async def put_project(self, project: Project) -> None: ...

    async def project(self, name: str) -> Project | None:
        """The newest settings of a project by id, name or path."""
        ...

    async def project_version(self, project_id: str, digest: str) -> Project | None:
        """The settings as they were pinned under this digest."""
        ...

    async def projects(self) -> list[Project]: ...

    async def register_agent(self, agent: Agent, schemas: Mapping[tuple[str, int], str]) -> RegisteredAgent:
        """Record a further agent's row and schemas, giving ids to new schemas; idempotent."""
        ...

    async def registered_agents(self) -> list[RegisteredAgent]: ...

    async def rebuild_views(self) -> int:
        """Fold the views anew, page by page, and put right what differs; none is ever missing. Returns how many tasks."""
        ...

    async def prune_journal(self, before_us: int, *, dry_run: bool = False) -> Pruned:
        """Empty the arguments and results of steps of tasks that ended before a moment, and drop large bodies that
        nothing names any more. Lines of steps, events and tasks with an unfinished delivery are kept."""
        ...

    async def verify_chain(self, exported: Ends | None = None) -> list[str]:
        """Check hashes, sequences and heads of all streams; returns what is wrong, in words. With earlier exported
        ends it also shows that nothing was taken off since, nor all of it written anew."""
        ...

    async def ends(self) -> Ends:
        """What the log is now, to be exported to where agents cannot write."""
        ...

    async def statistics(self) -> dict[str, Any]:
        """Counts for `doctor` and tests: events, tasks by status, deliveries by status, schema version."""
        ...

    async def open_work(self, role: str) -> OpenWork:
        """What has not ended; asked with every look at the metrics, so what is finished costs nothing."""
        ...

    async def close(self) -> None: ...
