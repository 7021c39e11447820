"""What a backend gives the bus suite: nodes, each a process or its stand-in, that can be killed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from unittest import mock

from bus.embedded import SCHEMA, EmbeddedBus
from bus.file_subscription import FileSubscription
from bus.memory import MemoryBroker
from bus.port import Bus, Consumer, Features, Message, Record, Subscription
from embedded.file import Database

DEADLINE_SECONDS = 30.0


@dataclass
class Node:
    """One process of a cluster and its connection to the bus."""

    name: str
    bus: Bus
    relays: list[asyncio.Task[None]] = field(default_factory=list)

    async def relay(self, consumer: Consumer, target: str) -> None:
        """Begin to copy what the consumer gets to another topic, until the node ends."""
        subscription = await self.bus.subscribe(consumer)
        self.relays.append(asyncio.create_task(copy(self.bus, subscription, target)))

    async def stop(self) -> None:
        """End in order."""
        for task in self.relays:
            task.cancel()
        await asyncio.gather(*self.relays, return_exceptions=True)
        await self.bus.close()


class Cluster(Protocol):
    """Nodes that share one bus."""

    features: Features

    async def node(self, name: str, *, poll_seconds: float | None = 0.2, wakeups: bool = True) -> Node: ...
    async def kill(self, node: Node) -> None:
        """As by SIGKILL."""
        ...

    async def close(self) -> None: ...


async def copy(bus: Bus, subscription: Subscription, target: str) -> None:
    """Read, publish, acknowledge, for ever."""
    while True:
        records = await subscription.fetch(100, 1.0)
        if records:
            await bus.publish([Message(target, record.key, record.value, record.headers) for record in records])
            await subscription.commit(offsets_of(records))


def offsets_of(records: list[Record]) -> dict[tuple[str, int], int]:
    """What to commit once these are done."""
    return {(record.topic, record.partition): record.offset + 1 for record in records}


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str = "it") -> None:
    """Wait for a condition, not for luck."""
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                answer = condition()
                if answer if isinstance(answer, bool) else await answer:
                    return
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"{what} did not happen within {DEADLINE_SECONDS} s") from None


class MemoryCluster:
    """All nodes in this process, over one broker."""

    features = Features(survives_restart=False, between_processes=False, virtual_time=True)

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.nodes: list[Node] = []

    async def node(self, name: str, *, poll_seconds: float | None = 0.2, wakeups: bool = True) -> Node:
        node = Node(name, self.broker.connect())
        self.nodes.append(node)
        return node

    async def kill(self, node: Node) -> None:
        for task in node.relays:
            task.cancel()
        node.bus.crash()  # type: ignore[attr-defined]  # the memory bus has it
        self.nodes.remove(node)

    async def close(self) -> None:
        for node in self.nodes:
            await node.stop()


class EmbeddedCluster:
    """All nodes in this process, each with a connection of its own to one file."""

    features = EmbeddedBus.features

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: list[Node] = []
        self.databases: dict[str, Database] = {}

    async def node(self, name: str, *, poll_seconds: float | None = 0.2, wakeups: bool = True) -> Node:
        database = await Database.open(self.folder / "gavotte.db", schema=[SCHEMA])
        bus = EmbeddedBus(database, self.folder / "run", poll_seconds=poll_seconds, wakeups=wakeups)
        node = Node(name, bus)
        self.nodes.append(node)
        self.databases[name] = database
        return node

    async def kill(self, node: Node) -> None:
        """What the kernel does: locks freed, sockets closed, files left behind; and no word to anybody."""
        bus = node.bus
        assert isinstance(bus, EmbeddedBus)
        for task in node.relays:
            task.cancel()
        for subscription in list(bus._subscriptions):
            _silence(subscription)
        bus._subscriptions.clear()
        if bus._wakeups is not None:
            with mock.patch("bus.wakeups.remove"):
                bus._wakeups.close()
        await self.databases.pop(node.name).close()
        self.nodes.remove(node)

    async def close(self) -> None:
        for node in self.nodes:
            await node.stop()
        for database in self.databases.values():
            await database.close()


def _silence(subscription: FileSubscription) -> None:
    if subscription._attending is not None:
        subscription._attending.cancel()
    with contextlib.suppress(OSError):
        subscription._presence._lock.close()
