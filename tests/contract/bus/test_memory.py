"""The bus suite over the memory backend, and its faults."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bus.memory import Faults, MemoryBroker
from contracts.errors import OutcomeUnknown, Unavailable
from tests.contract.bus.cluster import MemoryCluster, offsets_of
from tests.contract.bus.suite import BusSuite, Member, collect, numbered, values


@pytest.fixture
async def cluster() -> AsyncIterator[MemoryCluster]:
    made = MemoryCluster()
    yield made
    await made.close()


class TestMemoryBus(BusSuite):
    pass


async def test_publishing_fails_before_or_after_and_doing_it_again_is_safe() -> None:
    broker = MemoryBroker(faults=Faults(seed=1, fail_before=1.0))
    bus = broker.connect()
    with pytest.raises(Unavailable):
        await bus.publish(numbered("t", 3))
    assert await bus.read("t") == []
    broker.faults = Faults(seed=4, fail_after=1.0)
    stored = set()
    for _ in range(10):
        with pytest.raises(OutcomeUnknown):
            await bus.publish(numbered("u", 3))
        stored.add(len(await bus.read("u")))
    assert len(stored) > 2, "sometimes none is stored, sometimes some, sometimes all"
    broker.faults = Faults()
    await bus.publish(numbered("u", 3))
    assert set(values(await bus.read("u"))) == {0, 1, 2}


async def test_dropped_records_never_come_and_stay_in_the_log() -> None:
    broker = MemoryBroker(faults=Faults(seed=5, drop=0.5))
    bus = broker.connect()
    await bus.publish(numbered("t", 200))
    got = []
    for group in ("one", "two"):
        subscription = await Member("m").join(bus, group)
        found: list[int] = []
        while records := await subscription.fetch(1000, 0.05):
            found += values(records)
        got.append(found)
    assert 60 < len(got[0]) < 140
    assert got[0] != got[1], "each group misses others"
    assert len(await bus.read("t", records_max=1000)) == 200
    await bus.close()


async def test_duplicates_go_back_to_what_was_committed() -> None:
    broker = MemoryBroker(faults=Faults(seed=2, duplicate=0.5))
    bus = broker.connect()
    subscription = await Member("m").join(bus)
    await bus.publish(numbered("t", 40))
    first = await collect(subscription, 40)
    await subscription.commit(offsets_of(first))
    more = []
    for start in range(40, 400, 40):
        await bus.publish(numbered("t", 40, start))
        more += values(await subscription.fetch(1000, 0.05))
    assert len(more) > len(set(more))
    assert min(more) >= 40
    await bus.close()
