"""The AsyncAPI document says of topics and events what the topology and the schemas say, and its references resolve."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import fastavro
import pytest

from console.cli.main import main
from contracts.asyncapi import document
from contracts.codec import headers_of
from contracts.envelope import root
from contracts.events import EVENTS, TaskCancelRequested
from contracts.topology import Agent, Topology


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return document("9.9.9")


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def resolve(made: dict[str, Any], reference: str) -> Any:
    found: Any = made
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def test_every_reference_resolves(made: dict[str, Any]) -> None:
    found = list(references(made))
    assert found
    for reference in found:
        assert resolve(made, reference)


def test_each_event_is_a_message_with_its_schema(made: dict[str, Any]) -> None:
    messages = made["components"]["messages"]
    assert set(messages) == {f"{cls.event_type()}.v{cls.event_version()}" for cls in EVENTS}
    for message in messages.values():
        fastavro.parse_schema(message["payload"]["schema"])


def test_who_sends_and_receives_is_the_topology(made: dict[str, Any]) -> None:
    topology = Topology()
    sends = {name: op for name, op in made["operations"].items() if name.endswith(".send")}
    assert {resolve(made, op["channel"]["$ref"])["address"] for op in sends.values()} == set(topology.topics())
    for agent in topology.agents:
        heard = {
            resolve(made, op["channel"]["$ref"])["address"]: op
            for name, op in made["operations"].items()
            if name.startswith(f"{agent.role}.receive.")
        }
        assert set(heard) == set(topology.topics_for(agent.role))
        for operation in heard.values():
            assert operation["bindings"]["kafka"]["groupId"]["enum"] == [agent.group]
        types = {message["$ref"].rpartition("/")[2] for op in heard.values() for message in op["messages"]}
        assert types == {f"{type_}.v1" for type_ in agent.consumes}


def test_the_headers_are_those_that_travel(made: dict[str, Any]) -> None:
    event = root(TaskCancelRequested(operator="ann", reason=""))
    described = made["components"]["messages"]["TaskCancelRequested.v1"]["headers"]
    travelling = {name: value.decode() for name, value in headers_of(event.envelope)}
    assert set(travelling) <= set(described["properties"])
    for name, value in travelling.items():
        assert described["properties"][name].get("const", value) == value
    assert set(described["required"]) <= set(travelling)


def test_a_further_agent_is_in_it() -> None:
    made = document("1", Topology((Agent("licences", consumes=("ChangeProposed",), emits=()),)))
    assert "licences.receive.coding" in made["operations"]
    assert "gavotte.coding.events.v1.gavotte.licences.dlq" in made["channels"]


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contracts", "asyncapi"]) == 0
    assert json.loads(capsys.readouterr().out)["asyncapi"] == "3.0.0"
