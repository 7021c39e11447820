"""What goes wrong on the way to Kafka is named: DNS, port, TLS, credentials, size, topic; nobody gets a traceback."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record._crc32c import crc

from bus.kafka.bus import KafkaBus
from bus.kafka.cluster import Patience
from bus.partitions import partition_of
from bus.port import Consumer, Message, Record
from contracts.errors import GavotteError, Refused, TooLarge, Unavailable
from deploy.local.kafka import Kafka
from deploy.local.serving import free_port
from tests.broker.kafka_nodes import client, hung_up

SHORT = Patience(request=4.0)
ROOT = Path(__file__).parents[2]


@pytest.fixture
async def bus(kafka: Kafka, prefix: str) -> AsyncIterator[KafkaBus]:
    made = client(kafka, prefix=prefix)
    yield made
    await made.close()


async def fault(broker: Kafka, **settings: Any) -> GavotteError:
    """What a client with these settings is told."""
    bus = client(broker, **{"patience": SHORT, **settings})
    try:
        with pytest.raises(GavotteError) as told:
            await bus.ensure_topics(["t"])
    finally:
        await bus.close()
        await hung_up()
    return told.value


async def test_an_unknown_name_and_a_closed_port_are_told_apart(kafka: Kafka) -> None:
    error = await fault(kafka, servers="no-such-host.invalid:9092")
    assert isinstance(error, Unavailable)
    assert (error.code, str(error)) == (
        "kafka_dns",
        "Kafka at no-such-host.invalid:9092: the name is not known to DNS (bus.servers)",
    )
    error = await fault(kafka, servers=f"127.0.0.1:{free_port()}")
    assert isinstance(error, Unavailable)
    assert error.code == "kafka_port"
    assert "nobody listens on that port" in str(error)


async def test_a_port_that_never_answers_is_given_up(kafka: Kafka) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        began = time.monotonic()
        error = await fault(kafka, servers=f"127.0.0.1:{deaf.getsockname()[1]}", patience=Patience(request=1.0))
        assert isinstance(error, Unavailable)
        assert "did not answer in time" in str(error)
        assert time.monotonic() - began < 10


async def test_credentials_are_told_apart_from_everything_else(secured_kafka: Kafka) -> None:
    for wrong in ({"password": "wrong"}, {"user": "nobody", "password": "x"}):
        error = await fault(secured_kafka, **{"user": "admin", **wrong})
        assert isinstance(error, Refused), error
        assert error.code == "kafka_credentials"
        assert "wrong" not in str(error)
        assert "GAVOTTE_BUS__PASSWORD_FILE" in error.hint


async def test_tls_is_told_apart_from_everything_else(kafka: Kafka, secured_kafka: Kafka) -> None:
    error = await fault(secured_kafka, cafile=None)
    assert (type(error), error.code) == (Refused, "kafka_tls")
    assert "certificate that is not trusted" in str(error)
    assert "bus.cafile" in error.hint
    error = await fault(kafka, security="tls", cafile=secured_kafka.cafile)
    assert isinstance(error, Refused | Unavailable)
    assert "bus.security" in error.hint
    error = await fault(secured_kafka, security="plaintext")
    assert isinstance(error, Unavailable)
    assert "bus.security=plaintext" in error.hint
    error = await fault(secured_kafka, cafile=Path("/no/such/file"))
    assert "/no/such/file holds no certificates" in str(error)


async def test_a_record_that_is_too_large_is_refused_alone(bus: KafkaBus, kafka: Kafka, prefix: str) -> None:
    with pytest.raises(TooLarge, match="exceeds 1000000"):
        await bus.publish([Message("t", b"k", b"x" * 1_000_000)])
    await bus.publish([Message("t.g.dlq", b"k", b"x" * 1_000_000)])
    generous = client(kafka, prefix=prefix, record_bytes_max=3_000_000)
    try:
        small = [generous.publish([Message("t", b"k", str(n).encode())]) for n in range(20)]
        large = generous.publish([Message("t", b"k", b"x" * 2_000_000)])
        told = await asyncio.gather(*small[:10], large, *small[10:], return_exceptions=True)
        assert [type(each) for each in told if each is not None] == [TooLarge]
        await generous.publish([Message("t", b"k", b"20")])
    finally:
        await generous.close()
    assert [int(record.value) for record in await bus.read("t")] == list(range(21))


async def test_another_partition_count_is_refused(bus: KafkaBus, kafka: Kafka, prefix: str) -> None:
    await bus.ensure_topics(["t"])
    other = client(kafka, prefix=prefix, partitions=4)
    try:
        with pytest.raises(Refused, match=rf"topic {prefix}t has 8 partitions, not 4"):
            await other.publish([Message("t", b"k", b"v")])
    finally:
        await other.close()


async def test_a_topic_that_is_removed_under_us_is_missed_and_made_again(kafka: Kafka, prefix: str) -> None:
    bus = client(kafka, prefix=prefix, patience=Patience(request=5.0, watch=1.0))
    try:
        await bus.publish([Message("t", b"k", b"1")])
        tool = ("org.apache.kafka.tools.TopicCommand", "--bootstrap-server", kafka.servers)
        await asyncio.to_thread(kafka.tool, *tool, "--delete", "--topic", f"{prefix}t")
        with pytest.raises(Unavailable):
            await bus.publish([Message("t", b"k", b"2")])
        await bus.publish([Message("t", b"k", b"3")])
        assert [record.value for record in await bus.read("t")] == [b"3"]
    finally:
        await bus.close()


async def test_bytes_of_strangers_pass_through(bus: KafkaBus, kafka: Kafka, prefix: str) -> None:
    await bus.ensure_topics(["t"])
    tool = ("org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", kafka.servers, "--topic", f"{prefix}t")
    options = ("--reader-property", "parse.key=true", "--reader-property", "null.marker=NULL")
    await asyncio.to_thread(kafka.tool, *tool, *options, send="key\thello\nNULL\tno key\nkey\tNULL\n")
    subscription = await bus.subscribe(Consumer("g", "m", ("t",)))
    found: list[tuple[bytes, bytes]] = []
    while len(found) < 3:
        found += [(record.key, record.value) for record in await subscription.fetch(10, 20.0)]
    assert sorted(found) == [(b"", b"no key"), (b"key", b""), (b"key", b"hello")]
    assert {record.partition for record in await bus.read("t") if record.key} == {partition_of(b"key")}


def told(environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program of ours with these settings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GAVOTTE_")}
    return subprocess.run(words, env=clean | environ, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_an_agent_without_its_broker_says_so_and_ends(tmp_path: Path, secured_kafka: Kafka) -> None:
    agent = (sys.executable, "-P", "-m", "agents", "review")
    nowhere = {"GAVOTTE_BUS__BACKEND": "kafka", "GAVOTTE_BUS__SERVERS": f"127.0.0.1:{free_port()}"}
    done = told({"GAVOTTE_DATA": str(tmp_path), **nowhere}, *agent)
    assert done.returncode == 5
    assert "nobody listens on that port" in done.stderr
    assert "try: is the broker up?" in done.stderr
    assert "Traceback" not in done.stderr
    wrong = secured_kafka.environment() | {"GAVOTTE_BUS__PASSWORD": "guess", "GAVOTTE_DATA": str(tmp_path)}
    done = told(wrong, *agent)
    assert done.returncode == 4
    assert "refuses the credentials of admin" in done.stderr
    assert "guess" not in done.stderr
    assert "Traceback" not in done.stderr
    half = {name: value for name, value in wrong.items() if not name.endswith("PASSWORD")}
    done = told(half, *agent)
    assert (done.returncode, "bus.security is sasl" in done.stderr) == (2, True)


async def strange(kafka: Kafka, topic: str, part: int) -> None:
    """A batch of three records; the second has a header whose name is no text, as any client can write it."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka.servers)
    await producer.start()
    try:
        builder = producer.create_batch()
        for value in (b"1", b"2", b"3"):
            headers = [("XXXX", b"odd")] if value == b"2" else []
            builder.append(timestamp=None, key=b"k", value=value, headers=headers)
        raw = bytearray(builder._build().replace(b"XXXX", b"\xff\xfe\xfd\xfc"))
        struct.pack_into(">I", raw, 17, crc(bytes(raw[21:])))
        builder._buffer = bytes(raw)
        await (await producer.send_batch(builder, topic, partition=part))
    finally:
        await producer.stop()


async def test_a_header_that_is_no_text_stops_nobody(bus: KafkaBus, kafka: Kafka, prefix: str) -> None:
    part = partition_of(b"k")
    others = [Message("t", str(n).encode(), b"other") for n in range(20)]
    await bus.publish([Message("t", b"k", b"0"), *others])
    await strange(kafka, f"{prefix}t", part)
    await bus.publish([Message("t", b"k", b"4"), *others])
    subscription = await bus.subscribe(Consumer("g", "m", ("t",)))
    found: list[Record] = []
    while len(found) < 45:
        found += await subscription.fetch(100, 20.0)
    for records in (found, await bus.read("t")):
        mine = [record for record in records if record.key == b"k"]
        assert [record.value for record in mine] == [b"0", b"1", b"2", b"3", b"4"]
        assert mine[2].headers == (("\ufffd" * 4, b"odd"),)
        assert len(records) == 45
