"""Reading without a group: what people ask for, where topics begin and end, and how far groups are behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition, errors

from bus.kafka import faults, wire
from bus.kafka.cluster import Cluster
from bus.kafka.fetching import filled
from bus.kafka.link import Link, arguments, begun, drop_consumer, within
from bus.kafka.rescue import rescue
from bus.port import Lag, Record
from contracts.errors import Unavailable

READ_MS: Final = 500

Bounds = dict[tuple[str, int], tuple[int, int]]
"""(topic as the cluster names it, partition) -> the first offset that is there, and the next one to be written."""


class Reader:
    """One consumer without a group, made when it is first needed and thrown away when it fails."""

    def __init__(self, cluster: Cluster, link: Link) -> None:
        self._cluster = cluster
        self._link = link
        self._consumer: Any = None
        self._opening = asyncio.Lock()
        self._reading = asyncio.Lock()

    async def bounds(self, topics: Iterable[str], parts: Iterable[int]) -> Bounds:
        """Where these partitions of these topics begin and end."""
        numbers = sorted(parts)
        places = [TopicPartition(self._cluster.named(topic), part) for topic in topics for part in numbers]
        if not places:
            return {}
        consumer = await self._open()
        try:
            both = asyncio.gather(consumer.beginning_offsets(places), consumer.end_offsets(places))
            firsts, ends = await within(self._cluster.patience.request, both)
        except (errors.KafkaError, OSError) as error:
            await self._drop(consumer)
            raise faults.explained(error, self._cluster, "the bounds of topics") from error
        return {(place.topic, place.partition): (firsts[place], ends[place]) for place in places}

    async def read(self, topic: str, after: Mapping[int, int], records_max: int) -> list[Record]:
        """Records that were there when this was called, in offset order per partition."""
        async with self._reading:
            bounds = await self.bounds([topic], range(self._cluster.partitions))
            wanted: dict[TopicPartition, int] = {}
            for (name, part), (first, end) in bounds.items():
                start = max(first, after.get(part, 0))
                if start < end:
                    wanted[TopicPartition(name, part)] = start
            consumer = await self._open()
            ends = {place: bounds[place.topic, place.partition][1] for place in wanted}
            try:
                reading = self._collect(consumer, topic, dict(wanted), ends, records_max)
                return await within(self._cluster.patience.request, reading)
            except UnicodeDecodeError:
                return await self._collect_with_care(topic, wanted, ends, records_max)
            except (errors.KafkaError, OSError) as error:
                await self._drop(consumer)
                raise faults.explained(error, self._cluster, f"reading {topic}") from error

    async def _collect_with_care(
        self, topic: str, wanted: dict[TopicPartition, int], ends: dict[TopicPartition, int], records_max: int
    ) -> list[Record]:
        """The same batch by batch, past records that the consumer cannot read."""
        found: list[Record] = []
        while wanted and len(found) < records_max:
            batches = await rescue(self._link, wanted)
            for place in list(wanted):
                batch = batches.get(place)
                found += [as_record(topic, one) for one in batch.records if one.offset < ends[place]] if batch else []
                wanted[place] = batch.next if batch else ends[place]
                if wanted[place] >= ends[place]:
                    del wanted[place]
        return found[:records_max]

    @staticmethod
    async def _collect(
        consumer: Any, topic: str, wanted: dict[TopicPartition, int], ends: dict[TopicPartition, int], records_max: int
    ) -> list[Record]:
        if not wanted:
            return []
        consumer.assign(list(wanted))
        for place, start in wanted.items():
            consumer.seek(place, start)
        found: list[Record] = []
        while wanted and len(found) < records_max:
            batch = await consumer.getmany(timeout_ms=READ_MS, max_records=records_max - len(found))
            for place, raw in batch.items():
                found += [as_record(topic, one) for one in raw if one.offset < ends[place]]
            for place in list(wanted):
                if await consumer.position(place) >= ends[place]:
                    del wanted[place]
                    consumer.pause(place)
        return found

    async def close(self) -> None:
        """Let go of the connection."""
        await self._drop(self._consumer)

    async def _open(self) -> Any:
        async with self._opening:
            if self._consumer is None:
                settings = {"group_id": None, "enable_auto_commit": False, "auto_offset_reset": "earliest"}
                consumer = AIOKafkaConsumer(**arguments(self._cluster), **settings)
                try:
                    await begun(self._cluster.patience.request, consumer.start())
                except BaseException as error:
                    await drop_consumer(consumer)
                    if isinstance(error, errors.KafkaError | OSError):
                        raise faults.explained(error, self._cluster, "reading") from error
                    raise
                self._consumer = consumer
            return self._consumer

    async def _drop(self, consumer: Any) -> None:
        if consumer is not None and consumer is self._consumer:
            self._consumer = None
            await drop_consumer(consumer)


async def lag(link: Link, reader: Reader, group: str, topics: Iterable[str]) -> list[Lag]:
    """How far a group is behind, per topic and partition; a topic that does not exist is not behind."""
    cluster = link.cluster
    metadata = await link.metadata("the list of topics")
    names = list(topics)
    known = [topic for topic in names if metadata.partitions_for_topic(cluster.named(topic))]
    parts = range(cluster.partitions)
    bounds = await reader.bounds(known, parts)
    wanted = [(cluster.named(topic), list(parts)) for topic in known]
    doing = f"the offsets of group {group}"
    answer = await link.ask(wire.OFFSET_FETCH, cluster.named(group), wanted, doing=doing, group=group)
    if answer["error"]:
        link.forget(group)
        raise faults.of_code(answer["error"], cluster, doing)
    committed: dict[tuple[str, int], int] = {}
    for topic, rows in answer["topics"]:
        for part, offset, _, _, error in rows:
            if error:
                raise Unavailable(f"{doing} are not known now")
            if offset >= 0:
                committed[topic, part] = offset
    found = []
    for topic in names:
        for part in parts:
            first, end = bounds.get((cluster.named(topic), part), (0, 0))
            at = committed.get((cluster.named(topic), part))
            found.append(Lag(topic, part, at, end, max(0, end - max(first, at or 0))))
    return found


def as_record(topic: str, raw: Any) -> Record:
    """A record of aiokafka as one of the port. Kafka knows keys, values and headers without content; the port does not."""
    key, value = raw.key or b"", raw.value or b""
    return Record(topic, raw.partition, raw.offset, key, value, filled(raw.headers), raw.timestamp * 1000)
