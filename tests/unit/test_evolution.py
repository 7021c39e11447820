"""Evolution rules: what may change in an event, what may not, and who is named where it breaks."""

import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

import contracts.schemas
from contracts.evolution import Avro, between, cannot_read, changed_since, check, drifted
from contracts.foreign import hazard
from contracts.registry import Schema, committed_schemas
from contracts.topology import Topology


def record(*fields: Mapping[str, Any], name: str = "PlanProposed") -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields)}


A = {"name": "a", "type": "string"}
B_WITH_DEFAULT = {"name": "b", "type": "long", "default": 0}
B = {"name": "b", "type": "long"}


def test_this_release_is_consistent() -> None:
    assert check() == []


@pytest.mark.parametrize(
    ("reader", "writer", "problem"),
    [
        (record(A, B_WITH_DEFAULT), record(A), None),
        (record(A), record(A, B), None),
        (record(A, B), record(A), "/b: is missing and has no default"),
        (record({"name": "a", "type": "long"}), record({"name": "a", "type": "int"}), None),
        (record({"name": "a", "type": "int"}), record({"name": "a", "type": "long"}), "/a: long is no int"),
        (record({"name": "a", "type": ["null", "string"]}), record(A), None),
        (record(A), record({"name": "a", "type": ["null", "string"]}), "/a: null is no string"),
        (
            record({"name": "a", "type": {"type": "array", "items": "string"}}),
            record({"name": "a", "type": {"type": "array", "items": "long"}}),
            "/a/items: long is no string",
        ),
        (
            record({"name": "a", "type": {"type": "enum", "name": "E", "symbols": ["X"]}}),
            record({"name": "a", "type": {"type": "enum", "name": "E", "symbols": ["X", "Y"]}}),
            "/a: the symbols Y are unknown and there is no default",
        ),
        (
            record({"name": "a", "type": record(A, name="Inner")}, {"name": "c", "type": "Inner"}),
            record({"name": "a", "type": record(A, B, name="Inner")}, {"name": "c", "type": "Inner"}),
            None,
        ),
        (record({"name": "renamed", "aliases": ["a"], "type": "string"}), record(A), None),
        (record(A, name="Other"), record(A), "/: the record PlanProposed is called Other"),
    ],
)
def test_reading(reader: Avro, writer: Avro, problem: str | None) -> None:
    assert list(cannot_read(reader, writer)) == ([problem] if problem else [])


def test_a_break_names_the_consumers_it_hits() -> None:
    older = Schema(1, "PlanProposed", 1, json.dumps(record(A)))
    newer = Schema(2, "PlanProposed", 2, json.dumps(record(A, B)))
    (found,) = between(older, newer, Topology())
    assert "cannot read v1: /b: is missing" in str(found)
    assert found.hits == ("coding",)


def test_a_class_without_file_and_a_file_without_class_are_found() -> None:
    kept = tuple(schema for schema in committed_schemas() if schema.type != "PlanProposed")
    stray = Schema(99, "NeverHeardOf", 1, json.dumps(record(A, name="NeverHeardOf")))
    found = [str(one) for one in drifted((*kept, stray))]
    assert found == [
        "PlanProposed v1: the class has no schema file: run make schemas",
        "NeverHeardOf v1: the schema file has no class: old events could not be read",
    ]


def test_a_released_schema_never_changes(tmp_path: Path) -> None:
    folder = Path(contracts.schemas.__file__).parent
    previous = tmp_path / "schemas"
    shutil.copytree(folder, previous)
    assert list(changed_since(previous, committed_schemas(), Topology())) == []
    rows = json.loads((previous / "ids.json").read_text())
    rows[0]["sha256"] = "0" * 64
    rows[1]["id"] = 77
    rows.append({"id": 200, "type": "Gone", "version": 1, "sha256": ""})
    (previous / "ids.json").write_text(json.dumps(rows))
    found = "\n".join(str(one) for one in changed_since(previous, committed_schemas(), Topology()))
    assert "TaskSubmitted v1: was changed after its release" in found
    assert "TaskCancelRequested v1: had id 77 and has 2" in found
    assert "Gone v1: was released and is gone" in found


FIELD = st.fixed_dictionaries(
    {"name": st.sampled_from("abcd"), "type": st.sampled_from(["string", "int", "long", "double", "boolean"])},
    optional={"default": st.none()},
)

FIELDS = st.lists(FIELD, unique_by=lambda field: str(field["name"]))


@given(FIELDS, FIELDS)
def test_what_is_called_readable_is_readable(reader: list[dict[str, Any]], writer: list[dict[str, Any]]) -> None:
    """fastavro is the judge: whatever we pass, it reads."""
    zero: dict[str, Any] = {"string": "", "int": 0, "long": 0, "double": 0.0, "boolean": False}
    for field in (*reader, *writer):
        if "default" in field:
            field["default"] = zero[str(field["type"])]
    new, old = record(*reader), record(*writer)
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(old), {f["name"]: zero[str(f["type"])] for f in writer})
    buffer.seek(0)
    try:
        fastavro.schemaless_reader(buffer, fastavro.parse_schema(old), fastavro.parse_schema(new))
        readable = True
    except Exception:
        readable = False
    assert (list(cannot_read(new, old)) == []) == readable


def test_none_of_our_schemas_can_overrun_a_decoder() -> None:
    assert {schema.type: hazard(schema.text) for schema in committed_schemas() if hazard(schema.text)} == {}


LINK = {"type": "record", "name": "Link", "fields": [{"name": "next", "type": ["null", "Link"]}]}
NOTHING = {"type": "record", "name": "Nothing", "fields": []}
DEEP: object = "string"
for _ in range(100):
    DEEP = {"type": "array", "items": DEEP}


@pytest.mark.parametrize(
    ("schema", "danger"),
    [
        ("string", ""),
        ({"type": "array", "items": "string"}, ""),
        ({"type": "array", "items": "null"}, "no bytes"),
        ({"type": {"type": "array", "items": {"type": "null"}}}, "no bytes"),
        ({"type": "array", "items": NOTHING}, "no bytes"),
        ({"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}, "no bytes"),
        ({"type": "array", "items": {"type": "record", "name": "R", "fields": [{"name": "x", "type": NOTHING}]}}, "no"),
        ([{"type": "fixed", "name": "a.F", "size": 0}, {"type": "fixed", "name": "b.F", "size": 1}], ""),
        ({"type": "map", "values": "null"}, ""),  # each of its keys takes a byte
        (LINK, "recursive: Link holds itself"),
        ({"type": "record", "name": "Out", "fields": [{"name": "in", "type": LINK}]}, "recursive"),
        (DEEP, "deeper than 64 levels"),
        (7, "is no schema"),
        ({}, "type"),
    ],
)
def test_a_dangerous_schema_of_others_is_not_decoded_by(schema: object, danger: str) -> None:
    found = hazard(json.dumps(schema))
    assert (danger in found) if danger else found == ""
