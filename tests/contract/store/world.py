"""A store under test with a clock and a list of the dead, and the payloads of one dance."""

from __future__ import annotations

import hashlib
import itertools
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

import asyncpg

from contracts import ids
from contracts.codec import Codec
from contracts.envelope import OPERATOR_SOURCE, Event, root
from contracts.events import (
    ApprovalDenied,
    ApprovalGranted,
    ApprovalRequested,
    Body,
    Budget,
    ChangeProposed,
    ChangesRequested,
    Payload,
    PlanProposed,
    ProductionDeployed,
    ReviewPassed,
    StagingDeployed,
    TaskCancelRequested,
    TaskSubmitted,
    TaskSucceeded,
    register,
)
from contracts.registry import CommittedIds, Schema
from contracts.topology import Topology
from deploy.local.postgres import Postgres
from embedded.file import Database
from embedded.inline import InlineDatabase
from state_store.port import Claim, Commit, Committed, Delivery, Due, Encoded, Recorded, Started, StateStore, Step
from state_store.postgres.migrations import migrate
from state_store.postgres.store import PostgresStore
from state_store.sqlite import SCHEMA, SqliteStore
from state_store.store import Store

START_US = 1_790_000_000_000_000


@register
class LicenceChecked(Payload):
    """A further agent's event, for tests: an annotation."""

    note: str = ""


LICENCE_SCHEMA = (
    '{"type":"record","name":"LicenceChecked","namespace":"gavotte.events.v1",'
    '"fields":[{"name":"note","type":"string","default":""}]}'
)


class Clock:
    """The store's clock, moved by hand."""

    def __init__(self, now_us: int) -> None:
        self.now_us = now_us

    def __call__(self) -> int:
        self.now_us += 1
        return self.now_us

    def advance(self, seconds: float) -> None:
        self.now_us += int(seconds * 1_000_000)


@dataclass
class World:
    """One store and what a test turns on it."""

    store: Store
    clock: Clock
    codec: Codec
    dead: set[str]
    folder: Path
    another: Callable[[], Awaitable[Store]]
    """The store as another process sees it."""
    sql: Callable[..., Awaitable[list[tuple[Any, ...]]]]
    """What somebody with the rights of the owner does behind the store's back: `sql(statement, *values)` with `?`."""
    refusals: tuple[type[Exception], ...] = (sqlite3.IntegrityError, asyncpg.PostgresError)

    def encoded(self, event: Event) -> Encoded:
        return Encoded(event, self.codec.encode_payload(event.payload))

    def again(self, event: Recorded) -> Encoded:
        """A recorded event as a consumer reads it from the bus."""
        return Encoded(self.codec.decode(event.envelope, event.value), event.value)

    # -- who says what ----------------------------------------------------------------------------------------------

    def submission(self, *, task_id: str | None = None, **fields: Any) -> Encoded:
        return self.encoded(root(submitted(**fields), task_id=task_id, time_us=self.clock()))

    async def submit(self, **fields: Any) -> Recorded:
        (recorded,) = await self.store.append([self.submission(**fields)])
        return recorded

    def said(self, about: Recorded, payload: Payload) -> Encoded:
        """An operator's word about the task of an event."""
        return self.word(about.envelope.task_id, payload)

    def word(self, task_id: str, payload: Payload) -> Encoded:
        """An operator's word about any task, or about none."""
        return self.encoded(
            root(payload, task_id=task_id, source=OPERATOR_SOURCE, trust="operator", time_us=self.clock())
        )

    def answers(self, cause: Recorded | Encoded, role: str, *payloads: Payload, slot: str = "") -> tuple[Encoded, ...]:
        """What a role emits for an event, in a chain of derived ids."""
        source = self.again(cause).event if isinstance(cause, Recorded) else cause.event
        producer = f"{role}/{slot}" if slot else role
        return tuple(
            self.encoded(
                source.cause(payload).sealed(
                    producer=producer, index=index, time_us=self.clock(), source=f"urn:gavotte:agent:{role}"
                )
            )
            for index, payload in enumerate(payloads)
        )

    # -- the path of a delivery -------------------------------------------------------------------------------------

    async def claim(self, role: str, event: Recorded | Encoded, *, store: StateStore | None = None) -> Claim:
        encoded = self.again(event) if isinstance(event, Recorded) else event
        return await (store or self.store).claim(role, encoded, encoded.event.envelope)

    async def delivery(self, role: str, event: Recorded | Encoded, *, holder: str = "one", token: int = 0) -> Delivery:
        """The delivery as a worker makes it from a claim."""
        claim = await self.claim(role, event)
        envelope = event.envelope if isinstance(event, Recorded) else event.event.envelope
        return Delivery(
            role=role,
            event_id=envelope.id,
            task_id=envelope.task_id,
            cause_id=envelope.id,
            basis=claim.basis,
            kill_seq=claim.kill_seq,
            holder=holder,
            token=token,
            seen=claim.seen,
        )

    async def begin(self, role: str, event: Recorded, *, holder: str = "one") -> tuple[Delivery, Started]:
        """A durable start; the delivery carries its token."""
        delivery = await self.delivery(role, event, holder=holder)
        started = await self.store.start(delivery, None)
        return delivery._replace(token=started.token), started

    async def handle(self, role: str, event: Recorded, *payloads: Payload, **commit: Any) -> Committed:
        """Claim an event and commit what follows, in one go, as on the fast path."""
        delivery = await self.delivery(role, event)
        return await self.store.commit(Commit(delivery, emitted=self.answers(event, role, *payloads), **commit))

    async def dance(self, *, upto: str = "succeeded", submission: Recorded | None = None) -> list[Recorded]:
        """Play a task through the four roles up to a step; returns its events."""
        last = submission or await self.submit()
        events = [last]
        expires = moment(self.clock.now_us + 3600 * 1_000_000)
        moves: list[tuple[str, str, Payload]] = [
            ("planned", "planning", plan()),
            ("proposed", "coding", change()),
            ("reviewed", "review", passed()),
            ("staged", "deploy", staging()),
        ]
        for step, role, payload in moves:
            if _reached(events, upto):
                return events
            committed = await self.handle(role, last, *self._with_request(step, payload, upto, expires))
            events += committed.events
            last = committed.events[-1]
            if step == upto:
                return events
        if upto == "awaiting_approval":
            return events
        (granted,) = await self.store.append([self.said(last, granting(last))])
        events.append(granted)
        if upto == "approved":
            return events
        committed = await self.handle("deploy", granted, production(), succeeded())
        return events + list(committed.events)

    def _with_request(self, step: str, payload: Payload, upto: str, expires: datetime) -> tuple[Payload, ...]:
        """Staging and the request for approval stand in one commit."""
        if step == "staged" and upto != "staged":
            return (payload, asking(expires))
        return (payload,)


