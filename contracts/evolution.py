"""How events may change: compatibility of Avro schemas in both directions, and who is hit where it is broken.

Inside a major every version of an event must read every other (FULL_TRANSITIVE): old agents meet new events while a
rollout is under way, and new agents read the whole log on replay. A schema file never changes once it is released.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from contracts.errors import Usage
from contracts.events import EVENTS
from contracts.registry import Schema, committed_schemas, fingerprint
from contracts.topology import Topology

PROMOTIONS: Final[dict[str, frozenset[str]]] = {
    "long": frozenset({"int"}),
    "float": frozenset({"int", "long"}),
    "double": frozenset({"int", "long", "float"}),
    "string": frozenset({"bytes"}),
    "bytes": frozenset({"string"}),
}
"""reader type -> writer types that Avro lets it read."""

Avro = str | list[Any] | dict[str, Any]


@dataclass(frozen=True, slots=True)
class Break:
    """One thing that is wrong with an event's schemas, and which roles it would hit."""

    event: str
    problem: str
    hits: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.event}: {self.problem}" + (f" (hits {', '.join(self.hits)})" if self.hits else "")


def check(previous: Path | None = None, topology: Topology | None = None) -> list[Break]:
    """Classes against files, every version against every other, and all of it against a former release's folder.

    `previous` is the `contracts/schemas` folder of the last release. Nothing wrong gives an empty list.
    """
    schemas = committed_schemas()
    table = topology or Topology()
    found = [*drifted(schemas), *incompatible(schemas, table)]
    if previous is not None:
        found += changed_since(previous, schemas, table)
    return found


def drifted(schemas: tuple[Schema, ...]) -> Iterator[Break]:
    """Where a class and its file disagree, or one of them is missing."""
    from contracts.schemas.generate import avro_schema

    files = {(schema.type, schema.version): schema for schema in schemas}
    for cls in EVENTS:
        key = (cls.event_type(), cls.event_version())
        schema = files.pop(key, None)
        if schema is None:
            yield Break(f"{key[0]} v{key[1]}", "the class has no schema file: run make schemas")
        elif schema.fingerprint != fingerprint(avro_schema(cls)):
            yield Break(
                f"{key[0]} v{key[1]}", "the class and its schema file differ: run make schemas, or make a new version"
            )
    known = {cls.event_type() for cls in EVENTS}
    for type_, version in files:
        if type_ not in known:
            yield Break(f"{type_} v{version}", "the schema file has no class: old events could not be read")


def incompatible(schemas: tuple[Schema, ...], topology: Topology) -> Iterator[Break]:
    """Pairs of versions of one event that cannot read each other."""
    for newer in schemas:
        for older in (one for one in schemas if one.type == newer.type and one.version < newer.version):
            yield from between(older, newer, topology)


def between(older: Schema, newer: Schema, topology: Topology) -> Iterator[Break]:
    """What breaks between two schemas of one event, in either direction."""
    hits = topology.consumers(newer.type)
    old, new = json.loads(older.text), json.loads(newer.text)
    for problem in cannot_read(new, old):
        yield Break(f"{newer.type} v{newer.version}", f"cannot read v{older.version}: {problem}", hits)
    for problem in cannot_read(old, new):
        yield Break(
            f"{newer.type} v{newer.version}", f"cannot be read by agents that know v{older.version}: {problem}", hits
        )


def changed_since(previous: Path, schemas: tuple[Schema, ...], topology: Topology) -> Iterator[Break]:
    """What differs from a former release's folder of schemas: nothing there may change, move or go."""
    table = previous / "ids.json"
    if not table.is_file():
        raise Usage(
            f"{previous} is no folder of schemas: it has no ids.json", hint="name contracts/schemas of a release"
        )
    now = {(schema.type, schema.version): schema for schema in schemas}
    for row in json.loads(table.read_text()):
        name, schema = f"{row['type']} v{row['version']}", now.get((row["type"], row["version"]))
        hits = topology.consumers(row["type"])
        if schema is None:
            yield Break(name, "was released and is gone", hits)
        elif schema.id != row["id"]:
            yield Break(name, f"had id {row['id']} and has {schema.id}: ids are for ever", hits)
        elif schema.fingerprint != row["sha256"]:
            text = (previous / row["type"] / f"v{row['version']}.avsc").read_text()
            yield Break(name, "was changed after its release: make a new version", hits)
            yield from between(Schema(row["id"], row["type"], row["version"], text), schema, topology)


