"""Servers that only these tests use."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from deploy.local.kafka import Kafka
from deploy.local.serving import Lacking
from tests.broker.kafka_nodes import secured
from tests.conftest import lacking


@pytest.fixture(scope="session")
def secured_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """One broker with logins over TLS and authorization, for all tests that need one."""
    broker = secured(tmp_path_factory.mktemp("secured-kafka"))
    try:
        broker.start()
    except Lacking as error:
        lacking(error)
    yield broker
    broker.stop()


@pytest.fixture
def prefix() -> str:
    """Topics and groups of one test."""
    return f"{secrets.token_hex(4)}."
