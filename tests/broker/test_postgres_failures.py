"""A server that goes away: what was acknowledged is there once, what was not is told, and nobody hammers at a closed door."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from contracts.errors import NotFound, OutcomeUnknown, Refused, Unavailable, Usage
from deploy.local.postgres import Postgres
from deploy.local.serving import free_port
from state_store.port import Commit, Delivery, Recorded
from state_store.postgres import connections, migrations, together
from state_store.postgres.migrations import migrate
from state_store.postgres.store import PostgresStore
from tests.contract.store.world import Place, World, opened_on_server, plan, step


class Wire:
    """A proxy before the server that can cut a connection at a word of the client: before it passes, or after."""

    def __init__(self, port: int) -> None:
        self.server_port = port
        self.word = b""
        self.passes = False
        self.times = 0
        self.accepted = 0
        self.open = True
        self._busy: set[asyncio.Task[None]] = set()

    def cut_at(self, word: bytes, *, passes: bool, times: int = 1) -> None:
        """The next `times` when a client says the word, its connection ends; what it said arrives where it `passes`."""
        self.word, self.passes, self.times = word, passes, times

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if not self.open:
            writer.transport.abort()
            return
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.server_port)
        back = asyncio.create_task(self.carry(there_reader, writer))
        try:
            while data := await reader.read(1 << 16):
                cut = self.times > 0 and self.word in data
                if cut:
                    self.times -= 1
                    back.cancel()
                    await asyncio.wait([back])
                if not cut or self.passes:
                    there_writer.write(data)
                    await there_writer.drain()
                if cut:
                    if self.passes:
                        await there_reader.read(1)  # the server has answered: it is done
                    break
        except ConnectionError:
            pass
        finally:
            back.cancel()
            writer.transport.abort()
            there_writer.transport.abort()

    @staticmethod
    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
            writer.transport.abort()


@asynccontextmanager
async def through_a_wire(postgres: Postgres, folder: Path) -> AsyncIterator[tuple[World, Wire]]:
    """A store that reaches its server through a wire that can be cut."""
    wire = Wire(postgres.port)
    listener = await asyncio.start_server(wire, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with opened_on_server(Place.of(postgres), folder, now_us=None) as world:
        plain = world.store
        world.store = await PostgresStore.open(postgres.url.replace(f":{postgres.port}/", f":{port}/"), world.codec)
        try:
            yield world, wire
        finally:
            await world.store.close()
            world.store = plain
            listener.close()


@pytest.fixture
async def wired(postgres: Postgres, tmp_path: Path) -> AsyncIterator[tuple[World, Wire]]:
    async with through_a_wire(postgres, tmp_path) as made:
        yield made


# -- a commit without an answer -----------------------------------------------------------------------------------------


PASSES = pytest.mark.parametrize("passes", [True, False], ids=["it was committed", "it was not"])
WAYS = pytest.mark.parametrize("word", [b"COMMIT", b"PlanProposed"], ids=["by the rules", "in the ordinary way"])
"""What the client says when it commits: the ordinary way is one statement, in which the event's type stands."""


async def request_of(world: World, cause: Recorded, word: bytes) -> Commit:
    """A commit that goes this way: what was not seen at the claim is for the rules to judge."""
    delivery = await world.delivery("planning", cause)
    seen = delivery.seen if word == b"PlanProposed" else None
    return Commit(delivery._replace(seen=seen), emitted=world.answers(cause, "planning", plan()))


@PASSES
@WAYS
async def test_a_commit_without_an_answer_is_looked_up(wired: tuple[World, Wire], word: bytes, *, passes: bool) -> None:
    world, wire = wired
    wire.cut_at(b"TaskSubmitted", passes=passes)
    submission = await world.submit()
    assert (wire.times, submission.position) == (0, 1)
    request = await request_of(world, submission, word)
    wire.cut_at(word, passes=passes)
    committed = await world.store.commit(request)
    assert wire.times == 0
    assert committed.status == ("repeated" if passes else "recorded")
    assert [event.position for event in committed.events] == [2]
    wire.cut_at(b"COMMIT", passes=passes)
    started = await world.store.start((await world.delivery("licence", submission))._replace(holder="one"), None)
    assert (started.status, started.starts) == ("started", 1)
    assert [event.envelope.type for event in await world.store.tail(0)] == ["TaskSubmitted", "PlanProposed"]
    assert await world.store.verify_chain() == []


@PASSES
@WAYS
async def test_a_group_without_an_answer_is_looked_up_one_by_one(
    wired: tuple[World, Wire], word: bytes, *, passes: bool
) -> None:
    world, wire = wired
    tasks = await asyncio.gather(*(world.submit(title=f"task {number}") for number in range(40)))
    requests = [await request_of(world, task, word) for task in tasks]
    wire.cut_at(word, passes=passes, times=3)
    outcomes = await asyncio.gather(*map(world.store.commit, requests))
    assert wire.times < 3
    assert {outcome.status for outcome in outcomes} <= {"recorded", "repeated"}
    assert sorted(outcome.events[0].position for outcome in outcomes) == list(range(41, 81))
    assert await world.store.verify_chain() == []


