"""The client and the commands against a real schema registry."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from contracts import ids
from contracts.codec import Codec, framed_id
from contracts.confluent import SchemaRegistry, push, standing, subject_of
from contracts.errors import Refused
from contracts.events import PlanRejected
from contracts.registry import CommittedIds, Schema, committed_schemas
from contracts.wire_ids import RegistryIds
from deploy.local.registry import Registry

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def registry(schema_registry: Registry) -> AsyncIterator[SchemaRegistry]:
    found = SchemaRegistry(schema_registry.url)
    yield found
    await found.close()


def probe(*fields: tuple[str, str] | tuple[str, str, Any], name: str, version: int = 1) -> Schema:
    """A schema of fields (name, type) or (name, type, default)."""
    made = [dict(zip(("name", "type", "default"), field, strict=False)) for field in fields]
    record = {"type": "record", "name": name, "namespace": "gavotte.events.v1", "fields": made}
    return Schema(0, name, version, json.dumps(record))


@pytest.fixture
def name() -> str:
    """A record that no other test knows."""
    return "Probe" + ids.uuid7().replace("-", "")


async def test_a_schema_is_registered_once_and_found_both_ways(registry: SchemaRegistry, name: str) -> None:
    first = probe(("a", "string"), name=name)
    assert await registry.lookup(subject_of(first), first.text) is None
    assert await registry.versions(subject_of(first)) == []
    number = await push(registry, first)
    assert await push(registry, first) == number
    assert await registry.lookup(subject_of(first), first.text) == number
    text = await registry.schema(number)
    assert text is not None
    assert json.loads(text) == json.loads(first.text)
    assert [version for version, _ in await registry.versions(subject_of(first))] == [1]
    assert await registry.schema(2_000_000_000) is None


async def test_a_subject_is_held_to_full_transitive_whatever_the_default(registry: SchemaRegistry, name: str) -> None:
    first = probe(("a", "string"), name=name)
    await registry.register(subject_of(first), first.text)
    assert await registry.compatibility(subject_of(first)) != "FULL_TRANSITIVE"
    assert (await standing(registry, first))[1] != []
    await push(registry, first)
    assert await registry.compatibility(subject_of(first)) == "FULL_TRANSITIVE"
    assert (await standing(registry, first))[1] == []


async def test_a_compatible_version_is_taken_and_an_incompatible_one_refused(
    registry: SchemaRegistry, name: str
) -> None:
    first = probe(("a", "string"), name=name)
    second = probe(("a", "string"), ("b", "string", "x"), name=name, version=2)
    third = probe(("a", "string"), ("b", "string", "x"), ("c", "string"), name=name, version=3)
    numbers = [await push(registry, first), await push(registry, second)]
    assert len(set(numbers)) == 2
    assert not await registry.is_compatible(subject_of(third), third.text)
    _, wrong = await standing(registry, third)
    assert wrong == [
        "cannot read v1: /c: is missing and has no default",
        "cannot read v2: /c: is missing and has no default",
    ]
    with pytest.raises(Refused, match=rf"refuses {name} v3: cannot read v1: /c: is missing"):
        await push(registry, third)


async def test_what_is_no_schema_is_refused_with_the_registrys_reason(registry: SchemaRegistry, name: str) -> None:
    wrong = probe(("a", "no_such_type"), name=name)
    with pytest.raises(Refused, match=f"refuses {name} v1"):
        await push(registry, wrong)


async def test_all_our_events_travel_under_the_ids_of_the_registry(registry: SchemaRegistry, name: str) -> None:
    await push(registry, probe(("a", "string"), name=name))  # so that its ids and ours cannot be the same by chance
    wire, codec = RegistryIds(registry, CommittedIds()), Codec(CommittedIds())
    await wire.prepare()
    for schema in committed_schemas():
        number = await registry.lookup(subject_of(schema), schema.text)
        assert number is not None
        assert framed_id(wire.outward(b"\0" + schema.id.to_bytes(4, "big") + b"x")) == number
    value = codec.encode_payload(PlanRejected(reason="no", reason_code="no"))
    fresh = RegistryIds(registry, CommittedIds())  # asks what the id stands for, as a reader that never wrote
    assert await fresh.inward(wire.outward(value)) == value


def gavotte(*arguments: str, data: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "console.cli.main", *arguments, "--data", str(data)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_push_and_check_by_hand(schema_registry: Registry, tmp_path: Path) -> None:
    pushed = gavotte("contracts", "push", "--registry", schema_registry.url, "--json", data=tmp_path)
    assert pushed.returncode == 0, pushed.stderr
    rows = json.loads(pushed.stdout)
    assert {row["type"] for row in rows} == {schema.type for schema in committed_schemas()}
    assert all(row["subject"] == f"gavotte.events.v1.{row['type']}" for row in rows)
    checked = gavotte("contracts", "check", "--registry", schema_registry.url, data=tmp_path)
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.endswith("events, 0 wrong, 0 not in the registry yet\n")


def test_a_registry_that_is_not_there_is_said_to_be_down(tmp_path: Path) -> None:
    found = gavotte("contracts", "check", "--registry", "http://127.0.0.1:9", data=tmp_path)
    assert found.returncode == 5
    assert "schema registry http://127.0.0.1:9 cannot be reached" in found.stderr
    assert gavotte("contracts", "push", data=tmp_path).returncode == 2
