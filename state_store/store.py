"""The store itself: each method of the port is one transaction, and the rules of each lie in the files beside it.

A backend says how a transaction is run; what happens in it is the same on all of them.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

from contracts import ids
from contracts.codec import Codec
from contracts.crashpoints import crashpoint
from contracts.envelope import Envelope
from contracts.project import Project
from contracts.topology import Agent, Topology
from state_store import audit, effects, inbox, leases, registrations, retention, sweep, views
from state_store.appending import append
from state_store.bodies import Bodies
from state_store.inbox import Inbox
from state_store.journal import Journal, Stored, is_large
from state_store.leases import Leases
from state_store.port import (
    Claim,
    Commit,
    Committed,
    Delivery,
    Due,
    Effect,
    Encoded,
    Ends,
    InboxRow,
    Kill,
    OpenWork,
    Pruned,
    Recorded,
    RegisteredAgent,
    Started,
    Step,
    TaskFilter,
    TaskRow,
)
from state_store.streams import Streams
from state_store.sweep import Sweep
from state_store.transaction import Row, Transaction

T = TypeVar("T")

Rules = Callable[[Transaction], Coroutine[Any, Any, T]]
"""What happens in one transaction."""

EVENTS_PER_REBUILD: Final = 2_000
"""Events folded in one transaction while views are rebuilt, so that others get a turn."""
_OF_ALL: Final = frozenset({"KillRaised", "KillLifted"})
"""What touches the deliveries of other tasks too."""


class Asked(NamedTuple):
    """A question to the inbox, as `claim` has it."""

    role: str
    event: Encoded | None
    envelope: Envelope
    inbox_id: str | None
    holder: str


class Store(ABC):
    """`StateStore` for any backend that runs transactions.

    `is_alive` says whether the process of a holder lives; without it a lease ends by its time alone. `topology` learns
    of further agents as they register.
    """

    look_seconds: ClassVar[tuple[float, ...]] = (0.05, 0.05, 0.1, 0.2, 0.3, 0.5)
    """Pauses between looks at the end of the log for who waits for news."""

    def __init__(
        self, codec: Codec, bodies: Bodies, is_alive: Callable[[str], bool] | None, topology: Topology | None
    ) -> None:
        self._topology = topology
        self._bodies = bodies
        self._rules = Leases(is_alive)
        self._streams = Streams(codec)
        self._journal = Journal(self._streams, bodies, self._rules)
        self._inbox = Inbox(self._streams, self._journal, self._rules)
        self._sweep = Sweep(self._streams, self._rules)

    @abstractmethod
    async def _read(self, rules: Rules[T]) -> T:
        """Run the rules on one snapshot."""

    async def _survey(self, rules: Rules[T]) -> T:
        """The same for rules that read much: nobody else has to wait for them."""
        return await self._read(rules)

    @abstractmethod
    async def _change(self, rules: Rules[T], tasks: Sequence[str], *, alone: bool, repeatable: bool) -> T:
        """Run the rules in a transaction of their own, whatever else is committed with it, and make it durable.

        While it runs nobody else changes anything of these tasks; `alone`: of any task. Where it is not known whether
        it was committed, it is run again if it is `repeatable`: it then finds what it did; else OutcomeUnknown.
        """

    async def _write(
        self, name: str, rules: Rules[T], tasks: Sequence[str] = (), *, alone: bool = False, repeatable: bool = True
    ) -> T:
        return await self._pass(name, self._change(rules, tasks, alone=alone, repeatable=repeatable))

    async def _pass(self, name: str, change: Awaitable[T]) -> T:
        crashpoint(f"store.{name}.before")
        result = await change
        crashpoint(f"store.{name}.after")
        return result

    # what a backend may do for many callers at once, in its own way

    def _append(self, events: Sequence[Encoded], expected_sequence: int | None) -> Awaitable[list[Recorded]]:
        return self._change(
            lambda tx: append(tx, self._streams, events, expected_sequence, tx.now_us()),
            [encoded.event.task_id for encoded in events],
            alone=_touch_others(events),
            repeatable=True,
        )

    def _claim(self, asked: Asked) -> Awaitable[Claim]:
        return self._read(lambda tx: self._inbox.claim(tx, *asked))

    def _commit(self, request: Commit) -> Awaitable[Committed]:
        return self._change(
            lambda tx: self._inbox.commit(tx, request),
            [request.delivery.task_id],
            alone=_touch_others([request.consumed, *request.emitted]),
            repeatable=True,
        )

    async def _published(self, role: str, inbox_ids: Sequence[str]) -> None:
        await self._change(lambda tx: inbox.published(tx, role, inbox_ids), (), alone=False, repeatable=True)

    # -- events ------------------------------------------------------------------------------------------------------

    async def append(self, events: Sequence[Encoded], *, expected_sequence: int | None = None) -> list[Recorded]:
        return await self._pass("append", self._append(events, expected_sequence))

    async def stream(self, task_id: str, *, upto: int | None = None) -> list[Recorded]:
        return await self._read(lambda tx: self._streams.read(tx, task_id, upto))

    async def tail(self, after_position: int, limit: int = 500) -> list[Recorded]:
        return await self._read(lambda tx: self._streams.tail(tx, after_position, limit))

    async def envelopes(self, after_position: int, limit: int = 500) -> list[tuple[int, Envelope]]:
        return await self._read(lambda tx: self._streams.envelopes(tx, after_position, limit))

    async def news(self, after_position: int, *, timeout_seconds: float = 5.0) -> int:
        loop = asyncio.get_running_loop()
        deadline, looks = loop.time() + timeout_seconds, 0
        while True:
            wait = await self._alarm()  # before the look, so that nothing falls between the two
            (position,) = await self._read(_last_position)
            left = deadline - loop.time()
            if position > after_position or left <= 0:
                return int(position)
            await wait(min(left, self.look_seconds[min(looks, len(self.look_seconds) - 1)]))
            looks += 1

    async def _alarm(self) -> Callable[[float], Awaitable[object]]:
        """What waits for so long at most; a backend that is told of news lets it end earlier."""
        return asyncio.sleep

    async def event(self, event_id: str) -> Recorded | None:
        return await self._read(lambda tx: self._streams.event(tx, event_id))

    async def find_task(self, prefix: str) -> str:
        return await self._survey(lambda tx: views.find_task(tx, prefix))

    async def task(self, task_id: str) -> TaskRow | None:
        return await self._read(lambda tx: views.task_row(tx, self._streams, task_id))

    async def tasks(self, wanted: TaskFilter) -> list[TaskRow]:
        return await self._survey(lambda tx: views.task_rows(tx, self._streams, wanted))

    # -- deliveries --------------------------------------------------------------------------------------------------

    async def claim(
        self, role: str, event: Encoded | None, envelope: Envelope, *, inbox_id: str | None = None, holder: str = ""
    ) -> Claim:
        return await self._claim(Asked(role, event, envelope, inbox_id, holder))

    def ready(self, role: str, event_ids: Sequence[str]) -> Mapping[str, Claim]:
        """A backend that must ask a server knows of none."""
        del role, event_ids
        return {}

    async def ready_there(self, role: str, event_ids: Sequence[str]) -> Mapping[str, Claim]:
        """A backend without a server answers here and now."""
        return self.ready(role, event_ids)

    async def start(self, delivery: Delivery, consumed: Encoded | None, *, waiting: bool = False) -> Started:
        return await self._write(
            "start",
            lambda tx: self._inbox.start(tx, delivery, consumed, waiting=waiting),
            [delivery.task_id],
            alone=_touch_others([consumed]),
        )

    async def commit(self, request: Commit) -> Committed:
        return await self._pass("commit", self._commit(request))

    async def published(self, role: str, inbox_ids: Sequence[str]) -> None:
        if inbox_ids:
            await self._pass("published", self._published(role, inbox_ids))

    async def sweep(self, role: str, consumes: Sequence[str], *, older_than_seconds: float = 30.0) -> list[Due]:
        found = await self._survey(lambda tx: self._sweep.look(tx, role, consumes, older_than_seconds))
        mark = found.mark
        if mark is not None:
            await self._write("sweep_mark", lambda tx: sweep.move_mark(tx, role, consumes, mark))
        return found.due

    async def next_waiting(self, role: str, task_id: str, *, besides: str = "") -> Recorded | None:
        return await self._read(lambda tx: self._sweep.next_waiting(tx, role, task_id, besides))

    async def inbox(
        self, *, task_id: str | None = None, statuses: Sequence[str] = (), limit: int = 200
    ) -> list[InboxRow]:
        return await self._survey(lambda tx: inbox.rows(tx, task_id, statuses, limit))

    async def reopen(self, role: str, event_id: str) -> bool:
        return await self._write(
            "reopen", lambda tx: inbox.reopen(tx, role, event_id, tx.now_us()), alone=True, repeatable=False
        )

    async def forgive(self, delivery: Delivery) -> None:
        await self._write("forgive", lambda tx: inbox.forgive(tx, delivery, tx.now_us()), [delivery.task_id])

    async def mark_partitions(self, role: str, partitions: Sequence[int], holder: str) -> frozenset[int]:
        return await self._write(
            "mark_partitions",
            lambda tx: sweep.mark_partitions(tx, self._rules, role, partitions, holder),
            repeatable=False,
        )

    async def clean_partitions(self, role: str, partitions: Sequence[int], holder: str) -> None:
        await self._write("clean_partitions", lambda tx: sweep.clean_partitions(tx, role, partitions, holder))

    # -- leases and kills --------------------------------------------------------------------------------------------

    async def renew(self, holder: str, role: str) -> list[Kill]:
        held, kills = await self._read(lambda tx: self._rules.watch(tx, holder, role))
        if held:  # an idle worker writes nothing
            await self._write("renew", lambda tx: self._rules.renew(tx, holder, role))
        return kills

    async def leases(self, holder: str) -> dict[tuple[str, str], int]:
        return await self._read(lambda tx: self._rules.of(tx, holder))

    async def kills(self) -> list[Kill]:
        return await self._read(leases.kills)

    # -- steps, effects, bodies --------------------------------------------------------------------------------------

    async def step_intent(self, delivery: Delivery, step: Step) -> Step:
        arguments = await self._stored(step.arguments)
        return await self._write(
            "step_intent",
            lambda tx: self._journal.intend(tx, delivery, step, arguments),
            [delivery.task_id],
            repeatable=False,
        )

    async def step_outcome(self, delivery: Delivery, step: Step) -> None:
        result = await self._stored(step.result)
        await self._write(
            "step_outcome", lambda tx: self._journal.settle(tx, delivery, step, result), [delivery.task_id]
        )

    async def steps(self, task_id: str) -> list[Step]:
        return list(await self._read(lambda tx: self._journal.of_task(tx, task_id)))

    async def effect_intent(self, delivery: Delivery, key: str, kind: str, intent: str) -> Effect:
        return await self._write(
            "effect_intent",
            lambda tx: effects.intend(tx, self._rules, delivery, key, kind, intent, tx.now_us()),
            [delivery.task_id],
        )

    async def effect_receipt(self, key: str, receipt: str) -> None:
        await self._write("effect_receipt", lambda tx: effects.receipt(tx, key, receipt, tx.now_us()))

    async def effects(self, task_id: str) -> list[Effect]:
        return await self._read(lambda tx: effects.of_task(tx, task_id))

    async def unfinished_act(self, task_id: str) -> str | None:
        return await self._read(lambda tx: effects.unfinished(tx, task_id))

    async def effect_withdraw(self, key: str) -> None:
        await self._write("effect_withdraw", lambda tx: effects.withdraw(tx, key))

    async def put_body(self, raw: bytes) -> str:
        if self._bodies.fits_row(raw):
            return await self._write("put_body", lambda tx: self._bodies.put_row(tx, raw))
        return await self._bodies.put_file(raw)

    async def body(self, digest: str) -> bytes | None:
        return await self._read(lambda tx: self._bodies.read(tx, digest))

    async def _stored(self, text: str) -> Stored:
        if not is_large(text):
            return Stored(text, None)
        return Stored(None, await self.put_body(text.encode()))

    # -- projects, agents, views, checks -----------------------------------------------------------------------------

    async def put_project(self, project: Project) -> None:
        await self._write("put_project", lambda tx: registrations.put_project(tx, project), alone=True)

    async def project(self, name: str) -> Project | None:
        return await self._read(lambda tx: registrations.newest_project(tx, name))

    async def project_version(self, project_id: str, digest: str) -> Project | None:
        return await self._read(lambda tx: registrations.pinned_project(tx, project_id, digest))

    async def projects(self) -> list[Project]:
        return await self._read(registrations.projects)

    async def register_agent(self, agent: Agent, schemas: Mapping[tuple[str, int], str]) -> RegisteredAgent:
        if self._topology is not None:
            self._topology.add(agent)  # refuses what is not a further agent's to say
        return await self._write("register_agent", lambda tx: registrations.put_agent(tx, agent, schemas), alone=True)

    async def registered_agents(self) -> list[RegisteredAgent]:
        return await self._read(registrations.agents)

    async def rebuild_views(self) -> int:
        count = 0
        after: str | None = ids.SYSTEM_TASK  # which has no view, and sorts before all that have
        while after is not None:
            page = partial(views.rebuild_after, streams=self._streams, after=after, limit=EVENTS_PER_REBUILD)
            folded, after = await self._write("rebuild_views", page, alone=True)
            count += folded
        return count

    async def prune_journal(self, before_us: int, *, dry_run: bool = False) -> Pruned:
        found = await self._survey(lambda tx: retention.find(tx, self._bodies, before_us))
        if dry_run:
            return Pruned(len(found.tasks), found.steps, len(found.bodies), sum(found.bodies.values()))
        for first in range(0, len(found.tasks), retention.TASKS_AT_ONCE):
            some = found.tasks[first : first + retention.TASKS_AT_ONCE]
            emptied = partial(retention.empty_steps, tasks=some, before_us=before_us)
            await self._write("prune_journal", emptied, some)
        freed = await self._remove_bodies(found.bodies, before_us)
        return Pruned(len(found.tasks), found.steps, sum(size > 0 for size in freed), sum(freed))

    async def _remove_bodies(self, sizes: Mapping[str, int], before_us: int) -> list[int]:
        """Bytes that are free now, body by body."""
        if self._bodies.folder is not None:
            return [await asyncio.to_thread(self._bodies.remove_file, digest, before_us) for digest in sizes]
        freed, digests = [], sorted(sizes)
        for first in range(0, len(digests), retention.TASKS_AT_ONCE):
            some = digests[first : first + retention.TASKS_AT_ONCE]
            gone = partial(retention.remove_bodies, digests=some, before_us=before_us)
            freed += [sizes[digest] for digest in await self._write("prune_journal", gone)]
        return freed

    async def verify_chain(self, exported: Ends | None = None) -> list[str]:
        return await self._survey(lambda tx: audit.faults(tx, exported))

    async def ends(self) -> Ends:
        return await self._survey(audit.ends)

    async def statistics(self) -> dict[str, Any]:
        return await self._survey(_statistics)

    async def open_work(self, role: str) -> OpenWork:
        return await self._read(lambda tx: _open_work(tx, role))

    @abstractmethod
    async def close(self) -> None:
        """Let go of what this store opened; safe to call twice."""


async def _open_work(tx: Transaction, role: str) -> OpenWork:
    return OpenWork(
        tasks=dict(await tx.rows("count_open_tasks")),
        deliveries=dict(await tx.rows("count_open_deliveries", (role,))),
    )


async def _last_position(tx: Transaction) -> Row:
    return await tx.one("last_position")


async def _statistics(tx: Transaction) -> dict[str, Any]:
    (events,) = await tx.one("last_position")
    (version,) = await tx.one("fact", ("schema_version",))
    return {
        "events": events,
        "tasks": dict(await tx.rows("count_tasks")),
        "deliveries": dict(await tx.rows("count_deliveries")),
        "kills": len(await leases.kills(tx, active=True)),
        "schema_version": int(version),
    }


def _touch_others(events: Sequence[Encoded | None]) -> bool:
    """Whether events reach beyond their own tasks."""
    return any(encoded is not None and encoded.event.type in _OF_ALL for encoded in events)
