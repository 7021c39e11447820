"""What the server itself promises: no event is changed or lost, nobody writes what is not his, no reader misses any."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from contracts import ids
from contracts.errors import Illegal, Refused
from contracts.events import INLINE_BYTES_MAX, Body, TaskFailed
from contracts.topology import Topology
from deploy.local.postgres import Postgres
from state_store.port import Commit, Delivery, Recorded
from state_store.postgres.grants import apply, logins
from state_store.postgres.store import PostgresStore
from tests.contract.store.world import (
    Place,
    World,
    asking,
    change,
    denying,
    granting,
    moment,
    opened_on_server,
    passed,
    plan,
    production,
    staging,
    step,
    succeeded,
)

PASSWORDS = {login.role: f"secret of {login.role}" for login in logins()}


@pytest.fixture
async def world(postgres: Postgres, tmp_path: Path) -> AsyncIterator[World]:
    """By the server's clock, and with leases that end by their time alone."""
    async with opened_on_server(Place.of(postgres), tmp_path, now_us=None) as made:
        yield made


async def as_role(postgres: Postgres, world: World, role: str) -> PostgresStore:
    """The store as the process of a role has it, under its own login."""
    url = postgres.url_of(f"gavotte_{role}", PASSWORDS[role])
    return await PostgresStore.open(url, world.codec, topology=Topology())


# -- nothing is forgotten -----------------------------------------------------------------------------------------------

REWRITINGS = (
    "UPDATE events SET type = 'TaskSucceeded'",
    "UPDATE events SET value = '' WHERE position = 1",
    "DELETE FROM events",
    "TRUNCATE events CASCADE",
    "INSERT INTO events SELECT * FROM events WHERE position = 1 ON CONFLICT (position) DO UPDATE SET type = 'x'",
    "DELETE FROM projects",
    "UPDATE projects SET digest = 'x'",
)
COPY = (
    "INSERT INTO events SELECT {position}, 'x', task_id, {sequence}, '{type}', version, source, correlation_id, NULL,"
    " time_us, '', '', '', trust, 0, '', '', value FROM events WHERE position = 2"
)
FORGERIES = {
    "a gap in the stream": (COPY.format(position=3, sequence=9, type="PlanProposed"), "not the next one of its task"),
    "a place that is taken": (COPY.format(position=3, sequence=2, type="PlanProposed"), "unique"),
    "a gap in the log": (COPY.format(position=7, sequence=3, type="PlanProposed"), "not the next ones"),
    "a place in the log that is taken": (COPY.format(position=1, sequence=3, type="PlanProposed"), "unique"),
    "a place before the log": (COPY.format(position=0, sequence=3, type="PlanProposed"), "not the next ones"),
}


@pytest.mark.parametrize("statement", REWRITINGS)
async def test_even_the_superuser_is_refused(world: World, statement: str) -> None:
    events = await world.dance(upto="planned")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await world.sql(statement)
    assert await world.store.stream(events[0].envelope.task_id) == events


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_an_event_has_one_place(world: World, forgery: str) -> None:
    events = await world.dance(upto="planned")
    statement, refusal = FORGERIES[forgery]
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match=refusal):
        await world.sql(statement)
    assert await world.store.stream(events[0].envelope.task_id) == events


async def test_a_task_ends_once_by_an_index(world: World) -> None:
    (*_, (task_id, sequence)) = [(e.envelope.task_id, e.sequence) for e in await world.dance()]
    ((position,),) = await world.sql("SELECT max(position) FROM events")
    second_end = COPY.format(position=position + 1, sequence=sequence + 1, type="TaskFailed")
    with pytest.raises(asyncpg.UniqueViolationError, match="one_end"):
        await world.sql(second_end.replace("WHERE position = 2", f"WHERE position = {position}"))
    assert len(await world.store.stream(task_id)) == sequence


# -- nobody writes what is not his --------------------------------------------------------------------------------------


