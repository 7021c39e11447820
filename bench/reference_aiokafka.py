"""The limit of the distributed bus: four processes on raw aiokafka, at least once, with a PostgreSQL row for each event.

    python reference_aiokafka.py HOP BROKER PREFIX DATABASE      one of the four, started by `kafka_crowd.py`

Each takes what is there, decodes and encodes it, writes the rows of the outputs in one transaction, sends them, waits
until the broker has them, and commits its offsets once for all. What comes twice is told twice, and is one row. No inbox,
no order over topics, no fold, no hash chain, no views, no leases, no journal, no trace.
"""

from __future__ import annotations

import asyncio
import io
import sys
from pathlib import Path
from typing import Any

import asyncpg
import fastavro
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.job import AVRO, HOPS, next_event  # the folder is no package

TOPICS = (*HOPS, "done")
TABLE = "CREATE TABLE rows (task_id text, type text, value bytea NOT NULL, PRIMARY KEY (task_id, type))"
PUT = "INSERT INTO rows VALUES ($1, $2, $3) ON CONFLICT (task_id, type) DO UPDATE SET value = excluded.value"
BATCH = 500
SCHEMA = fastavro.parse_schema(AVRO)

Row = tuple[str, str, bytes]


def encoded(event: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, SCHEMA, event)
    return out.getvalue()


def decoded(value: bytes) -> dict[str, Any]:
    event = fastavro.schemaless_reader(io.BytesIO(value), SCHEMA, None)
    assert isinstance(event, dict)
    return event


def row(event: dict[str, Any], value: bytes) -> Row:
    return event["task_id"], event["event_type"], value


async def main(hop: str, broker: str, prefix: str, database: str) -> None:
    producer: Any = AIOKafkaProducer(bootstrap_servers=broker, acks="all", linger_ms=0)
    consumer: Any = AIOKafkaConsumer(
        prefix + hop,
        bootstrap_servers=broker,
        group_id=prefix + hop,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_poll_records=BATCH,
    )
    connection = await asyncpg.connect(database)
    await producer.start()
    await consumer.start()
    topic = prefix + TOPICS[TOPICS.index(hop) + 1]
    print("ready", flush=True)
    while True:
        polled = await consumer.getmany(timeout_ms=1000, max_records=BATCH)
        if not polled:
            continue
        events = [next_event(decoded(record.value), hop) for records in polled.values() for record in records]
        rows = [row(event, encoded(event)) for event in events]
        await connection.executemany(PUT, rows)
        sent = [await producer.send(topic, value, key=task_id.encode()) for task_id, _, value in rows]
        await asyncio.gather(*sent)
        await consumer.commit({place: records[-1].offset + 1 for place, records in polled.items()})


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
