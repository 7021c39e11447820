"""The AsyncAPI 3.0 document of the dance, derived from the topology table and the committed schemas.

Names of headers, bindings and the location of the correlation id follow the CloudEvents Kafka binding and AsyncAPI's
Kafka bindings 0.5.0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from contracts.registry import Schema, committed_schemas
from contracts.topology import (
    OPERATOR_EVENTS,
    OPERATOR_PRODUCER,
    PARTITIONS,
    TASK_EVENTS,
    TASKS_PRODUCER,
    Agent,
    Topology,
    dead_letter_topic,
    topic_of,
)

BINDING: Final = "0.5.0"
AVRO: Final = "application/vnd.apache.avro;version=1.9.0"
UUID: Final = {"type": "string", "format": "uuid"}
TEXT: Final = {"type": "string"}

Json = dict[str, Any]


def document(version: str, topology: Topology | None = None) -> Json:
    """The whole document as JSON values; `version` is the release it describes."""
    table = topology or Topology()
    schemas = {schema.type: schema for schema in committed_schemas()}  # the newest of each type comes last
    said = _said(table)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Gavotte",
            "version": version,
            "description": "Agents that choreograph themselves over a bus of versioned events: nobody leads. The key of "
            "every record is the task id, the value is Avro in the Confluent wire format, the envelope is CloudEvents "
            "1.0 in binary mode.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/avro",
        "channels": {**_channels(said), **_letter_channels(table)},
        "operations": _operations(table, said),
        "components": {
            "messages": {_name(schema): _message(schema) for schema in schemas.values() if _is_said(schema, said)},
            "correlationIds": {
                "flow": {
                    "description": "One for all that grew out of one submission.",
                    "location": "$message.header#/ce_correlationid",
                }
            },
        },
    }


def _said(table: Topology) -> dict[str, tuple[str, ...]]:
    """Producer -> the types it says, in the order of the table."""
    found = {TASKS_PRODUCER: TASK_EVENTS, OPERATOR_PRODUCER: OPERATOR_EVENTS}
    return found | {agent.role: agent.emits for agent in table.agents}


def _is_said(schema: Schema, said: dict[str, tuple[str, ...]]) -> bool:
    return any(schema.type in types for types in said.values())


def _name(schema: Schema) -> str:
    return f"{schema.type}.v{schema.version}"


def _message(schema: Schema) -> Json:
    parsed = json.loads(schema.text)
    headers = {
        "ce_specversion": {"type": "string", "const": "1.0"},
        "ce_id": UUID | {"description": "The event's id: one that was seen before is handled once."},
        "ce_type": {"type": "string", "const": f"gavotte.{schema.type}.v{schema.version}"},
        "ce_source": TEXT | {"description": "urn:gavotte:agent:<role>, urn:gavotte:operator or urn:gavotte:client."},
        "ce_subject": UUID | {"description": "The task id, as the key."},
        "ce_time": {"type": "string", "format": "date-time"},
        "ce_dataschema": {"type": "string", "const": f"urn:gavotte:schema:{schema.type}:{schema.version}"},
        "ce_partitionkey": UUID,
        "ce_correlationid": UUID,
        "ce_causationid": UUID | {"description": "The event that caused this one; a submission has none."},
        "ce_tenant": TEXT,
        "ce_trust": {"type": "string", "enum": ["operator", "system", "untrusted"]},
        "content-type": {"type": "string", "const": "application/avro"},
        "traceparent": TEXT,
        "tracestate": TEXT,
    }
    return {
        "name": f"gavotte.{schema.type}.v{schema.version}",
        "title": f"{schema.type}, version {schema.version}",
        "summary": " ".join(str(parsed.get("doc", "")).split("\n\n")[0].split()),
        "contentType": "application/avro",
        "headers": {"type": "object", "required": ["ce_id", "ce_type", "ce_source"], "properties": headers},
        "correlationId": {"$ref": "#/components/correlationIds/flow"},
        "payload": {"schemaFormat": AVRO, "schema": parsed},
        "bindings": {
            "kafka": {
                "key": UUID,
                "schemaIdLocation": "payload",
                "schemaIdPayloadEncoding": "confluent",
                "schemaLookupStrategy": "RecordNameStrategy",
                "bindingVersion": BINDING,
            }
        },
    }


def _channels(said: dict[str, tuple[str, ...]]) -> Json:
    return {
        topic_of(producer): _channel(topic_of(producer), types, f"What {producer} alone says.")
        for producer, types in said.items()
    }


def _letter_channels(table: Topology) -> Json:
    found = {}
    for agent in table.agents:
        for topic, types in _heard(table, agent).items():
            name = dead_letter_topic(topic, agent.group)
            about = f"Records of {topic} that {agent.role} could not handle, with headers gavotte.error.* that say why."
            found[name] = _channel(name, types, about)
    return found


def _channel(topic: str, types: Iterable[str], about: str) -> Json:
    names = [_name(schema) for schema in _newest(types)]
    return {
        "address": topic,
        "description": about,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {"kafka": {"topic": topic, "partitions": PARTITIONS, "bindingVersion": BINDING}},
    }


def _operations(table: Topology, said: dict[str, tuple[str, ...]]) -> Json:
    found = {
        f"{producer}.send": _operation("send", topic_of(producer), types, f"{producer} says what happened.")
        for producer, types in said.items()
    }
    for agent in table.agents:
        for topic, types in _heard(table, agent).items():
            producer = topic.split(".")[1]
            heard = _operation("receive", topic, types, f"{agent.role} hears {producer}.")
            group = {"groupId": {"type": "string", "enum": [agent.group]}, "bindingVersion": BINDING}
            found[f"{agent.role}.receive.{producer}"] = heard | {"bindings": {"kafka": group}}
            letters = dead_letter_topic(topic, agent.group)
            about = f"{agent.role} puts aside what it could not handle."
            found[f"{agent.role}.letters.{producer}"] = _operation("send", letters, types, about)
    return found


def _operation(action: str, topic: str, types: Iterable[str], about: str) -> Json:
    channel = f"#/channels/{topic}"
    return {
        "action": action,
        "channel": {"$ref": channel},
        "summary": about,
        "messages": [{"$ref": f"{channel}/messages/{_name(schema)}"} for schema in _newest(types)],
    }


def _heard(table: Topology, agent: Agent) -> dict[str, tuple[str, ...]]:
    """Topic -> the types that the agent consumes from it."""
    found: dict[str, tuple[str, ...]] = {}
    for type_ in agent.consumes:
        for producer in table.producers(type_):
            topic = topic_of(producer)
            found[topic] = (*found.get(topic, ()), type_)
    return found


def _newest(types: Iterable[str]) -> list[Schema]:
    """The newest schema of each type, in the order of the types."""
    known = {schema.type: schema for schema in committed_schemas()}
    return [known[type_] for type_ in types if type_ in known]