@pytest.fixture
async def granted(postgres: Postgres, world: World) -> World:
    """The same with a login for each role."""
    await apply(postgres.url, logins(), PASSWORDS)
    return world


async def test_every_role_dances_under_its_own_login(postgres: Postgres, granted: World) -> None:
    world = granted
    async with AsyncExitStack() as stack:
        stores: dict[str, PostgresStore] = {}
        for role in PASSWORDS:
            stores[role] = await as_role(postgres, world, role)
            stack.push_async_callback(stores[role].close)
        expires = moment(4_000_000_000_000_000)
        (last,) = await stores["operator"].append([world.submission()])
        for role, payloads in (
            ("planning", (plan(),)),
            ("coding", (change(),)),
            ("review", (passed(),)),
            ("deploy", (staging(), asking(expires))),
        ):
            last = await handled(world, stores[role], role, last, *payloads)
        (last,) = await stores["operator"].append([world.said(last, granting(last))])
        await handled(world, stores["deploy"], "deploy", last, production(), succeeded())
        assert await stores["operator"].verify_chain() == []
        assert await stores["operator"].rebuild_views() == 1
        (row,) = [await stores["coding"].task(last.envelope.task_id)]
        assert row is not None
        assert row.state.step == "succeeded"


async def handled(world: World, store: PostgresStore, role: str, event: Recorded, *payloads: object) -> Recorded:
    """All that a worker writes for one delivery: start, step, act, commit, mark."""
    envelope = event.envelope
    await store.mark_partitions(role, [0, 1], role)
    claim = await store.claim(role, world.again(event), envelope)
    delivery = Delivery(role, envelope.id, envelope.task_id, envelope.id, claim.basis, holder=role)
    started = await store.start(delivery, None)
    delivery = delivery._replace(token=started.token)
    await store.renew(role, role)
    intent = await store.step_intent(delivery, step(delivery, arguments="a" * 100_000))
    await store.step_outcome(delivery, replace(intent, outcome="ok", result="1"))
    effect = await store.effect_intent(delivery, f"{role}:{envelope.id}", "act", "{}")
    await store.effect_receipt(effect.key, "{}")
    open_ = await store.effect_intent(delivery, f"{role}:{envelope.id}:withdrawn", "act", "{}")
    await store.effect_withdraw(open_.key)
    committed = await store.commit(Commit(delivery, emitted=world.answers(event, role, *payloads)))  # type: ignore[arg-type]  # payloads
    assert committed.status == "recorded", committed
    await store.published(role, [envelope.id])
    await store.sweep(role, (envelope.type,), older_than_seconds=0)
    await store.clean_partitions(role, [0, 1], role)
    return committed.events[-1]


async def test_a_role_cannot_say_what_another_says(postgres: Postgres, granted: World) -> None:
    world = granted
    *_, proposed = await world.dance(upto="proposed")
    coding = await as_role(postgres, world, "coding")
    try:
        forged = Commit(
            (await world.delivery("review", proposed))._replace(role="coding"),
            emitted=world.answers(proposed, "review", passed()),
        )
        with pytest.raises(Refused, match="gavotte_coding may not write events of type ReviewPassed"):
            await coding.commit(forged)
        with pytest.raises(Refused, match="TaskSubmitted"):
            await coding.append([world.submission()])
        assert [event.envelope.type for event in await coding.stream(proposed.envelope.task_id)][-1] == "ChangeProposed"
        ours, theirs = await world.submit(), await world.submit()
        good = Commit(
            Delivery("coding", ours.envelope.id, ours.envelope.task_id, ours.envelope.id, 1),
            emitted=world.answers(ours, "coding", TaskFailed(reason="x", reason_code="x")),
        )
        bad = Commit(
            Delivery("coding", theirs.envelope.id, theirs.envelope.task_id, theirs.envelope.id, 1),
            emitted=world.answers(theirs, "coding", plan()),
        )
        outcomes = await asyncio.gather(*map(coding.commit, (good, bad, bad)), return_exceptions=True)
        kinds = [outcome if isinstance(outcome, Exception) else outcome.status for outcome in outcomes]  # type: ignore[union-attr]  # committed
        assert kinds[0] == "superseded"  # not coding's turn: the rules say so before the server does
        assert isinstance(kinds[1], Refused)
        assert isinstance(kinds[2], Refused)
    finally:
        await coding.close()


