"""The bus suite over one file, all nodes in this process; retention, and the two ways to hear of news."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from bus.embedded import SCHEMA, EmbeddedBus
from bus.file_log import Content
from bus.port import Message
from contracts.errors import Corrupt, Refused, Unavailable
from embedded.file import Database
from tests.contract.bus.cluster import EmbeddedCluster, offsets_of, until
from tests.contract.bus.suite import BusSuite, Member, collect, numbered, values


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[EmbeddedCluster]:
    made = EmbeddedCluster(tmp_path)
    yield made
    await made.close()


class TestEmbeddedBus(BusSuite):
    pass


async def test_news_comes_by_wake_up_alone(cluster: EmbeddedCluster) -> None:
    here, there = [await cluster.node(name, poll_seconds=None) for name in "ab"]
    subscription = await Member("m").join(here.bus)
    await until(lambda: len(subscription.assigned) == 8)
    for number in range(20):
        waiting = asyncio.create_task(subscription.fetch(10, 25.0))
        await asyncio.sleep(0.01)
        await there.bus.publish(numbered("t", 1, number))
        assert values(await waiting) == [number]


async def test_news_comes_by_poll_alone(cluster: EmbeddedCluster) -> None:
    here, there = [await cluster.node(name, poll_seconds=0.05, wakeups=False) for name in "ab"]
    member, other = Member("m"), Member("m2")
    subscription = await member.join(here.bus)
    await until(lambda: len(subscription.assigned) == 8)
    waiting = asyncio.create_task(subscription.fetch(10, 25.0))
    await asyncio.sleep(0.01)
    await there.bus.publish(numbered("t", 1))
    assert values(await waiting) == [0]
    await other.join(there.bus)
    await until(lambda: len(member.assigned) == len(other.assigned) == 4, "a split that nobody was woken for")


async def test_an_idle_group_writes_nothing(cluster: EmbeddedCluster) -> None:
    nodes = [await cluster.node(name, poll_seconds=0.01) for name in "ab"]
    members = [Member(f"m{number}") for number in range(2)]
    for member, node in zip(members, nodes, strict=True):
        await member.join(node.bus)
    await until(lambda: all(len(member.assigned) == 4 for member in members))
    idle = [asyncio.create_task(member.subscription.fetch(10, 0.5)) for member in members if member.subscription]
    wal = cluster.folder / "gavotte.db-wal"
    before = wal.read_bytes()
    await asyncio.gather(*idle)
    assert wal.read_bytes() == before


async def test_pruning_keeps_what_a_group_has_not_read(cluster: EmbeddedCluster) -> None:
    node = await cluster.node("a")
    bus = node.bus
    assert isinstance(bus, EmbeddedBus)
    await bus.publish([*numbered("t", 40), *numbered("t.g.dlq", 3), *numbered("u", 1)])
    subscription = await Member("m").join(bus)
    assert await bus.prune(0.0) == 0, "nothing was acknowledged"
    records = await collect(subscription, 40)
    done = [record for record in records if record.partition < 4]
    await subscription.commit(offsets_of(done))
    assert await bus.prune(3600.0) == 0, "nothing is that old"
    assert await bus.prune(0.0, dry_run=True) == len(done)
    assert await bus.prune(0.0) == len(done)
    assert await bus.prune(0.0, beyond_groups=True, dry_run=True) == 40 - len(done)
    assert sorted(values(await bus.read("t"))) == sorted(set(range(40)) - set(values(done)))
    assert len(await bus.read("t.g.dlq")) == 3
    assert await bus.prune(0.0, beyond_groups=True) == 40 - len(done)
    assert len(await bus.read("t.g.dlq")) == 3


async def test_no_offset_is_given_twice_after_pruning(cluster: EmbeddedCluster) -> None:
    node = await cluster.node("a")
    bus = node.bus
    assert isinstance(bus, EmbeddedBus)
    subscription = await Member("m").join(bus)
    await bus.publish(numbered("t", 10))
    records = await collect(subscription, 10)
    await subscription.commit(offsets_of(records))
    await bus.prune(0.0, beyond_groups=True)
    await bus.publish(numbered("t", 10, 10))
    assert sorted(values(await collect(subscription, 10))) == list(range(10, 20))


async def test_a_backlog_is_read_in_many_fetches_from_different_positions(cluster: EmbeddedCluster) -> None:
    node = await cluster.node("a")
    for start in range(0, 30_000, 2_000):
        await node.bus.publish(numbered("t", 2_000, start))
    subscription = await Member("m").join(node.bus)
    await until(lambda: len(subscription.assigned) == 8)
    subscription.pause({2})
    seen: list[int] = []

    async def halfway() -> bool:
        seen.extend(values(await subscription.fetch(500, 0.2)))
        return len(seen) > 15_000

    await until(halfway)
    subscription.resume({2})

    async def everything() -> bool:
        seen.extend(values(await subscription.fetch(500, 0.2)))
        return len(seen) >= 30_000

    await until(everything)
    assert sorted(seen) == list(range(30_000))


async def test_a_deep_folder_gets_its_socket_elsewhere(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    cluster = EmbeddedCluster(deep)
    try:
        here, there = [await cluster.node(name, poll_seconds=None) for name in "ab"]
        subscription = await Member("m").join(here.bus)
        await until(lambda: len(subscription.assigned) == 8)
        await there.bus.publish(numbered("t", 1))
        assert values(await collect(subscription, 1)) == [0]
        assert isinstance(here.bus, EmbeddedBus)
        assert here.bus._wakeups is not None
        address = Path(here.bus._wakeups.address)
        assert address.exists()
        assert len(str(address)) < 108
    finally:
        await cluster.close()
    assert not address.exists()


async def test_another_partition_count_is_refused(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "x.db", schema=[SCHEMA])
    await EmbeddedBus(database, tmp_path).ensure_topics(["t"])
    other = EmbeddedBus(database, tmp_path, partitions=4)
    with pytest.raises(Refused, match="8 partitions"):
        await other.publish([Message("t", b"k", b"v")])
    with pytest.raises(Refused, match="63"):
        EmbeddedBus(database, tmp_path, partitions=63)
    await database.close()
    with pytest.raises(Unavailable, match="closed"):
        await EmbeddedBus(database, tmp_path).publish([Message("t", b"k", b"v")])


async def test_what_the_file_holds_already_is_not_kept_twice(tmp_path: Path) -> None:
    content = (b"k", (("name", b"1"),), b"a long value")

    def shelf(_: sqlite3.Connection, numbers: Sequence[int]) -> dict[int, Content]:
        return {number: content for number in numbers if number == 7}

    database = await Database.open(tmp_path / "gavotte.db", schema=[SCHEMA])
    with_shelf, without = EmbeddedBus(database, tmp_path, shelf=shelf), EmbeddedBus(database, tmp_path)
    subscription = await Member("m").join(with_shelf)
    await until(lambda: len(subscription.assigned) == 8)
    key, headers, value = content
    await with_shelf.publish([Message("t", key, value, headers, stored=7), Message("t", key, value, headers)])
    await without.publish([Message("t", key, value, headers, stored=7)])
    fetched = await collect(subscription, 3)
    read = await with_shelf.read("t")
    assert (
        [(r.key, r.headers, r.value) for r in fetched] == [(r.key, r.headers, r.value) for r in read] == [content] * 3
    )
    lengths = await database.read(lambda conn: conn.execute("SELECT length(value) FROM bus_log ORDER BY id").fetchall())
    assert lengths == [(0,), (12,), (12,)]
    await with_shelf.publish([Message("u", key, value, headers, stored=8)])
    with pytest.raises(Corrupt):
        await with_shelf.read("u")
    await with_shelf.close()
    await without.close()
    await database.close()
