"""The bus suite on a real Kafka broker."""

from __future__ import annotations

import asyncio
import gc
import secrets
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.metadata import MetadataRequest

from bus.kafka.bus import KafkaBus
from bus.kafka.cluster import Cluster
from bus.kafka.fetching import Fetching
from bus.kafka.link import Link
from bus.kafka.publisher import Publisher
from bus.kafka.reader import Reader
from bus.kafka.topics import check, create
from bus.kafka.wire import OFFSET_FETCH, SYNC_GROUP, Api
from bus.port import Consumer
from contracts.errors import Unavailable
from deploy.local.kafka import Kafka
from tests.contract.bus.kafka import QUICK, KafkaCluster, kafka_bus
from tests.contract.bus.processes import ProcessCluster
from tests.contract.bus.suite import BusSuite, collect, numbered


@pytest.fixture
def prefix() -> str:
    """Topics and groups of one test."""
    return f"{secrets.token_hex(4)}."


@pytest.fixture
async def cluster(kafka: Kafka, prefix: str) -> AsyncIterator[KafkaCluster]:
    made = KafkaCluster(kafka.servers, prefix)
    yield made
    await made.close()


class KafkaProcessCluster(ProcessCluster):
    """Every node a process."""

    features = KafkaBus.features

    def __init__(self, servers: str, prefix: str) -> None:
        super().__init__(Path())
        self.servers = servers
        self.prefix = prefix

    def words(self, poll: str, wakeups: str) -> list[str]:
        return ["kafka", self.servers, self.prefix]


class TestKafkaBus(BusSuite):
    pass


@pytest.mark.parametrize("what", ["link", "fetching", "publisher", "reader"])
async def test_who_is_cancelled_while_it_connects_leaves_nothing_open(kafka: Kafka, what: str) -> None:
    cluster = Cluster(kafka.servers, patience=QUICK)
    link = Link(cluster)
    fetching, publisher, reader = Fetching(cluster), Publisher(cluster), Reader(cluster, link)
    openings: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "link": link.client,
        "fetching": partial(fetching.start, ["t"]),
        "publisher": publisher._open,
        "reader": reader._open,
    }
    asked = asyncio.Event()
    send = AIOKafkaConnection.send

    def watched(self: Any, request: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(request, MetadataRequest):
            asked.set()
        return send(self, request, *arguments, **options)

    gc.collect()
    with mock.patch.object(AIOKafkaConnection, "send", watched), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        task = asyncio.ensure_future(openings[what]())
        await asked.wait()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        await publisher.close()
        await fetching.close()
        await asyncio.sleep(0)  # what was dropped is closed by the loop's next turn
        del task, fetching, publisher, reader, link, openings
        gc.collect()
    assert [str(one.message) for one in warned] == []


async def test_a_broker_that_is_coming_up_and_knows_of_none_is_asked_again(kafka: Kafka, prefix: str) -> None:
    link = Link(Cluster(kafka.servers, patience=QUICK))
    ask = partial(link.ask, OFFSET_FETCH, f"{prefix}g", [], doing="group g", group=f"{prefix}g")
    with (
        mock.patch.object(AIOKafkaClient, "bootstrap", mock.AsyncMock()),
        pytest.raises(Unavailable, match="no broker yet"),
    ):
        await ask()
    assert (await ask())["error"] == 0
    await link.drop()


async def test_topics_that_were_made_are_there_for_whoever_looks_next(kafka: Kafka, prefix: str) -> None:
    link = Link(Cluster(kafka.servers, prefix=prefix, patience=QUICK, replication=1))
    late, metadata = [await link.metadata("topics")], Link.metadata

    async def told(self: Link, doing: str) -> Any:
        return late.pop() if late else await metadata(self, doing)

    with mock.patch.object(Link, "metadata", told):
        assert await create(link, ["t"]) == ["t"]
        assert await check(link, ["t"]) == []
    await link.drop()


async def test_who_leaves_while_the_group_shares_out_commits_what_it_did(kafka: Kafka, prefix: str) -> None:
    """As in a rolling restart: others come and go while this one ends."""
    here, there = (kafka_bus(kafka.servers, prefix) for _ in range(2))
    await here.ensure_topics(["in"])
    await here.publish(numbered("in", 20))
    done: dict[tuple[str, int], int] = {}

    async def acknowledge(parts: frozenset[int]) -> None:
        await leaving.commit({place: offset for place, offset in done.items() if place[1] in parts})

    leaving = await here.subscribe(Consumer("g", "leaving", ("in",), on_lost=acknowledge))
    for record in await collect(leaving, 20):
        done[record.topic, record.partition] = record.offset + 1
    asked, go, ask = asyncio.Event(), asyncio.Event(), Link.ask

    async def slowly(self: Link, api: Api, *values: Any, **options: Any) -> dict[str, Any]:
        if api is SYNC_GROUP and "leaving" in values:
            asked.set()
            await go.wait()
        return await ask(self, api, *values, **options)

    with mock.patch.object(Link, "ask", slowly):
        await there.subscribe(Consumer("g", "staying", ("in",)))
        await asked.wait()
        closing = asyncio.create_task(leaving.close())
        await asyncio.sleep(0)
        go.set()
        await closing
    assert sum(each.behind for each in await there.lag("g", ["in"])) == 0
    await here.close()
    await there.close()


class TestKafkaBusBetweenProcesses:
    """What only processes that are really killed can show."""

    @pytest.fixture
    async def cluster(self, kafka: Kafka, prefix: str) -> AsyncIterator[KafkaProcessCluster]:
        made = KafkaProcessCluster(kafka.servers, prefix)
        yield made
        await made.close()

    test_a_killed_member_is_taken_over = BusSuite.test_a_killed_member_is_taken_over
    test_the_old_member_commits_first = BusSuite.test_the_old_member_commits_before_the_new_one_starts
    test_ten_thousand_messages = BusSuite.test_ten_thousand_messages_through_four_nodes_while_some_die
