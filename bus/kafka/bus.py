"""The bus on Apache Kafka: the port over a publisher, a reader and as many group members as were asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bus.kafka import topics as topics_of_cluster
from bus.kafka.cluster import Cluster
from bus.kafka.link import Link
from bus.kafka.publisher import Publisher
from bus.kafka.reader import Bounds, Reader, lag
from bus.kafka.rescue import Rescued, rescue
from bus.kafka.subscription import KafkaSubscription
from bus.port import Consumer, Features, Lag, Message, Record
from contracts.errors import GavotteError, Refused, Unavailable


class KafkaBus:
    """Nothing is connected before it is needed: who only looks into the store needs no broker."""

    features: Features = Features(survives_restart=True, between_processes=True, newest_member_wins=True)

    def __init__(self, cluster: Cluster) -> None:
        if cluster.partitions < 1:
            raise Refused(f"{cluster.partitions} partitions cannot be had", hint="bus.partitions")
        self.cluster = cluster
        self._link = Link(cluster)
        self._publisher = Publisher(cluster)
        self._reader = Reader(cluster, self._link)
        self._known: set[str] = set()
        self._asking = asyncio.Lock()
        self._subscriptions: set[KafkaSubscription] = set()
        self._closed = False

    # -- the port -----------------------------------------------------------------------------------------------------

    async def ensure_topics(self, topics: Sequence[str]) -> None:
        if self._known.issuperset(topics):
            return
        self._check_open()
        async with self._asking:  # one after the other, so that those who publish keep their order
            missing = [topic for topic in topics if topic not in self._known]
            if missing:
                await self._ensure(missing)

    async def _ensure(self, missing: Sequence[str]) -> None:
        absent = topics_of_cluster.refuse_other_counts(
            self.cluster, await self._link.metadata("the list of topics"), missing
        )
        try:
            await topics_of_cluster.create(self._link, absent)
        except Refused as error:
            raise Refused(
                f"topics are missing, or hidden from {self.cluster.user or 'this client'}, and it may not make them: "
                f"{', '.join(map(self.cluster.named, absent))}",
                hint="gavotte topics create and gavotte acls apply, by somebody who may",
                code=error.code,
            ) from error
        self._known.update(missing)

    async def publish(self, messages: Sequence[Message]) -> None:
        self._check_open()
        if not messages:
            return
        topics = {message.topic for message in messages}
        await self.ensure_topics(list(topics))
        try:
            await self._publisher.publish(messages)
        except GavotteError:
            self._known -= topics  # next time they are looked for first
            raise

    async def subscribe(self, consumer: Consumer) -> KafkaSubscription:
        self._check_open()
        await self.ensure_topics(consumer.topics)
        subscription = KafkaSubscription(self, consumer)
        await subscription.join()
        self._subscriptions.add(subscription)
        return subscription

    async def read(
        self, topic: str, *, after: Mapping[int, int] | None = None, records_max: int = 1000
    ) -> list[Record]:
        self._check_open()
        if topic not in self._known:
            metadata = await self._link.metadata("the list of topics")
            if topics_of_cluster.refuse_other_counts(self.cluster, metadata, [topic]):
                return []
            self._known.add(topic)
        return await self._reader.read(topic, after or {}, records_max)

    async def lag(self, group: str, topics: Sequence[str]) -> list[Lag]:
        self._check_open()
        return await lag(self._link, self._reader, group, topics)

    async def close(self) -> None:
        if self._closed:
            return
        for subscription in list(self._subscriptions):
            await subscription.close()
        self._closed = True
        await self._publisher.close()
        await self._reader.close()
        await self._link.drop()

    # -- for its subscriptions ----------------------------------------------------------------------------------------

    async def bounds(self, topics: Iterable[str], parts: frozenset[int]) -> Bounds:
        """Where these partitions of these topics begin and end, in the names of the cluster."""
        return await self._reader.bounds(topics, parts)

    async def rescue(self, wanted: Mapping[Any, int]) -> dict[Any, Rescued]:
        """The next batch of each place, however odd it is."""
        return await rescue(self._link, wanted)

    def forget(self, subscription: KafkaSubscription) -> None:
        """A subscription was closed."""
        self._subscriptions.discard(subscription)

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("this connection to the bus is closed")