@pytest.mark.parametrize(
    "statement",
    [
        *REWRITINGS[:4],
        "UPDATE writers SET db_role = 'gavotte_coding'",
        "INSERT INTO writers VALUES ('gavotte_coding', 'ApprovalGranted')",
        "DROP TRIGGER events_checked ON events",
        "ALTER TABLE events DISABLE TRIGGER ALL",
        "SET session_replication_role = replica",
        "DELETE FROM deliveries",
        "UPDATE kills SET reason = 'mine'",
        "INSERT INTO kills (event_id, scope, target, reason) VALUES ('x', 'all', '', '')",
        "CREATE TABLE mine (a int)",
    ],
)
async def test_a_role_has_no_other_rights(postgres: Postgres, granted: World, statement: str) -> None:
    await granted.dance(upto="planned")
    connection = await asyncpg.connect(postgres.url_of("gavotte_coding", PASSWORDS["coding"]))
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    finally:
        await connection.close()


# -- many at once -------------------------------------------------------------------------------------------------------


async def test_a_reader_who_follows_the_log_misses_nothing(world: World) -> None:
    others = [await world.another() for _ in range(3)]
    total = 240
    seen: list[Recorded] = []

    async def write(store: object, number: int) -> None:
        for index in range(number, total, 4):
            await store.append([world.submission(title=f"task {index}")])  # type: ignore[attr-defined]  # a store

    async def follow() -> None:
        while len(seen) < total:
            seen.extend(await world.store.tail(seen[-1].position if seen else 0, limit=7))

    async with asyncio.timeout(60):
        await asyncio.gather(follow(), *(write(store, n) for n, store in enumerate([world.store, *others])))
    assert [event.position for event in seen] == list(range(1, total + 1))
    assert seen == await world.store.tail(0, limit=1000)


async def test_a_log_that_is_being_written_shows_no_gap(postgres: Postgres, world: World) -> None:
    """A writer that has its position and has not committed holds up those behind it, rather than being overtaken."""
    await world.submit()
    slow = await asyncpg.connect(postgres.url_of("postgres"))
    transaction = slow.transaction()
    await transaction.start()
    await slow.execute("SELECT pg_advisory_xact_lock($1)", 0x6761766F747465_02)
    await slow.execute(COPY.format(position=2, sequence=2, type="Annotated").replace("position = 2", "position = 1"))
    behind = asyncio.create_task(world.submit())
    done, _ = await asyncio.wait([behind], timeout=0.3)
    assert not done
    assert len(await world.store.tail(0)) == 1
    await transaction.commit()
    await slow.close()
    assert (await behind).position == 3
    assert [event.position for event in await world.store.tail(0)] == [1, 2, 3]


async def test_one_stale_delivery_among_two_hundred_loses_itself_alone(world: World) -> None:
    tasks = await asyncio.gather(*(world.submit(title=f"task {number}") for number in range(200)))
    requests = [
        Commit(await world.delivery("planning", task), emitted=world.answers(task, "planning", plan()))
        for task in tasks
    ]
    await world.handle("planning", tasks[77], TaskFailed(reason="no", reason_code="x"))
    stale = requests[77]._replace(delivery=requests[77].delivery._replace(event_id=ids.uuid7()))
    requests[77] = stale  # of a task that has moved on
    outcomes = await asyncio.gather(*map(world.store.commit, requests))
    assert [outcome.status for outcome in outcomes].count("recorded") == 199
    assert outcomes[77].status == "superseded"
    assert await world.store.verify_chain() == []
    assert (await world.store.statistics())["events"] == 200 + 1 + 199


