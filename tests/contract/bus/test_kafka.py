"""The bus suite on a real Kafka broker."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus.kafka.bus import KafkaBus
from deploy.local.kafka import Kafka
from tests.contract.bus.kafka import KafkaCluster
from tests.contract.bus.processes import ProcessCluster
from tests.contract.bus.suite import BusSuite


@pytest.fixture
def prefix() -> str:
    """Topics and groups of one test."""
    return f"{secrets.token_hex(4)}."


@pytest.fixture
async def cluster(kafka: Kafka, prefix: str) -> AsyncIterator[KafkaCluster]:
    made = KafkaCluster(kafka.servers, prefix)
    yield made
    await made.close()


class KafkaProcessCluster(ProcessCluster):
    """Every node a process."""

    features = KafkaBus.features

    def __init__(self, servers: str, prefix: str) -> None:
        super().__init__(Path())
        self.servers = servers
        self.prefix = prefix

    def words(self, poll: str, wakeups: str) -> list[str]:
        return ["kafka", self.servers, self.prefix]


class TestKafkaBus(BusSuite):
    pass


class TestKafkaBusBetweenProcesses:
    """What only processes that are really killed can show."""

    @pytest.fixture
    async def cluster(self, kafka: Kafka, prefix: str) -> AsyncIterator[KafkaProcessCluster]:
        made = KafkaProcessCluster(kafka.servers, prefix)
        yield made
        await made.close()

    test_a_killed_member_is_taken_over = BusSuite.test_a_killed_member_is_taken_over
    test_the_old_member_commits_first = BusSuite.test_the_old_member_commits_before_the_new_one_starts
    test_ten_thousand_messages = BusSuite.test_ten_thousand_messages_through_four_nodes_while_some_die
