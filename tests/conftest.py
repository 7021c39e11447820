"""The servers that tests share: each is started once, when the first test asks for it, and ended with the run."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from typing import NoReturn

import pytest

from deploy.local import postgres as postgres_server
from deploy.local import registry
from deploy.local.kafka import Kafka
from deploy.local.serving import Lacking


def lacking(what: object) -> NoReturn:
    """This machine lacks something: a skip with its reason, but in continuous integration a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must not skip: {what}", pytrace=False)
    pytest.skip(str(what))


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """One running broker without security, for all tests: each takes topic and group names of its own, none stops it."""
    broker = Kafka(tmp_path_factory.mktemp("kafka"))
    try:
        broker.start()
    except Lacking as error:
        lacking(error)
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def schema_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[registry.Registry]:
    """One running schema registry for all tests: each takes subjects of its own beside those of our events.

    Somebody else was there first, so that its ids are not ours by chance.
    """
    found = registry.Registry(tmp_path_factory.mktemp("registry"))
    try:
        found.start()
    except Lacking as error:
        lacking(error)
    body = json.dumps({"schema": json.dumps({"type": "fixed", "name": "Stranger", "size": 1})}).encode()
    headers = {"content-type": "application/vnd.schemaregistry.v1+json"}
    stranger = urllib.request.Request(f"{found.url}/subjects/stranger/versions", body, headers)
    urllib.request.urlopen(stranger, timeout=30).close()
    yield found
    found.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgres_server.Postgres]:
    """One running PostgreSQL server for all tests: each takes a database of its own, none stops it."""
    server = postgres_server.Postgres(durable=False)
    try:
        server.start()
    except Lacking as error:
        lacking(error)
    yield server
    server.close()
