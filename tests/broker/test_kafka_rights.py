"""Topics and rights from the table: made, checked, granted by the commands, and held by a broker that authorizes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bus.dead_letters import letter
from bus.port import Consumer, Message
from contracts.errors import Refused, Rejected
from contracts.topology import Topology, group_of, topic_of
from deploy.local.kafka import Kafka
from tests.broker.kafka_nodes import client


def gavotte(broker: Kafka, prefix: str, *words: str, user: str = "admin", code: int = 0, **more: str) -> str:
    """Run a command against the broker; what it prints."""
    environ = {**os.environ, **broker.environment(user), "GAVOTTE_BUS__PREFIX": prefix, **more}
    program = Path(sys.executable).with_name("gavotte")
    done = subprocess.run([program, *words], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def ready(secured_kafka: Kafka, prefix: str) -> str:
    """The prefix under which all topics and rights are there."""
    gavotte(secured_kafka, prefix, "topics", "create")
    gavotte(secured_kafka, prefix, "acls", "apply")
    return prefix


def test_topics_are_made_once_and_checked(secured_kafka: Kafka, prefix: str, tmp_path: Path) -> None:
    count = len(Topology().topics()) + len(Topology().letter_topics())
    told = gavotte(secured_kafka, prefix, "topics", "check", code=1)
    assert told.count(" is missing") == count
    assert "try: gavotte topics create" in told
    made = json.loads(gavotte(secured_kafka, prefix, "topics", "create", "--json"))
    assert (len(made["made"]), made["wrong"]) == (count, [])
    assert f"{count} topics, 0 made" in gavotte(secured_kafka, prefix, "topics", "create")
    assert f"{count} topics, 0 wrong" in gavotte(secured_kafka, prefix, "topics", "check")
    listed = json.loads(gavotte(secured_kafka, prefix, "topics", "list", "--json"))
    found = {row["topic"]: row for row in listed}
    assert found[topic_of("coding")] == {
        "topic": topic_of("coding"),
        "partitions": 8,
        "written_by": ["coding"],
        "read_by": ["review"],
    }
    other = {"GAVOTTE_BUS__PARTITIONS": "4", "GAVOTTE_BUS__RETENTION_HOURS": "1"}
    told = gavotte(secured_kafka, prefix, "topics", "check", code=1, **other)
    assert "gavotte.coding.events.v1 has 8 partitions, not 4" in told
    assert "gavotte.coding.events.v1 has retention.ms=604800000, not 3600000" in told
    assert ".dlq has retention.ms" not in told, "letters stay for ever"


def test_rights_are_printed_for_the_tool_of_kafka_and_granted_once(secured_kafka: Kafka, prefix: str) -> None:
    lines = gavotte(secured_kafka, prefix, "acls", "print", "--user", "coding=svc-coding").splitlines()
    mine = [line for line in lines if "User:svc-coding" in line]
    assert all(line.startswith("kafka-acls.sh --bootstrap-server 127.0.0.1:") for line in lines)
    assert [line.split("--operation ")[1] for line in mine if "Write --topic" in line and ".dlq" not in line] == [
        f"Write --topic {prefix}gavotte.coding.events.v1"
    ]
    assert any(line.endswith(f"Read --group {prefix}gavotte.coding") for line in mine)
    assert f"{len(lines)} rights, {len(lines)} granted now" in gavotte(secured_kafka, prefix, "acls", "apply")
    assert f"{len(lines)} rights, 0 granted now" in gavotte(secured_kafka, prefix, "acls", "apply")
    tool = ("org.apache.kafka.tools.AclCommand", "--bootstrap-server", secured_kafka.servers)
    login = ("--command-config", str(secured_kafka.client_settings()))
    told = secured_kafka.tool(*tool, *login, "--list", "--principal", "User:coding")
    assert f"name={prefix}gavotte.coding.events.v1, patternType=LITERAL" in told
    assert "no role" in gavotte(secured_kafka, prefix, "acls", "print", "--user", "nobody=x", code=2)


def said_by(role: str) -> Message:
    return Message(topic_of(role), b"task", b"value")


async def test_a_role_writes_its_own_topic_and_no_other(secured_kafka: Kafka, ready: str) -> None:
    coding = client(secured_kafka, "coding", prefix=ready)
    try:
        await coding.publish([said_by("coding")])
        for role in ("deploy", "planning", "review", "tasks", "operator"):
            with pytest.raises(Refused, match=r"to user coding.* no ACL allows it|hidden from coding") as refused:
                await coding.publish([said_by(role)])
            assert "gavotte acls" in refused.value.hint
        await coding.publish([said_by("coding")])
    finally:
        await coding.close()


async def test_a_role_reads_what_it_consumes_commits_and_writes_its_letters(secured_kafka: Kafka, ready: str) -> None:
    coding, planning = (client(secured_kafka, user, prefix=ready) for user in ("coding", "planning"))
    admin = client(secured_kafka, prefix=ready)
    try:
        await planning.publish([said_by("planning")])
        consumer = Consumer(group_of("coding"), "m", Topology().topics_for("coding"))
        subscription = await coding.subscribe(consumer)
        (record,) = await subscription.fetch(10, 20.0)
        await coding.publish([letter(record, group_of("coding"), Rejected("no"), attempt=1)])
        await subscription.commit({(record.topic, record.partition): record.offset + 1})
        behind = await admin.lag(group_of("coding"), [topic_of("planning")])
        assert sum(each.behind for each in behind) == 0
        assert len(await admin.read(f"{topic_of('planning')}.{group_of('coding')}.dlq")) == 1
        with pytest.raises(Refused, match=r"group gavotte\.deploy"):
            await coding.subscribe(Consumer(group_of("deploy"), "m", Topology().topics_for("coding")))
        with pytest.raises(Refused, match=r"hidden from coding.*gavotte.tasks.events.v1"):
            await coding.subscribe(Consumer(group_of("coding"), "m2", (topic_of("coding"), topic_of("tasks"))))
    finally:
        for bus in (coding, planning, admin):
            await bus.close()


async def test_a_right_that_is_taken_away_is_named(secured_kafka: Kafka, ready: str) -> None:
    coding = client(secured_kafka, "coding", prefix=ready)
    subscription = await coding.subscribe(Consumer(group_of("coding"), "m", Topology().topics_for("coding")))
    try:
        assert await subscription.fetch(10, 0.1) == []
        tool = ("org.apache.kafka.tools.AclCommand", "--bootstrap-server", secured_kafka.servers)
        login = ("--command-config", str(secured_kafka.client_settings()))
        what = ("--remove", "--force", "--allow-principal", "User:coding", "--operation", "Read")
        where = ("--topic", f"{ready}{topic_of('planning')}")
        await asyncio.to_thread(secured_kafka.tool, *tool, *login, *what, *where)

        async def read_on() -> Any:
            while True:
                await subscription.fetch(10, 1.0)

        with pytest.raises(Refused, match=r"refuses reading.*user coding: no ACL"):
            await asyncio.wait_for(read_on(), 30)
    finally:
        await coding.close()
