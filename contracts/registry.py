"""Schema ids: which integer stands for which event version on the wire.

`CommittedIds` reads the table that ships with the code (`schemas/ids.json`, append only) and takes in what further
agents registered in the store: these ids stand in all that is stored. `WireIds` is the port to the ids that stand on
topics: the same ones, or a schema registry's (`contracts.wire_ids`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Protocol

from contracts.errors import Corrupt, Skew, Usage

FURTHER_ID_FIRST = 100_000
"""Ids from here on belong to further agents' schemas, given out by the store."""


@dataclass(frozen=True, slots=True)
class Schema:
    """One event version on the wire: its id, name, version and Avro schema as JSON text."""

    id: int
    type: str
    version: int
    text: str

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.text)


def fingerprint(text: str) -> str:
    """sha256 of the schema as canonical JSON (keys sorted, no blanks)."""
    canonical = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


class SchemaIds(Protocol):
    """Where ids come from."""

    def by_id(self, schema_id: int) -> Schema:
        """The writer schema of an id; raises Skew where it is unknown (a newer release may know it)."""
        ...

    def by_type(self, type_: str, version: int) -> Schema:
        """The schema that this build writes for a type and version; raises Usage where there is none."""
        ...

    def add(self, schema: Schema) -> None:
        """Take in a further agent's schema under the id that the store gave it."""
        ...

    def all(self) -> tuple[Schema, ...]:
        """Every schema known here, by id."""
        ...


class CommittedIds:
    """The committed table, plus further agents' schemas as the store lists them."""

    def __init__(self, schemas: tuple[Schema, ...] | None = None) -> None:
        known = committed_schemas() if schemas is None else schemas
        self._by_id = {schema.id: schema for schema in known}
        self._by_type = {(schema.type, schema.version): schema for schema in known}

    def by_id(self, schema_id: int) -> Schema:
        try:
            return self._by_id[schema_id]
        except KeyError:
            raise Skew(f"schema id {schema_id} is unknown to this build", hint="upgrade this agent") from None

    def by_type(self, type_: str, version: int) -> Schema:
        try:
            return self._by_type[type_, version]
        except KeyError:
            raise Usage(f"no schema is registered for {type_} v{version}", hint="run make schemas") from None

    def add(self, schema: Schema) -> None:
        known = self._by_id.get(schema.id)
        if known is not None and known.fingerprint != schema.fingerprint:
            raise Corrupt(f"schema id {schema.id} stands for two different schemas")
        self._by_id[schema.id] = schema
        self._by_type[schema.type, schema.version] = schema

    def all(self) -> tuple[Schema, ...]:
        return tuple(self._by_id[key] for key in sorted(self._by_id))


class WireIds(Protocol):
    """Between the ids in the store and those on topics. A value is a framed Avro body: 0x00, the id, the record."""

    async def prepare(self, schema_ids: Collection[int] | None = None) -> None:
        """Learn what stands on topics for these ids, default all known ones; raises Unavailable or Refused."""
        ...

    def outward(self, value: bytes) -> bytes:
        """A stored value as it travels; raises Unavailable where its id was not prepared."""
        ...

    async def inward(self, value: bytes) -> bytes:
        """A value from a topic as it is stored; raises Skew for an id that stands for nothing known here, Unavailable
        where nobody can be asked. Bytes without a frame stay as they are: the codec says what is wrong with them.
        """
        ...

    def knows(self, value: bytes) -> bool:
        """Whether `inward` can answer without asking anybody."""
        ...

    async def text(self, schema_id: int) -> str | None:
        """The schema of an id that stands on a topic, as JSON text, where somebody can be asked and knows it."""
        ...

    async def close(self) -> None:
        """Let go of connections; safe to call twice."""
        ...


class SameIds:
    """Without a schema registry the committed ids travel."""

    async def prepare(self, schema_ids: Collection[int] | None = None) -> None:
        """Nothing is to be learnt."""

    def outward(self, value: bytes) -> bytes:
        return value

    async def inward(self, value: bytes) -> bytes:
        return value

    def knows(self, value: bytes) -> bool:  # noqa: ARG002  there is nobody to ask
        return True

    async def text(self, schema_id: int) -> str | None:  # noqa: ARG002  there is nobody to ask
        return None

    async def close(self) -> None:
        """Nothing is held."""


@cache
def committed_schemas() -> tuple[Schema, ...]:
    """The schemas that ship with the code, read once; raises Corrupt where a file was edited after its release."""
    folder = resources.files("contracts.schemas")
    rows: list[dict[str, Any]] = json.loads(folder.joinpath("ids.json").read_text())
    found = []
    for row in rows:
        text = folder.joinpath(row["type"], f"v{row['version']}.avsc").read_text()
        schema = Schema(row["id"], row["type"], row["version"], text)
        if schema.fingerprint != row["sha256"]:
            raise Corrupt(f"{row['type']}/v{row['version']}.avsc differs from what ids.json records for it")
        found.append(schema)
    return tuple(found)
