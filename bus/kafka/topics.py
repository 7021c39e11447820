"""Topics as they should be and as they are: made where they are missing, compared, never changed or removed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bus.kafka import faults, wire
from bus.kafka.cluster import HOUR_MS, Cluster
from bus.kafka.link import Link
from bus.kafka.publisher import HEADROOM_BYTES
from contracts.errors import Refused

EXISTS: Final = 36
TOPIC: Final = 2
"""The kind of resource, as the protocol numbers them."""
OVERHEAD_BYTES: Final = 1024
"""Of a batch with one record."""
FOR_EVER: Final = "-1"
SEEN_SECONDS: Final = 10.0
SEEN_PAUSE_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Fault:
    """What is not as it should be with a topic."""

    topic: str
    what: str
    missing: bool = False


def settings_of(cluster: Cluster, topic: str) -> dict[str, str]:
    """What a topic is made with: letters stay for ever, and may be larger than what they are about."""
    letters = topic.endswith(".dlq")
    most = cluster.record_bytes_max + OVERHEAD_BYTES + (HEADROOM_BYTES if letters else 0)
    hours = FOR_EVER if letters or cluster.retention_hours <= 0 else str(round(cluster.retention_hours * HOUR_MS))
    found = {"cleanup.policy": "delete", "retention.ms": hours, "max.message.bytes": str(most)}
    found["compression.type"] = "uncompressed"  # whatever producers do: not every reader knows every codec
    if cluster.replication >= 3:
        found["min.insync.replicas"] = "2"
    return found


async def create(link: Link, topics: Iterable[str]) -> list[str]:
    """Make the topics that are missing; returns those that were made."""
    cluster = link.cluster
    wanted: list[tuple[Any, ...]] = [
        (cluster.named(topic), cluster.partitions, cluster.replication, [], list(settings_of(cluster, topic).items()))
        for topic in topics
    ]
    if not wanted:
        return []
    timeout_ms = round(cluster.patience.request * 1000)
    answer = await link.ask(wire.CREATE_TOPICS, wanted, timeout_ms, False, doing="making topics")
    made = []
    for name, code, message in answer["topics"]:
        if code == 0:
            made.append(name[len(cluster.prefix) :])
        elif code != EXISTS:
            raise faults.of_code(code, cluster, f"making the topic {name}", message)
    if made:
        await _seen(link, made)
    return made


async def _seen(link: Link, topics: Sequence[str]) -> None:
    """Wait until a broker tells of what the controller has made, for a while: whoever looks then says what is missing."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SEEN_SECONDS):
            while True:
                metadata = await link.metadata("the list of topics")
                if all(metadata.partitions_for_topic(link.cluster.named(topic)) for topic in topics):
                    return
                await asyncio.sleep(SEEN_PAUSE_SECONDS)


async def check(link: Link, topics: Sequence[str]) -> list[Fault]:
    """What differs from what `create` would make."""
    cluster = link.cluster
    metadata = await link.metadata("the list of topics")
    there = {topic: metadata.partitions_for_topic(cluster.named(topic)) for topic in topics}
    faulty = [Fault(topic, "is missing", missing=True) for topic in topics if not there[topic]]
    for topic in filter(there.__getitem__, topics):
        count = len(there[topic] or ())
        if count != cluster.partitions:
            faulty.append(Fault(topic, f"has {count} partitions, not {cluster.partitions}"))
        replicas = _replicas(metadata, cluster.named(topic))
        if cluster.replication > 0 and replicas != cluster.replication:
            faulty.append(Fault(topic, f"has {replicas} replicas, not {cluster.replication}"))
    known = [topic for topic in topics if there[topic]]
    return faulty + await _differences(link, known)


def refuse_other_counts(cluster: Cluster, metadata: Any, topics: Iterable[str]) -> list[str]:
    """The topics that are missing; raises Refused where one has another partition count."""
    missing = []
    for topic in topics:
        parts = metadata.partitions_for_topic(cluster.named(topic))
        if not parts:
            missing.append(topic)
        elif len(parts) != cluster.partitions:
            raise Refused(
                f"topic {cluster.named(topic)} has {len(parts)} partitions, not {cluster.partitions}",
                hint="all topics have one partition count: set bus.partitions to that one",
            )
    return missing


def _replicas(metadata: Any, name: str) -> int:
    parts = metadata._partitions[name].values()  # noqa: SLF001  aiokafka shows leaders only
    return min(len(part.replicas) for part in parts)


async def _differences(link: Link, topics: Sequence[str]) -> list[Fault]:
    cluster = link.cluster
    wanted = {topic: settings_of(cluster, topic) for topic in topics}
    resources = [(TOPIC, cluster.named(topic), list(settings)) for topic, settings in wanted.items()]
    if not resources:
        return []
    answer = await link.ask(wire.DESCRIBE_CONFIGS, resources, False, doing="the settings of topics")
    found = []
    for code, message, _, name, settings in answer["resources"]:
        if code:
            raise faults.of_code(code, cluster, f"the settings of {name}", message)
        topic = name[len(cluster.prefix) :]
        for setting, value, *_ in settings:
            if value != wanted[topic].get(setting, value):
                found.append(Fault(topic, f"has {setting}={value}, not {wanted[topic][setting]}"))
    return found
