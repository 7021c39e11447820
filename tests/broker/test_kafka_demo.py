"""The demo through a real Kafka broker: four processes, the same dance."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

from deploy.local.kafka import Kafka

GROUPS = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"


def test_the_demo_starts_its_own_servers_where_none_is_named(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GAVOTTE_")}
    done = subprocess.run(
        [
            Path(sys.executable).with_name("gavotte"),
            *("--data", str(tmp_path / "data"), "demo", "--bus", "kafka", "--store", "postgres", "--yes"),
        ],
        check=False,
        env=environ | {"XDG_CONFIG_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == "Starting Kafka and PostgreSQL for this demo ...\n"
    assert "one unbroken lineage, 4 processes" in done.stdout
    assert "PostgreSQL at 127.0.0.1:" in done.stdout
    (broker,) = re.findall(r"Kafka at 127.0.0.1:(\d+)", done.stdout)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(broker))), "the broker outlived its demo"


def test_the_dance_goes_through_kafka_and_its_own_tools_see_no_lag(kafka: Kafka, tmp_path: Path) -> None:
    prefix = "the-demo."
    environ = {**os.environ, **kafka.environment(), "GAVOTTE_BUS__PREFIX": prefix, "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run(
        [
            Path(sys.executable).with_name("gavotte"),
            "--data",
            str(tmp_path / "data"),
            *("demo", "--bus", "kafka", "--yes"),
        ],
        check=False,
        env=environ,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Kafka at {kafka.servers}, topics {prefix}demo-" in done.stdout
    assert "one unbroken lineage, 4 processes" in done.stdout
    assert done.stderr == ""
    told = kafka.tool(GROUPS, "--bootstrap-server", kafka.servers, "--describe", "--all-groups")
    rows = [line.split() for line in told.splitlines() if line.startswith(prefix)]
    assert {row[0].rpartition(".")[2] for row in rows} == {"planning", "coding", "review", "deploy"}
    assert {row[5] for row in rows} == {"0"}, told
