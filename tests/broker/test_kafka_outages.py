"""The bus while its broker restarts, freezes, is cut off or forgets: late, never wrong, never silent, never hot."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.kafka.bus import KafkaBus
from bus.kafka.cluster import Patience
from bus.port import Consumer, Gap, Message, Record, Subscription
from contracts.errors import Unavailable
from deploy.local.kafka import Kafka
from tests.broker.kafka_nodes import client
from tests.broker.proxy import Wire
from tests.contract.bus.cluster import copy, offsets_of, until
from tests.contract.bus.suite import Member, assert_order_per_key, collect, numbered, values

BRISK = Patience(request=5.0, session=2.0, heartbeat=0.2, rebalance=10.0, watch=1.0)


@pytest.fixture(scope="module")
def broker(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker of this file's own, which it may hurt; all go to it over TLS."""
    with Kafka(tmp_path_factory.mktemp("hurt-kafka"), tls=True) as made:
        yield made


class Clients:
    """Buses that are closed when the test ends."""

    def __init__(self, broker: Kafka, prefix: str) -> None:
        self.broker = broker
        self.prefix = prefix
        self.made: list[KafkaBus] = []

    def __call__(self, **settings: Any) -> KafkaBus:
        self.made.append(client(self.broker, **{"prefix": self.prefix, "patience": BRISK, **settings}))
        return self.made[-1]


@pytest.fixture
async def clients(broker: Kafka, prefix: str) -> AsyncIterator[Clients]:
    made = Clients(broker, prefix)
    yield made
    for bus in made.made:
        await bus.close()


async def insist(bus: KafkaBus, messages: list[Message]) -> int:
    """Publish as the worker does: again and again until it is stored; how often it failed."""
    failed = 0
    while True:
        try:
            await bus.publish(messages)
        except Unavailable:
            failed += 1
            await asyncio.sleep(0.2)
        else:
            return failed


async def relay(bus: KafkaBus, subscription: Subscription) -> None:
    """Copy for ever, whatever fails on the way."""
    while True:
        try:
            await copy(bus, subscription, "out")
        except Unavailable:
            await asyncio.sleep(0.2)


async def test_restarts_and_a_crash_of_the_broker_lose_nothing_and_keep_the_order(
    broker: Kafka, clients: Clients
) -> None:
    publisher, here, there = (clients() for _ in range(3))
    await publisher.ensure_topics(["in", "out"])
    relays = []
    for name, bus in (("a", here), ("b", there)):
        subscription = await bus.subscribe(Consumer("g", name, ("in",)))
        relays.append(asyncio.create_task(relay(bus, subscription)))
    sent = 0

    async def traffic() -> None:
        nonlocal sent
        while True:
            await insist(publisher, numbered("in", 20, sent))
            sent += 20
            await asyncio.sleep(0.02)

    publishing = asyncio.create_task(traffic())
    for hurt in (broker.restart, broker.kill, broker.start):
        seen = sent
        await until(lambda seen=seen: sent > seen + 100 or broker.pid is None, "traffic")  # type: ignore[misc]  # bound now
        await asyncio.to_thread(hurt)
    seen = sent
    await until(lambda: sent > seen + 100, "traffic after the last start")
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)

    async def all_copied() -> bool:
        found = await publisher.read("out", records_max=100_000)
        return set(range(sent)) <= set(values(found))

    await until(all_copied, "that all came through")
    assert_order_per_key(await publisher.read("in", records_max=100_000))
    assert_order_per_key(await publisher.read("out", records_max=100_000))

    async def nothing_left() -> bool:
        return sum(each.behind for each in await publisher.lag("g", ["in"])) == 0

    await until(nothing_left, "a lag of 0")
    for task in relays:
        task.cancel()
    await asyncio.gather(*relays, return_exceptions=True)


async def test_every_call_ends_while_the_broker_is_frozen(broker: Kafka, clients: Clients) -> None:
    bus = clients(patience=Patience(request=1.5, session=4.0, heartbeat=0.2, rebalance=10.0))
    await bus.publish(numbered("t", 8))
    member = Member("m")
    subscription = await member.join(bus)
    records = await collect(subscription, 8)
    broker.freeze()
    try:
        began = time.monotonic()
        told = await asyncio.gather(
            bus.publish(numbered("t", 1, 8)),
            subscription.commit(offsets_of(records)),
            bus.lag("g", ["t"]),
            bus.read("t"),
            return_exceptions=True,
        )
        assert [type(each) for each in told] == [Unavailable] * 4, told
        assert await subscription.fetch(10, 0.5) == []
        assert time.monotonic() - began < 12
        await until(lambda: ("m", "lost", frozenset(range(8))) in member.journal, "that it counts itself out")
    finally:
        broker.thaw()
    await insist(bus, numbered("t", 1, 8))
    await until(lambda: len(member.assigned) == 8, "its partitions again")
    found: set[int] = set()

    async def the_last() -> bool:  # whether what was sent while it was frozen was taken is for the broker to know
        found.update(values(await subscription.fetch(10, 0.2)))
        return 8 in found

    await until(the_last, "the record that was published again")


