"""Which bus the settings name: the file that the store shares, or a Kafka cluster."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from bus.losses import loses_records
from contracts.errors import Usage
from contracts.topology import Topology, topic_for

if TYPE_CHECKING:
    from agents.settings import Settings
    from bus.embedded import EmbeddedBus, Enclosed
    from bus.kafka.cluster import Cluster
    from bus.port import Bus
    from contracts.envelope import Envelope
    from embedded.file import Database


def bus_of(settings: Settings, database: Database | None) -> Bus:
    """The bus; `database` is the file of the data folder, in which the embedded bus lives. Nothing is connected yet."""
    if settings.bus.backend == "kafka":
        from bus.kafka.bus import KafkaBus

        return KafkaBus(cluster_of(settings))
    if database is None:
        raise Usage("the embedded bus lives in a file, and none was opened", hint="bus.backend = kafka")
    from agents.emission import contents_at
    from bus.embedded import EmbeddedBus

    shelf = contents_at if settings.store.backend == "sqlite" else None  # the record shares the file, or it does not
    return EmbeddedBus(database, settings.run, partitions=settings.bus.partitions, shelf=shelf)


class EnclosedNews:
    """News written by the store's own commit, where the bus is in its file (`state_store.ordinary.News`)."""

    def __init__(self, bus: EmbeddedBus, topology: Topology) -> None:
        self._bus = bus
        self._topology = topology

    def encloses(self, events: Iterable[Envelope]) -> bool:
        return self._bus.encloses({self._topic(event) for event in events})

    def enclose(self, connection: sqlite3.Connection, events: Iterable[tuple[Envelope, int]]) -> Enclosed:
        return self._bus.enclose(
            connection, [(self._topic(event), event.task_id, position) for event, position in events]
        )

    def tell(self, enclosed: Enclosed) -> None:
        self._bus.tell(enclosed)

    def _topic(self, event: Envelope) -> str:
        return topic_for(event.type, event.source, self._topology)


def news_of(bus: Bus, topology: Topology) -> EnclosedNews | None:
    """How a store on the bus's own file tells what it records; None for another bus, or one that is to lose records."""
    from bus.embedded import EmbeddedBus

    return EnclosedNews(bus, topology) if isinstance(bus, EmbeddedBus) and not loses_records() else None


def cluster_of(settings: Settings) -> Cluster:
    """The Kafka cluster of the settings; raises Usage where they do not fit together."""
    from bus.kafka.cluster import Cluster, Patience

    chosen = settings.bus
    password = chosen.password.get_secret_value() if chosen.password is not None else ""
    if not chosen.servers:
        raise Usage(
            "bus.backend is kafka and bus.servers names none",
            hint="GAVOTTE_BUS__SERVERS=host:9092; make kafka runs a broker here",
        )
    if chosen.security == "sasl" and not (chosen.user and password):
        raise Usage("bus.security is sasl and takes bus.user and bus.password", hint="GAVOTTE_BUS__PASSWORD_FILE")
    if chosen.user and chosen.security != "sasl":
        raise Usage(f"bus.user is set, and bus.security={chosen.security} sends no login", hint="bus.security = sasl")
    return Cluster(
        chosen.servers,
        security=chosen.security,
        user=chosen.user,
        password=password,
        cafile=chosen.cafile,
        prefix=chosen.prefix,
        partitions=chosen.partitions,
        replication=chosen.replication or -1,
        retention_hours=chosen.retention_hours,
        patience=Patience(
            request=chosen.timeout_seconds,
            session=chosen.session_seconds,
            heartbeat=chosen.session_seconds / 5,
            poll=chosen.poll_interval_seconds,
        ),
    )


async def absent_topics(settings: Settings, topics: Sequence[str]) -> list[str]:
    """Which of these the Kafka cluster lacks."""
    from bus.kafka.link import Link
    from bus.kafka.topics import refuse_other_counts

    link = Link(cluster_of(settings))
    try:
        return refuse_other_counts(link.cluster, await link.metadata("the list of topics"), topics)
    finally:
        await link.drop()
