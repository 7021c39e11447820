"""One process of the bus suite: it does to a real bus what the test asks over a pipe.

    python -m tests.contract.bus.child embedded DATABASE RUN_FOLDER POLL_SECONDS|none WAKEUPS
    python -m tests.contract.bus.child kafka SERVERS PREFIX

Requests and answers are pickled, each behind its length. Only this suite speaks to it.
"""

from __future__ import annotations

import asyncio
import itertools
import pickle
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bus.embedded import SCHEMA, EmbeddedBus
from bus.port import Bus, Consumer, Subscription
from embedded.file import Database
from tests.contract.bus.cluster import Node
from tests.contract.bus.kafka import kafka_bus

LENGTH = struct.Struct("<I")


def packed(message: object) -> bytes:
    body = pickle.dumps(message)
    return LENGTH.pack(len(body)) + body


async def received(reader: asyncio.StreamReader) -> Any:
    """The next message; raises IncompleteReadError at the end."""
    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    return pickle.loads(await reader.readexactly(length))


class Child:
    """Answers requests `("call", id, target, method, arguments, named)`; asks `("callback", ...)` in turn."""

    def __init__(self, node: Node, writer: asyncio.StreamWriter) -> None:
        self.node = node
        self.writer = writer
        self.subscriptions: dict[int, Subscription] = {}
        self.callbacks: dict[int, asyncio.Future[None]] = {}
        self.numbers = itertools.count()

    async def call(
        self, number: int, target: int | None, method: str, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        try:
            answer: Any = await self.perform(target, method, arguments, named)
            reply: tuple[Any, ...] = ("answer", number, answer, self.assigned())
        except Exception as error:
            reply = ("error", number, error, self.assigned())
        self.send(reply)

    async def perform(self, target: int | None, method: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if method == "look":
            return None
        if method == "subscribe":
            return await self.subscribe(*arguments)
        if method in {"relay", "stop"}:
            return await getattr(self.node, method)(*arguments)
        found = getattr(self.node.bus if target is None else self.subscriptions[target], method)(*arguments, **named)
        return await found if asyncio.iscoroutine(found) else found

    async def subscribe(self, group: str, member: str, topics: tuple[str, ...]) -> int:
        number = next(self.numbers)

        async def tell(what: str, parts: frozenset[int]) -> None:
            callback = next(self.numbers)
            self.callbacks[callback] = asyncio.get_running_loop().create_future()
            self.send(("callback", callback, (group, member), what, parts, self.assigned()))
            await self.callbacks[callback]

        consumer = Consumer(
            group, member, topics, lambda parts: tell("gained", parts), lambda parts: tell("lost", parts)
        )
        self.subscriptions[number] = await self.node.bus.subscribe(consumer)
        return number

    def assigned(self) -> dict[int, frozenset[int]]:
        return {number: found.assigned for number, found in self.subscriptions.items()}

    def send(self, message: object) -> None:
        self.writer.write(packed(message))


@asynccontextmanager
async def opened(backend: str, *words: str) -> AsyncIterator[Bus]:
    """The bus that the words of the command line name."""
    if backend == "kafka":
        yield kafka_bus(*words)
        return
    database_path, folder, poll, wakeups = words
    database = await Database.open(Path(database_path), schema=[SCHEMA])
    poll_seconds = None if poll == "none" else float(poll)
    yield EmbeddedBus(database, Path(folder), poll_seconds=poll_seconds, wakeups=wakeups == "True")
    await database.close()


async def main(*words: str) -> None:
    async with opened(*words) as bus:
        await serve(bus)


async def serve(bus: Bus) -> None:
    """Do what is asked until the pipe ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**30)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout.buffer)
    child = Child(Node("child", bus), asyncio.StreamWriter(transport, protocol, None, loop))
    calls: set[asyncio.Task[None]] = set()
    try:
        while True:
            kind, *rest = await received(reader)
            if kind == "called_back":
                found = child.callbacks[rest[0]]
                if rest[1] is None:
                    found.set_result(None)
                else:
                    found.set_exception(rest[1])
            else:
                task = asyncio.create_task(child.call(*rest))
                calls.add(task)
                task.add_done_callback(calls.discard)
    except asyncio.IncompleteReadError:
        return


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