async def test_an_intent_without_an_answer_is_said_to_be_unknown(wired: tuple[World, Wire]) -> None:
    """It may have been charged: to write it again would charge it twice without a word."""
    world, wire = wired
    submission = await world.submit()
    delivery, _ = await world.begin("planning", submission)
    wire.cut_at(b"COMMIT", passes=True)
    with pytest.raises(OutcomeUnknown):
        await world.store.step_intent(delivery, step(delivery))
    assert len(await world.store.steps(submission.envelope.task_id)) == 1
    wire.cut_at(b"COMMIT", passes=True)
    await world.store.step_outcome(delivery, replace(step(delivery), outcome="ok", result="1"))
    (settled,) = await world.store.steps(submission.envelope.task_id)
    assert (settled.outcome, settled.attempt) == ("ok", 1)


@pytest.mark.parametrize("word", [b"BEGIN", b"ROLLBACK", b"PlanProposed"])
async def test_a_connection_that_ends_before_the_commit_costs_nothing(wired: tuple[World, Wire], word: bytes) -> None:
    world, wire = wired
    submission = await world.submit()
    wire.cut_at(word, passes=True, times=2)
    request = await request_of(world, submission, b"COMMIT")
    assert (await world.store.commit(request)).status == "recorded"
    with pytest.raises(NotFound):
        await world.store.effect_receipt("nobody's", "{}")
    assert len(await world.store.tail(0)) == 2


# -- a server that is away ----------------------------------------------------------------------------------------------


