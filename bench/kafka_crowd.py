"""Processes of a peer on Kafka and PostgreSQL: one per hop, each on a topic of its own; and the one who sends and waits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bench import reference_aiokafka
from bench.crowd import answer
from bench.dance import BURST, SECONDS_MAX, WARM_UP
from bench.environments import python_of
from bench.job import HOPS, first_event
from bench.kafka_agents import FIRST, SETTLE_SECONDS, Costs
from bench.machine import latencies, resident_megabytes
from bench.reference_aiokafka import PUT, TABLE, TOPICS, row
from bench.servers import Servers
from bus.partitions import PARTITIONS

HERE = Path(__file__).parent
Encode = Callable[[dict[str, Any]], bytes]


def raw(servers: Servers, tasks: int, idle_tasks: int) -> dict[str, float]:
    """aiokafka as it is."""
    command = [sys.executable, str(HERE / "reference_aiokafka.py")]
    return _measure(servers, command, reference_aiokafka.encoded, tasks, idle_tasks)


def faststream(servers: Servers, tasks: int, idle_tasks: int) -> dict[str, float]:
    """FastStream, with JSON as it does by itself."""
    command = [python_of("faststream"), str(HERE / "peer_faststream.py")]
    return _measure(servers, command, lambda event: json.dumps(event).encode(), tasks, idle_tasks)


def _measure(servers: Servers, command: list[str], encode: Encode, tasks: int, idle_tasks: int) -> dict[str, float]:
    with servers.schema() as database:
        return asyncio.run(_figures(servers, database, command, encode, (tasks, idle_tasks)))


async def _figures(
    servers: Servers, database: str, command: list[str], encode: Encode, counts: tuple[int, int]
) -> dict[str, float]:
    prefix, (tasks, idle_tasks) = f"{uuid.uuid4().hex[:8]}.", counts
    async with _topics(servers.kafka, prefix), _sender(servers.kafka, prefix, database, encode) as sender:
        with _processes([*command], [servers.kafka, prefix, database]) as crowd:
            for member in crowd:
                await asyncio.to_thread(answer, member, "ready")
            pids = [member.pid for member in crowd]
            for turn, count in enumerate(FIRST, 10):
                await sender.submit([first_event(turn * 10**6 + number) for number in range(count)])
                await sender.ended(count)
            await asyncio.sleep(SETTLE_SECONDS)
            spent = await sender.idle_latencies(idle_tasks)
            resting = statistics.mean(map(resident_megabytes, pids))
            events = [first_event(10**6 + number) for number in range(tasks)]
            costs = Costs(pids, servers)
            for index in range(0, tasks, BURST):
                await sender.submit(events[index : index + BURST])
            await sender.ended(tasks)
            return costs.per(tasks) | latencies(spent) | {"idle_megabytes": resting}


@contextlib.contextmanager
def _processes(command: list[str], words: list[str]) -> Iterator[list[subprocess.Popen[str]]]:
    crowd = [
        subprocess.Popen([*command, hop, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for hop in HOPS
    ]
    try:
        yield crowd
    finally:
        for member in crowd:
            member.kill()
            member.wait()


@contextlib.asynccontextmanager
async def _topics(broker: str, prefix: str) -> AsyncIterator[None]:
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    names = [prefix + name for name in TOPICS]
    try:
        await admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names])
        yield
        await admin.delete_topics(names)
    finally:
        await admin.close()


class Sender:
    """Records a submission, sends it, and waits for the ends."""

    def __init__(self, producer: Any, consumer: Any, connection: Any, prefix: str, encode: Encode) -> None:
        self.producer, self.consumer, self.connection = producer, consumer, connection
        self.prefix, self.encode = prefix, encode

    async def submit(self, events: list[dict[str, Any]]) -> None:
        values = [self.encode(event) for event in events]
        rows = [row(event, value) for event, value in zip(events, values, strict=True)]
        await self.connection.executemany(PUT, rows)
        topic = self.prefix + HOPS[0]
        sent = [
            await self.producer.send(topic, value, key=row[0].encode()) for row, value in zip(rows, values, strict=True)
        ]
        await asyncio.gather(*sent)

    async def ended(self, count: int) -> None:
        deadline = time.monotonic() + SECONDS_MAX
        while count > 0:
            count -= sum(map(len, (await self.consumer.getmany(timeout_ms=1000, max_records=1000)).values()))
            if time.monotonic() > deadline:
                raise SystemExit(f"{count} tasks did not end within {SECONDS_MAX:g} s")

    async def idle_latencies(self, count: int) -> list[float]:
        spent = []
        for number in range(count + WARM_UP):
            event, began = first_event(number), time.perf_counter()
            await self.submit([event])
            await self.ended(1)
            if number >= WARM_UP:
                spent.append((time.perf_counter() - began) * 1000)
        return spent


@contextlib.asynccontextmanager
async def _sender(broker: str, prefix: str, database: str, encode: Encode) -> AsyncIterator[Sender]:
    connection = await asyncpg.connect(database)
    producer: Any = AIOKafkaProducer(bootstrap_servers=broker, acks="all", linger_ms=0)
    consumer: Any = AIOKafkaConsumer(
        prefix + "done",
        bootstrap_servers=broker,
        group_id=prefix + "bench",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    try:
        await connection.execute(TABLE)
        await producer.start()
        await consumer.start()
        yield Sender(producer, consumer, connection, prefix, encode)
    finally:
        await consumer.stop()
        await producer.stop()
        await connection.close()