async def test_the_same_delivery_in_two_processes_is_recorded_once(world: World) -> None:
    others = [world.store, await world.another(), await world.another()]
    for _ in range(10):
        task = await world.submit()
        request = Commit(await world.delivery("planning", task), emitted=world.answers(task, "planning", plan()))
        outcomes = await asyncio.gather(*(store.commit(request) for store in others))
        assert sorted(outcome.status for outcome in outcomes) == ["recorded", "repeated", "repeated"]
        assert len({outcome.events[0].position for outcome in outcomes}) == 1


async def test_kills_and_lifts_race_with_commits_and_leave_nothing_parked(world: World) -> None:
    from contracts.events import KillLifted, KillRaised
    from contracts.ids import SYSTEM_TASK

    other = await world.another()
    tasks = [await world.submit(title=f"task {number}") for number in range(30)]

    async def park(task: Recorded) -> None:
        delivery = await world.delivery("planning", task)
        await other.commit(Commit(delivery, status="parked", reason="killed", reason_code="killed"))

    raised = world.word(SYSTEM_TASK, KillRaised(scope="all", operator="olga"))
    await world.store.append([raised])
    lifted = world.word(SYSTEM_TASK, KillLifted(kill_id=raised.event.id, operator="olga"))
    await asyncio.gather(*(park(task) for task in tasks[:20]), world.store.append([lifted]), *map(park, tasks[20:]))
    assert await world.store.inbox(statuses=["parked"]) == []
    assert len(await world.store.inbox(statuses=["retry"])) == 30


# -- time ---------------------------------------------------------------------------------------------------------------


async def test_the_servers_clock_says_when_an_approval_is_too_late(world: World) -> None:
    ((now_us,),) = await world.sql("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
    *_, staged = await world.dance(upto="staged")
    late, timely = moment(now_us - 1_000_000), moment(now_us + 3600 * 1_000_000)
    for expires, allowed in ((late, False), (timely, True)):
        task = staged if allowed else (await world.dance(upto="staged"))[-1]
        committed = await world.handle("deploy", task, asking(expires))
        (request,) = committed.events
        if allowed:
            assert await world.store.append([world.said(request, granting(request))])
        else:
            with pytest.raises(Illegal, match="expired"):
                await world.store.append([world.said(request, denying(request))])
    recorded = await world.store.tail(0)
    assert all(abs(event.recorded_at_us - now_us) < 60_000_000 for event in recorded)


async def test_a_lease_ends_by_the_servers_clock(world: World) -> None:
    submission = await world.submit()
    await world.begin("planning", submission)
    other = await world.another()
    assert (await other.claim("planning", world.again(submission), submission.envelope)).status == "waiting"
    await world.sql("UPDATE leases SET expires_us = expires_us - 11000000")
    assert (await other.claim("planning", world.again(submission), submission.envelope)).status == "free"


# -- bodies -------------------------------------------------------------------------------------------------------------


async def test_large_bodies_go_when_they_are_old_and_nothing_names_them(world: World) -> None:
    large = INLINE_BYTES_MAX + 1
    inner = await world.store.put_body(b"i" * large)
    outer = await world.store.put_body(f"names {inner}".encode() + b"o" * large)
    await world.store.put_body(f"a small body that names {outer}".encode())
    in_event, nobody, again = [await world.store.put_body(letter * large) for letter in (b"e", b"n", b"a")]
    await world.store.append([world.submission(patch=Body(digest=in_event, size_bytes=large))])
    now_us = ids.now_us()
    assert (await world.store.prune_journal(now_us - 3_600_000_000)).bodies == 0, "they were stored just now"
    await world.sql("UPDATE bodies SET stored_at_us = 1")
    assert await world.store.put_body(b"a" * large) == again
    assert (await world.store.prune_journal(now_us, dry_run=True)).body_bytes == large
    assert (await world.store.prune_journal(now_us)).bodies == 1
    assert await world.store.body(nobody) is None
    for kept in (inner, outer, in_event, again):
        assert await world.store.body(kept) is not None