def _reached(events: list[Recorded], upto: str) -> bool:
    return upto == "submitted" and len(events) == 1


@dataclass
class FileWorld(World):
    """A world whose store is a file, or as good as one."""

    database: Database = field(kw_only=True)


def codec_with_licence() -> Codec:
    schema_ids = CommittedIds()
    schema_ids.add(Schema(100_900, "LicenceChecked", 1, LICENCE_SCHEMA))
    return Codec(schema_ids)


@asynccontextmanager
async def opened(
    kind: str, folder: Path, *, is_alive: Callable[[str], bool] | None = None, now_us: int = START_US
) -> AsyncIterator[FileWorld]:
    """A fresh store on a database in memory, or one on a file. Who is not in `dead` lives, unless `is_alive` says."""
    codec, clock, dead = codec_with_licence(), Clock(now_us), set[str]()
    alive = is_alive or (lambda holder: holder not in dead)
    database: Database
    if kind == "inline":
        database = await InlineDatabase.open(schema=[SCHEMA])
    else:
        database = await Database.open(folder / "gavotte.db", schema=[SCHEMA])
    bodies = None if kind == "inline" else folder / "bodies"
    opened_databases = [database]

    def store_on(shared: Database) -> SqliteStore:
        return SqliteStore(shared, bodies, codec, clock=clock, is_alive=alive, topology=Topology())

    async def another() -> SqliteStore:
        if isinstance(database, InlineDatabase):
            shared: Database = database.share()
        else:
            shared = await Database.open(folder / "gavotte.db", schema=[SCHEMA])
        opened_databases.append(shared)
        return store_on(shared)

    async def sql(statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return await database.write(lambda conn: conn.execute(statement, values).fetchall())

    try:
        yield FileWorld(store_on(database), clock, codec, dead, folder, another, sql, database=database)
    finally:
        for shared in reversed(opened_databases):
            await shared.close()


class Place(NamedTuple):
    """A database: its address as the owner and as the superuser."""

    url: str
    superuser_url: str

    @classmethod
    def of(cls, server: Postgres) -> Self:
        return cls(server.url, server.url_of("postgres"))


@asynccontextmanager
async def opened_on_server(
    server: Place,
    folder: Path,
    *,
    is_alive: Callable[[str], bool] | None = None,
    now_us: int | None = START_US,
    wiped: bool = True,
) -> AsyncIterator[World]:
    """An empty store on a PostgreSQL server; without `now_us` its clock is the server's."""
    codec, clock, dead = codec_with_licence(), Clock(now_us or ids.now_us()), set[str]()
    alive = is_alive or (lambda holder: holder not in dead)
    await ready(server, wiped=wiped)
    superuser = await asyncpg.connect(server.superuser_url)
    stores: list[PostgresStore] = []

    async def another() -> PostgresStore:
        given = None if now_us is None else clock
        store = await PostgresStore.open(server.url, codec, clock=given, is_alive=alive, topology=Topology())
        stores.append(store)
        return store

    async def sql(statement: str, *values: Any) -> list[tuple[Any, ...]]:
        places = itertools.count(1)
        found = await superuser.fetch(re.sub(r"\?", lambda _: f"${next(places)}", statement), *values)
        return [tuple(record) for record in found]

    try:
        yield World(await another(), clock, codec, dead, folder, another, sql)
    finally:
        for store in stores:
            await store.close()
        await superuser.close()


_migrated: set[str] = set()

WIPE = """
SET session_replication_role = replica;
DO $$ DECLARE found record; BEGIN
    FOR found IN SELECT relname, relkind FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S')
        AND relname NOT IN ('migrations', 'store_facts') LOOP
        IF found.relkind = 'r' THEN EXECUTE format('DELETE FROM %I', found.relname);
        ELSE EXECUTE format('ALTER SEQUENCE %I RESTART', found.relname); END IF;
    END LOOP;
END $$;
SET session_replication_role = origin;
"""


async def ready(server: Place, *, wiped: bool) -> None:
    """The tables are there, and empty."""
    if server.url not in _migrated:
        await migrate(server.url)
        _migrated.add(server.url)
    if wiped:
        connection = await asyncpg.connect(server.superuser_url)
        await connection.execute(WIPE)
        await connection.close()


async def swept(world: World, role: str, consumes: tuple[str, ...], *, older: float = 30.0) -> list[Due]:
    """What is due, but for what was closed and waits to be published: nothing publishes here."""
    found = await world.store.sweep(role, consumes, older_than_seconds=older)
    return [due for due in found if due.kind != "unpublished"]


# -- payloads -------------------------------------------------------------------------------------------------------

DIGEST = "sha256:" + "d" * 64


def moment(time_us: int) -> datetime:
    return datetime.fromtimestamp(time_us / 1_000_000, UTC)


def submitted(**fields: Any) -> TaskSubmitted:
    given: dict[str, Any] = {
        "title": "Split money without losing a cent",
        "repository": "/repo",
        "project_id": ids.derived("project", "repo"),
        "project_digest": DIGEST,
        "base_commit": "b" * 40,
        "submitter": "sam",
    }
    return TaskSubmitted(**given | fields)


def plan() -> PlanProposed:
    return PlanProposed(summary="split the rest", base_commit="b" * 40)


def change(revision: int = 1) -> ChangeProposed:
    return ChangeProposed(
        revision=revision,
        base_commit="b" * 40,
        head_commit="c" * 40,
        branch="gavotte/x",
        digest=DIGEST,
        diff=Body.of("diff"),
    )


def passed() -> ReviewPassed:
    return ReviewPassed(revision=1, head_commit="c" * 40, digest=DIGEST)


def turned_down() -> ChangesRequested:
    return ChangesRequested(revision=1, head_commit="c" * 40, digest=DIGEST, summary="a test is missing")


def staging() -> StagingDeployed:
    return StagingDeployed(digest=DIGEST, commit="c" * 40, path="/staging", effect_key="release:staging")


def asking(expires: datetime) -> ApprovalRequested:
    return ApprovalRequested(digest=DIGEST, commit="c" * 40, expires_at=expires)


def granting(request: Recorded, operator: str = "olga") -> ApprovalGranted:
    return ApprovalGranted(request_id=request.envelope.id, digest=DIGEST, operator=operator)


def denying(request: Recorded, operator: str = "dora") -> ApprovalDenied:
    return ApprovalDenied(request_id=request.envelope.id, digest=DIGEST, operator=operator)


def production() -> ProductionDeployed:
    return ProductionDeployed(digest=DIGEST, commit="c" * 40, path="/production", effect_key="release:production")


def succeeded() -> TaskSucceeded:
    return TaskSucceeded(digest=DIGEST, commit="c" * 40)


def cancelling() -> TaskCancelRequested:
    return TaskCancelRequested(reason="not needed", operator="olga")


def small_budget(**caps: int) -> Budget:
    return Budget(**caps)


def step(delivery: Delivery, ordinal: int = 0, **fields: Any) -> Step:
    """An intent of a tool call."""
    given: dict[str, Any] = {"kind": "tool", "name": "run_tests", "arguments": "{}", "state_digest": "0" * 64}
    given |= fields
    digest = hashlib.sha256(f"{given['name']}\0{given['arguments']}".encode()).hexdigest()
    return Step(
        task_id=delivery.task_id,
        cause_id=delivery.cause_id,
        role=delivery.role,
        ordinal=ordinal,
        arguments_digest=digest,
        **given,
    )
