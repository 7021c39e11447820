"""The store on SQLite: each method is one transaction of the shared database; the rules lie in the files beside it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from contracts import ids
from contracts.codec import Codec
from contracts.crashpoints import crashpoint
from contracts.envelope import Envelope
from contracts.project import Project
from contracts.topology import Agent, Topology
from embedded.file import Database
from state_store import audit, effects, inbox, leases, registrations, sweep, views
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
    InboxRow,
    Kill,
    Recorded,
    RegisteredAgent,
    Started,
    Step,
    TaskFilter,
    TaskRow,
)
from state_store.queries import SCHEMA, SQL
from state_store.streams import Streams
from state_store.sweep import Sweep

T = TypeVar("T")
Connection = sqlite3.Connection

TASKS_PER_REBUILD = 200
"""Tasks folded in one transaction while views are rebuilt, so that others get a turn."""


class SqliteStore:
    """`StateStore` on a database that was opened with `SCHEMA`; the database belongs to who opened it.

    `bodies` is the folder of large bodies, None keeps all in the database. `is_alive` says whether the process of a
    holder lives; without it a lease ends by its time alone. `topology` learns of further agents as they register.
    """

    def __init__(
        self,
        database: Database,
        bodies: Path | None,
        codec: Codec,
        *,
        clock: Callable[[], int] = ids.now_us,
        is_alive: Callable[[str], bool] | None = None,
        topology: Topology | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._topology = topology
        self._bodies = Bodies(bodies)
        self._rules = Leases(clock, is_alive)
        self._streams = Streams(codec)
        self._journal = Journal(self._streams, self._bodies, self._rules, clock)
        self._inbox = Inbox(self._streams, self._journal, self._rules, clock)
        self._sweep = Sweep(self._streams, self._rules, clock)

    async def _write(self, name: str, change: Callable[[Connection], T]) -> T:
        crashpoint(f"store.{name}.before")
        result = await self._database.write(change)
        crashpoint(f"store.{name}.after")
        return result

    # -- events ------------------------------------------------------------------------------------------------------

    async def append(self, events: Sequence[Encoded], *, expected_sequence: int | None = None) -> list[Recorded]:
        return await self._write(
            "append", lambda conn: append(conn, self._streams, events, expected_sequence, self._clock())
        )

    async def stream(self, task_id: str, *, upto: int | None = None) -> list[Recorded]:
        return await self._database.read(lambda conn: self._streams.read(conn, task_id, upto))

    async def tail(self, after_position: int, limit: int = 500) -> list[Recorded]:
        def query(conn: Connection) -> list[Recorded]:
            return [audit.recorded(row) for row in conn.execute(SQL["tail"], (after_position, limit))]

        return await self._database.read(query)

    async def event(self, event_id: str) -> Recorded | None:
        return await self._database.read(lambda conn: self._streams.event(conn, event_id))

    async def find_task(self, prefix: str) -> str:
        return await self._database.read(lambda conn: views.find_task(conn, prefix))

    async def task(self, task_id: str) -> TaskRow | None:
        return await self._database.read(lambda conn: views.task_row(conn, self._streams, task_id))

    async def tasks(self, wanted: TaskFilter) -> list[TaskRow]:
        return await self._database.read(lambda conn: views.task_rows(conn, self._streams, wanted))

    # -- deliveries --------------------------------------------------------------------------------------------------

    async def claim(
        self, role: str, event: Encoded | None, envelope: Envelope, *, inbox_id: str | None = None, holder: str = ""
    ) -> Claim:
        return await self._database.read(lambda conn: self._inbox.claim(conn, role, event, envelope, inbox_id, holder))

    async def start(self, delivery: Delivery, consumed: Encoded | None, *, waiting: bool = False) -> Started:
        return await self._write("start", lambda conn: self._inbox.start(conn, delivery, consumed, waiting=waiting))

    async def commit(self, request: Commit) -> Committed:
        return await self._write("commit", lambda conn: self._inbox.commit(conn, request))

    async def published(self, role: str, inbox_ids: Sequence[str]) -> None:
        if inbox_ids:
            await self._write("published", lambda conn: inbox.published(conn, role, inbox_ids))

    async def sweep(self, role: str, consumes: Sequence[str], *, older_than_seconds: float = 30.0) -> list[Due]:
        found = await self._database.read(lambda conn: self._sweep.look(conn, role, consumes, older_than_seconds))
        mark = found.mark
        if mark is not None:
            await self._write("sweep_mark", lambda conn: sweep.move_mark(conn, role, consumes, mark))
        return found.due

    async def next_waiting(self, role: str, task_id: str, *, besides: str = "") -> Recorded | None:
        return await self._database.read(lambda conn: self._sweep.next_waiting(conn, role, task_id, besides))

    async def inbox(
        self, *, task_id: str | None = None, statuses: Sequence[str] = (), limit: int = 200
    ) -> list[InboxRow]:
        return await self._database.read(lambda conn: inbox.rows(conn, task_id, statuses, limit))

    async def reopen(self, role: str, event_id: str) -> bool:
        return await self._write("reopen", lambda conn: inbox.reopen(conn, role, event_id, self._clock()))

    async def forgive(self, delivery: Delivery) -> None:
        await self._write("forgive", lambda conn: inbox.forgive(conn, delivery, self._clock()))

    async def mark_partitions(self, role: str, partitions: Sequence[int], holder: str) -> frozenset[int]:
        return await self._write(
            "mark_partitions", lambda conn: sweep.mark_partitions(conn, self._rules, role, partitions, holder)
        )

    async def clean_partitions(self, role: str, partitions: Sequence[int], holder: str) -> None:
        await self._write("clean_partitions", lambda conn: sweep.clean_partitions(conn, role, partitions, holder))

    # -- leases and kills --------------------------------------------------------------------------------------------

    async def renew(self, holder: str, role: str) -> list[Kill]:
        held, kills = await self._database.read(
            lambda conn: (self._rules.holding(conn, holder, role), leases.kills(conn, active=True))
        )
        if held:  # an idle worker writes nothing
            await self._write("renew", lambda conn: self._rules.renew(conn, holder, role))
        return kills

    async def leases(self, holder: str) -> dict[tuple[str, str], int]:
        return await self._database.read(lambda conn: self._rules.of(conn, holder))

    async def kills(self) -> list[Kill]:
        return await self._database.read(leases.kills)

    # -- steps, effects, bodies --------------------------------------------------------------------------------------

    async def step_intent(self, delivery: Delivery, step: Step) -> Step:
        arguments = await self._stored(step.arguments)
        return await self._write("step_intent", lambda conn: self._journal.intend(conn, delivery, step, arguments))

    async def step_outcome(self, delivery: Delivery, step: Step) -> None:
        result = await self._stored(step.result)
        await self._write("step_outcome", lambda conn: self._journal.settle(conn, delivery, step, result))

    async def steps(self, task_id: str) -> list[Step]:
        return await self._database.read(lambda conn: list(self._journal.of_task(conn, task_id)))

    async def effect_intent(self, delivery: Delivery, key: str, kind: str, intent: str) -> Effect:
        now = self._clock()
        return await self._write(
            "effect_intent", lambda conn: effects.intend(conn, self._rules, delivery, key, kind, intent, now)
        )

    async def effect_receipt(self, key: str, receipt: str) -> None:
        await self._write("effect_receipt", lambda conn: effects.receipt(conn, key, receipt, self._clock()))

    async def effects(self, task_id: str) -> list[Effect]:
        return await self._database.read(lambda conn: effects.of_task(conn, task_id))

    async def effect_withdraw(self, key: str) -> None:
        await self._write("effect_withdraw", lambda conn: effects.withdraw(conn, key))

    async def put_body(self, raw: bytes) -> str:
        if self._bodies.fits_row(raw):
            return await self._write("put_body", lambda conn: self._bodies.put_row(conn, raw))
        return await self._bodies.put_file(raw)

    async def body(self, digest: str) -> bytes | None:
        return await self._database.read(lambda conn: self._bodies.read(conn, digest))

    async def _stored(self, text: str) -> Stored:
        if not is_large(text):
            return Stored(text, None)
        return Stored(None, await self.put_body(text.encode()))

    # -- projects, agents, views, checks -----------------------------------------------------------------------------

    async def put_project(self, project: Project) -> None:
        await self._write("put_project", lambda conn: registrations.put_project(conn, project))

    async def project(self, name: str) -> Project | None:
        return await self._database.read(lambda conn: registrations.newest_project(conn, name))

    async def project_version(self, project_id: str, digest: str) -> Project | None:
        return await self._database.read(lambda conn: registrations.pinned_project(conn, project_id, digest))

    async def projects(self) -> list[Project]:
        return await self._database.read(registrations.projects)

    async def register_agent(self, agent: Agent, schemas: Mapping[tuple[str, int], str]) -> RegisteredAgent:
        if self._topology is not None:
            self._topology.add(agent)  # refuses what is not a further agent's to say
        return await self._write("register_agent", lambda conn: registrations.put_agent(conn, agent, schemas))

    async def registered_agents(self) -> list[RegisteredAgent]:
        return await self._database.read(registrations.agents)

    async def rebuild_views(self) -> int:
        await self._write("rebuild_views", views.drop)
        count, after = 0, ""
        while True:
            page = partial(views.rebuild_after, streams=self._streams, after=after, limit=TASKS_PER_REBUILD)
            folded = await self._write("rebuild_views", page)
            count += sum(task_id != ids.SYSTEM_TASK for task_id in folded)
            if len(folded) < TASKS_PER_REBUILD:
                return count
            after = folded[-1]

    async def verify_chain(self) -> list[str]:
        return await self._database.read(audit.faults)

    async def heads(self) -> dict[str, tuple[int, str]]:
        """The ends of all streams, to be exported to where agents cannot write: (sequence, hash) by task."""
        return await self._database.read(audit.heads)

    async def statistics(self) -> dict[str, Any]:
        return await self._database.read(_statistics)

    async def close(self) -> None:
        """Nothing is held here: the database is closed by who opened it."""


def _statistics(conn: Connection) -> dict[str, Any]:
    return {
        "events": conn.execute(SQL["last_position"]).fetchone()[0],
        "tasks": dict(conn.execute(SQL["count_tasks"]).fetchall()),
        "deliveries": dict(conn.execute(SQL["count_deliveries"]).fetchall()),
        "kills": len(leases.kills(conn, active=True)),
        "schema_version": int(conn.execute(SQL["fact"], ("schema_version",)).fetchone()[0]),
    }


__all__ = ["SCHEMA", "SqliteStore"]
