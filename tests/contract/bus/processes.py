"""Nodes that are operating-system processes: the port, spoken over a pipe to `child.py`."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from bus.embedded import EmbeddedBus
from bus.port import Consumer, Features, Lag, Message, Record, Subscription
from contracts.errors import Unavailable
from tests.contract.bus.child import packed, received
from tests.contract.bus.cluster import Node

ROOT = Path(__file__).parents[3]


class RemoteNode(Node):
    """A process; relays run in it."""

    def __init__(self, name: str, process: RemoteProcess) -> None:
        super().__init__(name, RemoteBus(process))
        self.process = process

    async def relay(self, consumer: Consumer, target: str) -> None:
        await self.process.call(None, "relay", Consumer(consumer.group, consumer.member, consumer.topics), target)

    async def stop(self) -> None:
        await self.process.end()


class RemoteProcess:
    """The pipe to a child, and what is known of it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self.input, self.output = process.stdin, process.stdout
        self.assigned: dict[int, frozenset[int]] = {}
        self.consumers: dict[tuple[str, str], Consumer] = {}
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._callbacks: set[asyncio.Task[None]] = set()
        self._listening = asyncio.create_task(self._listen())

    async def call(self, target: int | None, method: str, *arguments: Any, **named: Any) -> Any:
        if self._listening.done():
            raise Unavailable("the process is gone")
        return await self.send(target, method, *arguments, **named)

    def send(self, target: int | None, method: str, *arguments: Any, **named: Any) -> asyncio.Future[Any]:
        """Ask without waiting."""
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        self.input.write(packed(("call", number, target, method, arguments, named)))
        return self._waiting[number]

    async def _listen(self) -> None:
        try:
            while True:
                kind, number, *rest = await received(self.output)
                self.assigned = rest[-1]
                if kind == "callback":
                    task = asyncio.create_task(self._call_back(number, *rest[:3]))
                    self._callbacks.add(task)
                    task.add_done_callback(self._callbacks.discard)
                    continue
                future = self._waiting.pop(number)
                if future.done():
                    continue
                if kind == "answer":
                    future.set_result(rest[0])
                else:
                    future.set_exception(rest[0])
        except asyncio.IncompleteReadError:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(Unavailable("the process is gone"))

    async def _call_back(self, number: int, who: tuple[str, str], what: str, parts: frozenset[int]) -> None:
        consumer = self.consumers[who]
        error: Exception | None = None
        try:
            await (consumer.on_gained if what == "gained" else consumer.on_lost)(parts)
        except Exception as raised:
            error = raised
        if not self._listening.done():
            self.input.write(packed(("called_back", number, error)))

    async def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        await self.process.wait()
        await self._listening

    async def end(self) -> None:
        if self.process.returncode is None:
            async with asyncio.timeout(30):
                await self.call(None, "stop")
                self.input.close()
                assert await self.process.wait() == 0
        await self._listening


class RemoteSubscription:
    def __init__(self, process: RemoteProcess, number: int) -> None:
        self._process = process
        self._number = number

    @property
    def assigned(self) -> frozenset[int]:
        """As it was last heard; asking again makes it newer."""
        self._process.send(None, "look")
        return self._process.assigned.get(self._number, frozenset())

    async def fetch(self, records_max: int, timeout_seconds: float) -> list[Record]:
        found: list[Record] = await self._process.call(self._number, "fetch", records_max, timeout_seconds)
        return found

    def pause(self, partitions: Collection[int]) -> None:
        self._send("pause", partitions)

    def resume(self, partitions: Collection[int]) -> None:
        self._send("resume", partitions)

    def _send(self, method: str, partitions: Collection[int]) -> None:
        self._process.send(self._number, method, frozenset(partitions))

    async def commit(self, offsets: Mapping[tuple[str, int], int]) -> None:
        await self._process.call(self._number, "commit", dict(offsets))

    async def close(self) -> None:
        await self._process.call(self._number, "close")


class RemoteBus:
    features: Features = Features(survives_restart=True, between_processes=True)

    def __init__(self, process: RemoteProcess) -> None:
        self._process = process

    async def ensure_topics(self, topics: Sequence[str]) -> None:
        await self._process.call(None, "ensure_topics", topics)

    async def publish(self, messages: Sequence[Message]) -> None:
        await self._process.call(None, "publish", messages)

    async def subscribe(self, consumer: Consumer) -> Subscription:
        self._process.consumers[consumer.group, consumer.member] = consumer
        number = await self._process.call(None, "subscribe", consumer.group, consumer.member, consumer.topics)
        return RemoteSubscription(self._process, number)

    async def read(
        self, topic: str, *, after: Mapping[int, int] | None = None, records_max: int = 1000
    ) -> list[Record]:
        found: list[Record] = await self._process.call(None, "read", topic, after=after, records_max=records_max)
        return found

    async def lag(self, group: str, topics: Sequence[str]) -> list[Lag]:
        found: list[Lag] = await self._process.call(None, "lag", group, topics)
        return found

    async def close(self) -> None:
        await self._process.call(None, "close")


class ProcessCluster:
    """Every node a process."""

    features: Features = EmbeddedBus.features

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: list[RemoteNode] = []

    async def node(self, name: str, *, poll_seconds: float | None = 0.2, wakeups: bool = True) -> Node:
        words = self.words("none" if poll_seconds is None else str(poll_seconds), str(wakeups))
        started = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.contract.bus.child", *words),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            limit=2**30,
        )
        node = RemoteNode(name, RemoteProcess(started))
        self.nodes.append(node)
        return node

    def words(self, poll: str, wakeups: str) -> list[str]:
        """Which bus a node opens."""
        return ["embedded", str(self.folder / "gavotte.db"), str(self.folder / "run"), poll, wakeups]

    async def kill(self, node: Node) -> None:
        assert isinstance(node, RemoteNode)
        await node.process.kill()
        self.nodes.remove(node)

    async def close(self) -> None:
        for node in self.nodes:
            await node.stop()