async def test_one_that_is_cut_off_is_taken_over_and_told(broker: Kafka, clients: Clients) -> None:
    direct = clients()
    async with Wire(broker.front_port, broker.behind_port) as wire:
        remote = clients(servers=broker.proxied_servers)
        lonely, heir = Member("lonely"), Member("heir")
        theirs = await lonely.join(remote)
        ours = await heir.join(direct)
        await until(lambda: len(lonely.assigned) == len(heir.assigned) == 4, "a fair split")
        lonely.journal.clear()
        await wire.breaks()
        await direct.publish(numbered("t", 40))
        assert sorted(set(values(await collect(ours, 40)))) == list(range(40))
        assert heir.assigned == frozenset(range(8))
        await until(lambda: not lonely.assigned, "that it counts itself out")
        with pytest.raises(Unavailable):
            await remote.publish(numbered("t", 1, 40))
        wire.is_mended()
        await until(lambda: len(lonely.assigned) == len(heir.assigned) == 4, "a fair split again")
        assert await insist(remote, numbered("t", 1, 40)) >= 0
        assert [what for _, what, _ in lonely.journal] == ["lost", "gained"]
        assert await theirs.fetch(1, 0.0) is not None


async def removed_before(broker: Kafka, tmp_path: Path, topic: str, partition: int, offset: int) -> None:
    """Let the broker forget the records of a partition before an offset, as retention does."""
    path = tmp_path / "removed.json"
    places = [{"topic": topic, "partition": partition, "offset": offset}]
    path.write_text(json.dumps({"version": 1, "partitions": places}))
    tool = ("org.apache.kafka.tools.DeleteRecordsCommand", "--bootstrap-server", broker.servers)
    login = ("--command-config", str(broker.client_settings()))
    await asyncio.to_thread(broker.tool, *tool, *login, "--offset-json-file", str(path))


async def test_records_that_were_removed_unread_raise_an_alarm(
    broker: Kafka, clients: Clients, prefix: str, tmp_path: Path
) -> None:
    bus, gaps = clients(), list[Gap]()

    async def alarmed(gap: Gap) -> None:
        gaps.append(gap)

    await bus.publish([Message("t", b"k", str(n).encode()) for n in range(10)])
    first = await bus.subscribe(Consumer("g", "m", ("t",), on_gap=alarmed))
    records = await collect(first, 10)
    part = records[0].partition
    await first.commit({("t", part): 3})
    await first.close()
    await removed_before(broker, tmp_path, f"{prefix}t", part, 6)
    second = await bus.subscribe(Consumer("g", "m", ("t",), on_gap=alarmed))
    assert values(await collect(second, 4)) == [6, 7, 8, 9]
    assert gaps == [Gap("t", part, 3, 6)]

    second.pause({part})
    await bus.publish([Message("t", b"k", str(n).encode()) for n in range(10, 20)])
    assert await second.fetch(10, 0.5) == []
    await removed_before(broker, tmp_path, f"{prefix}t", part, 15)
    second.resume({part})
    assert values(await collect(second, 5)) == [15, 16, 17, 18, 19]
    assert gaps[1:] == [Gap("t", part, 10, 15)]
    fresh = await bus.subscribe(Consumer("another", "m", ("t",), on_gap=alarmed))
    assert values(await collect(fresh, 5)) == [15, 16, 17, 18, 19]
    assert len(gaps) == 2, "a new group starts at the start, whatever was there before"


async def test_a_reader_that_hangs_is_replaced(clients: Clients) -> None:
    bus = clients()
    subscription = await Member("m").join(bus)
    await until(lambda: len(subscription.assigned) == 8)
    await bus.publish(numbered("t", 8))
    assert len(await collect(subscription, 8)) == 8
    reader = subscription._reader  # type: ignore[attr-defined]  # what hangs is inside

    async def hangs(*_: Any) -> None:
        await asyncio.Event().wait()

    reader._client.send = hangs
    await bus.publish(numbered("t", 8, 8))  # these may still come by the request that is under way
    assert set(values(await collect(subscription, 8))) == set(range(8, 16))
    await bus.publish(numbered("t", 8, 16))
    assert set(values(await collect(subscription, 8))) == set(range(16, 24))
    assert subscription._reader is not reader  # type: ignore[attr-defined]  # likewise


async def test_a_process_that_fetches_nothing_gives_its_partitions_up(clients: Clients) -> None:
    here, there = clients(patience=Patience(session=2.0, heartbeat=0.2, poll=2.0)), clients()
    idle, busy = Member("idle"), Member("busy")
    theirs = await idle.join(here)
    ours = await busy.join(there)
    fetching: list[Record] = []

    async def taken_over() -> bool:
        fetching.extend(await ours.fetch(100, 0.1))
        return busy.assigned == frozenset(range(8))

    await until(taken_over, "that the busy one has all")
    assert idle.assigned == frozenset()

    async def shared() -> bool:
        await theirs.fetch(1, 0.1)
        await ours.fetch(1, 0.1)
        return len(idle.assigned) == len(busy.assigned) == 4

    await until(shared, "that it is a member again when it fetches again")