async def test_a_server_that_is_away_is_said_so_after_some_patience_and_not_hammered(
    wired: tuple[World, Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, wire = wired
    monkeypatch.setattr(together, "PATIENCE_SECONDS", 1.0)
    submission = await world.submit()
    wire.open, before = False, wire.accepted
    wire.cut_at(b"", passes=False, times=10)  # whatever is said next
    asked = [world.store.tail(0), world.store.task(submission.envelope.task_id), world.submit(), world.submit()]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 4
    assert "127.0.0.1" in str(outcomes[0])
    assert "gavotte:" not in str(outcomes[0]), "no password is shown"
    assert wire.accepted - before < 40
    wire.open, wire.times = True, 0
    assert [event.position for event in await world.store.tail(0)] == [1]
    assert (await world.submit()).position == 2


async def test_a_server_that_is_killed_again_and_again_loses_and_doubles_nothing(tmp_path: Path) -> None:
    server = Postgres(durable=False)
    server.start()
    try:
        async with opened_on_server(Place.of(server), tmp_path, now_us=None) as world:
            acknowledged: list[str] = []
            stop = asyncio.Event()

            async def write(number: int) -> None:
                while not stop.is_set():
                    submission = world.submission(title=f"of {number}")
                    while True:
                        with contextlib.suppress(Unavailable, OutcomeUnknown):
                            (recorded,) = await world.store.append([submission])
                            break
                    request = Commit(
                        Delivery("planning", submission.event.id, recorded.envelope.task_id, submission.event.id, 1),
                        emitted=world.answers(recorded, "planning", plan()),
                    )
                    while True:
                        with contextlib.suppress(Unavailable, OutcomeUnknown):
                            assert (await world.store.commit(request)).status in {"recorded", "repeated"}
                            break
                    acknowledged.append(recorded.envelope.task_id)

            writers = [asyncio.create_task(write(number)) for number in range(8)]
            for _ in range(3):
                known = len(acknowledged)
                await until(lambda known=known: len(acknowledged) > known + 20)  # type: ignore[misc]  # mypy on defaults
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            known = len(acknowledged)
            await until(lambda: len(acknowledged) > known + 20)
            stop.set()
            await asyncio.gather(*writers)
            events = await world.store.tail(0, limit=1_000_000)
            assert [event.position for event in events] == list(range(1, len(events) + 1))
            assert sorted(event.envelope.task_id for event in events) == sorted(acknowledged * 2)
            assert await world.store.verify_chain() == []
    finally:
        server.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_server_that_stands_still_is_taken_for_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "COMMAND_SECONDS", 0.5)
    monkeypatch.setattr(connections, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(together, "PATIENCE_SECONDS", 1.0)
    server = Postgres(durable=False)
    server.start()
    try:
        async with opened_on_server(Place.of(server), tmp_path, now_us=None) as world:
            await world.submit()
            server.freeze()
            try:
                async with asyncio.timeout(20):
                    outcomes = await asyncio.gather(world.submit(), world.store.tail(0), return_exceptions=True)
            finally:
                server.thaw()
            assert all(isinstance(outcome, Unavailable | OutcomeUnknown) for outcome in outcomes), outcomes
            await world.submit()
            assert await world.store.verify_chain() == []
    finally:
        server.close()


async def test_a_process_that_stands_still_in_a_transaction_loses_its_locks(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.SESSION, "idle_in_transaction_session_timeout", "500ms")
    async with opened_on_server(Place.of(postgres), tmp_path, now_us=None) as world:
        frozen = connections.Connections(postgres.url, 1)
        try:
            async with frozen.borrow() as connection:
                await connection.execute("BEGIN")
                await connection.fetch("lock_all", [together.EVERYTHING])
                async with asyncio.timeout(10):
                    assert (await world.submit()).position == 1
                with pytest.raises(Unavailable):
                    await connection.execute("COMMIT")
        finally:
            await frozen.close()


# -- doors that are shut ------------------------------------------------------------------------------------------------


async def opening(url: str, world: World) -> None:
    store = await PostgresStore.open(url, world.codec)
    await store.close()


@pytest.fixture
async def world(postgres: Postgres, tmp_path: Path) -> AsyncIterator[World]:
    async with opened_on_server(Place.of(postgres), tmp_path, now_us=None) as made:
        yield made


async def test_what_is_wrong_with_an_address_is_said(postgres: Postgres, world: World) -> None:
    for url, kind, said in (
        (postgres.url_of("gavotte", "guessed"), Refused, "password authentication failed"),
        (postgres.url_of("gavotte", database="elsewhere"), Refused, '"elsewhere" does not exist'),
        (f"postgresql://gavotte:x@127.0.0.1:{free_port()}/gavotte", Unavailable, "does not answer"),
        ("postgres.example.org", Usage, "store.url is no address"),
        ("postgresql://gavotte:x@127.0.0.1:port/gavotte", Usage, "store.url is no address"),
    ):
        with pytest.raises(kind, match=said) as caught:
            await opening(url, world)
        assert caught.value.hint
        assert "guessed" not in str(caught.value)
        assert ":x@" not in str(caught.value)


async def test_a_database_without_tables_names_the_way_forward(
    postgres: Postgres, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.sql("CREATE SCHEMA IF NOT EXISTS bare AUTHORIZATION gavotte")
    bare = postgres.url + "?search_path=bare"
    with pytest.raises(Refused, match="has no tables yet") as caught:
        await opening(bare, world)
    assert caught.value.hint == "gavotte store migrate"
    await asyncio.gather(migrate(bare), migrate(bare))  # two at once: one of them does it
    assert await migrate(bare) == []
    await opening(bare, world)
    later = migrations.Migration(9999, "later", "CREATE TABLE later (a int)")
    both = [*migrations.known(), later]
    with monkeypatch.context() as newer:
        newer.setattr(migrations, "known", lambda: both)
        with pytest.raises(Refused, match="lacks the migrations 9999 later"):
            await opening(bare, world)
        assert await migrate(bare) == [later]
        await opening(bare, world)
    with pytest.raises(Refused, match="newer build"):
        await opening(bare, world)
    with pytest.raises(Refused, match="newer build"):
        await migrate(bare)
    with monkeypatch.context() as edited:
        edited.setattr(migrations, "known", lambda: [replace(both[0], script="-- edited"), *both[1:]])
        with pytest.raises(Refused, match="another script"):
            await opening(bare, world)
    await world.sql("DROP SCHEMA bare CASCADE")


async def test_a_migration_that_fails_leaves_nothing_behind(
    postgres: Postgres, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.sql("CREATE SCHEMA IF NOT EXISTS broken AUTHORIZATION gavotte")
    broken = postgres.url + "?search_path=broken"
    bad = migrations.Migration(9999, "bad", "CREATE TABLE half (a int); CREATE TABLE half (a int)")
    all_known = [*migrations.known(), bad]
    monkeypatch.setattr(migrations, "known", lambda: all_known)
    with pytest.raises(asyncpg.DuplicateTableError):
        await migrate(broken)
    assert await world.sql("SELECT 1 FROM pg_tables WHERE schemaname = 'broken' AND tablename = 'half'") == []
    with pytest.raises(Refused, match="lacks the migrations 9999 bad"):
        await opening(broken, world)
    await world.sql("DROP SCHEMA broken CASCADE")


async def test_text_that_the_server_cannot_keep_is_kept_as_far_as_it_can(world: World) -> None:
    submission = await world.submit()
    delivery, _ = await world.begin("planning", submission)
    intent = await world.store.step_intent(delivery, step(delivery, why="a\0b"))
    assert intent.why == "a\ufffdb"
    request = Commit(delivery, status="parked", reason="it said \0", reason_code="x")
    assert (await world.store.commit(request)).status == "recorded"


async def test_news_come_again_after_a_crash(tmp_path: Path) -> None:
    with Postgres(durable=False) as server:
        async with opened_on_server(Place.of(server), tmp_path, now_us=None) as world:
            for position in (1, 2, 3):
                waiting = asyncio.create_task(world.store.news(position - 1, timeout_seconds=60))
                await asyncio.sleep(0.05)
                assert (await world.submit()).position == position
                assert await waiting == position
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
