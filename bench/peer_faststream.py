"""FastStream: one subscriber with a publisher per hop, acknowledged after the handler, with a PostgreSQL row per event.

    python peer_faststream.py HOP BROKER PREFIX DATABASE         one of the four, started by `kafka_crowd.py`

What it does more than the job asks: messages are validated against a model, and the handler is a plain function that
knows nothing of Kafka.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import asyncpg
from faststream import AckPolicy  # type: ignore[import-not-found]  # in its own environment
from faststream.kafka import KafkaBroker  # type: ignore[import-not-found]  # likewise
from pydantic import BaseModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.job import HOPS  # the folder is no package

TOPICS = (*HOPS, "done")


class File(BaseModel):
    path: str
    sha256: str
    lines: int


class Payload(BaseModel):
    title: str
    description: str
    files: list[File]
    notes: list[str]


class Happened(BaseModel):
    event_id: str
    event_type: str
    version: int
    correlation_id: str
    causation_id: str | None
    task_id: str
    time_us: int
    headers: dict[str, str]
    payload: Payload


async def main(hop: str, address: str, prefix: str, database: str) -> None:
    broker: Any = KafkaBroker(address, acks="all", linger_ms=0, logger=None)
    connection = await asyncpg.connect(database)
    put = await connection.prepare(
        "INSERT INTO rows VALUES ($1, $2, $3) ON CONFLICT (task_id, type) DO UPDATE SET value = excluded.value"
    )
    topic = prefix + TOPICS[TOPICS.index(hop) + 1]

    @broker.subscriber(  # type: ignore[untyped-decorator]  # it has no types here
        prefix + hop, group_id=prefix + hop, auto_offset_reset="earliest", ack_policy=AckPolicy.NACK_ON_ERROR
    )
    @broker.publisher(topic)  # type: ignore[untyped-decorator]  # likewise
    async def answer(event: Happened) -> Happened:
        news = {"event_id": str(uuid.uuid4()), "causation_id": event.event_id}
        said = {"event_type": f"{hop}.done", "time_us": time.time_ns() // 1000}
        made = event.model_copy(update=news | said)
        await put.fetch(made.task_id, made.event_type, made.model_dump_json().encode())
        return made

    await broker.start()
    consumer = next(iter(broker.subscribers)).consumer
    while not consumer.assignment():
        await asyncio.sleep(0.05)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