def cannot_read(reader: Avro, writer: Avro, at: str = "") -> Iterator[str]:
    """Why data of the writer's schema cannot be read by the reader's, with the path of each break (Avro 1.12 rules)."""
    yield from _Resolution(reader, writer).breaks(reader, writer, at)


class _Resolution:
    """Schema resolution over two schemas, with the named types of each."""

    def __init__(self, reader: Avro, writer: Avro) -> None:
        self._reader_names = dict(_named(reader))
        self._writer_names = dict(_named(writer))

    def breaks(self, reader: Avro, writer: Avro, at: str) -> Iterator[str]:
        reader, writer = _resolved(reader, self._reader_names), _resolved(writer, self._writer_names)
        if isinstance(writer, list):
            for branch in writer:
                yield from self.breaks(reader, branch, at)
        elif isinstance(reader, list):
            if not any(self._reads(branch, writer) for branch in reader):
                yield f"{at or '/'}: no branch of the union takes {_kind(writer)}"
        else:
            yield from self._same_shape(reader, writer, at)

    def _reads(self, reader: Avro, writer: Avro) -> bool:
        return next(self.breaks(reader, writer, ""), None) is None

    def _same_shape(self, reader: Avro, writer: Avro, at: str) -> Iterator[str]:
        want, have = _kind(reader), _kind(writer)
        if want != have:
            if have not in PROMOTIONS.get(want, ()):
                yield f"{at or '/'}: {have} is no {want}"
        elif isinstance(reader, dict) and isinstance(writer, dict):
            yield from self._same_kind(want, reader, writer, at)

    def _same_kind(self, kind: str, reader: dict[str, Any], writer: dict[str, Any], at: str) -> Iterator[str]:
        if kind == "record":
            yield from self._record(reader, writer, at)
        elif kind == "enum":
            unknown = [symbol for symbol in writer["symbols"] if symbol not in reader["symbols"]]
            if unknown and "default" not in reader:
                yield f"{at or '/'}: the symbols {', '.join(unknown)} are unknown and there is no default"
        elif kind in {"array", "map"}:
            inner = "items" if kind == "array" else "values"
            yield from self.breaks(reader[inner], writer[inner], f"{at}/{inner}")
        elif kind == "fixed" and reader["size"] != writer["size"]:
            yield f"{at or '/'}: sizes {writer['size']} and {reader['size']}"
        elif reader.get("logicalType") != writer.get("logicalType"):
            yield f"{at or '/'}: {writer.get('logicalType')} is no {reader.get('logicalType')}"

    def _record(self, reader: Mapping[str, Any], writer: Mapping[str, Any], at: str) -> Iterator[str]:
        if _short(reader) != _short(writer) and _short(writer) not in reader.get("aliases", ()):
            yield f"{at or '/'}: the record {_short(writer)} is called {_short(reader)}"
            return
        written = {field["name"]: field for field in writer["fields"]}
        for field in reader["fields"]:
            names = (field["name"], *field.get("aliases", ()))
            source = next((written[name] for name in names if name in written), None)
            if source is not None:
                yield from self.breaks(field["type"], source["type"], f"{at}/{field['name']}")
            elif "default" not in field:
                yield f"{at}/{field['name']}: is missing and has no default"


def _kind(schema: Avro) -> str:
    if isinstance(schema, list):
        return "union"
    return str(schema["type"]) if isinstance(schema, dict) else schema


def _short(schema: Mapping[str, Any]) -> str:
    return str(schema["name"]).rpartition(".")[2]


def _resolved(schema: Avro, names: Mapping[str, Avro]) -> Avro:
    """A named type for its name, and a plain type for `{"type": ...}` around it."""
    if isinstance(schema, dict) and isinstance(schema.get("type"), list | dict):
        return _resolved(schema["type"], names)
    if isinstance(schema, str):
        return names.get(schema.rpartition(".")[2], schema)
    return schema


def _named(schema: Avro) -> Iterator[tuple[str, Avro]]:
    """Every record, enum and fixed inside, by its short name."""
    if isinstance(schema, list):
        for branch in schema:
            yield from _named(branch)
    elif isinstance(schema, dict):
        if "name" in schema and "type" in schema and schema["type"] in ("record", "enum", "fixed"):
            yield _short(schema), schema
        for inner in (schema.get("type"), schema.get("items"), schema.get("values")):
            if isinstance(inner, list | dict):
                yield from _named(inner)
        for field in schema.get("fields", ()):
            yield from _named(field["type"])
