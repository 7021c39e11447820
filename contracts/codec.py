"""Events to bytes and back: Avro payloads in the Confluent wire format, CloudEvents binary-mode headers.

The only importer of fastavro. Decoding is defensive: a size cap first, only registered writer schemas, all bytes
consumed. The envelope is read from the headers alone; the payload is decoded later, once, where it is needed.
"""

from __future__ import annotations

import io
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any, Final, cast

from pydantic import ValidationError

from contracts import ids
from contracts.envelope import Envelope, Event, Trust, open_trace
from contracts.errors import GavotteError, Skew, TooLarge, Undecodable
from contracts.events import Payload, latest_version, payload_class
from contracts.foreign import hazard
from contracts.registry import SameIds, Schema, SchemaIds, WireIds
from contracts.topology import TASK_EVENTS

VALUE_BYTES_MAX: Final = 1024 * 1024
HEADERS_BYTES_MAX: Final = 16 * 1024
CONTENT_TYPE: Final = b"application/avro"
JSON_TYPE: Final = b"application/json"
TYPE_PATTERN: Final = re.compile(r"gavotte\.([A-Z][A-Za-z0-9]{0,63})\.v([1-9][0-9]{0,3})")
TRACEPARENT_PATTERN: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
_FRAME: Final = struct.Struct(">bI")

Headers = tuple[tuple[str, bytes], ...]
Plain = dict[str, Any]

UPCASTERS: dict[tuple[str, int], Callable[[Plain], Plain]] = {}
"""(type, version) -> fields of that version as fields of the next one; empty while every event is at version 1."""


@dataclass(frozen=True, slots=True)
class Wire:
    """An event as it travels: `key` is the task id, `value` the framed Avro body."""

    key: bytes
    headers: Headers
    value: bytes


def iso(time_us: int) -> str:
    """RFC 3339 in UTC with microseconds."""
    seconds, microseconds = divmod(time_us, 1_000_000)
    return f"{_iso_seconds(seconds)}.{microseconds:06}Z" if microseconds else f"{_iso_seconds(seconds)}Z"


@lru_cache(maxsize=1024)
def _iso_seconds(seconds: int) -> str:
    return (EPOCH + timedelta(seconds=seconds)).isoformat().removesuffix("+00:00")


def from_iso(text: str) -> int:
    """Microseconds since the epoch of an RFC 3339 time; raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"time {text!r} has no offset")
    return (moment - EPOCH) // MICROSECOND


def headers_of(envelope: Envelope) -> Headers:
    """The CloudEvents headers of an envelope, all UTF-8 text."""
    found = [
        ("ce_specversion", b"1.0"),
        ("ce_id", envelope.id.encode()),
        ("ce_source", envelope.source.encode()),
        ("ce_type", f"gavotte.{envelope.type}.v{envelope.version}".encode()),
        ("ce_time", iso(envelope.time_us).encode()),
        ("ce_subject", envelope.task_id.encode()),
        ("ce_dataschema", f"urn:gavotte:schema:{envelope.type}:{envelope.version}".encode()),
        ("ce_partitionkey", envelope.task_id.encode()),
        ("ce_correlationid", envelope.correlation_id.encode()),
        ("ce_tenant", envelope.tenant.encode()),
        ("ce_trust", envelope.trust.encode()),
        ("content-type", CONTENT_TYPE),
    ]
    if envelope.causation_id is not None:
        found.append(("ce_causationid", envelope.causation_id.encode()))
    if envelope.traceparent:
        found.append(("traceparent", envelope.traceparent.encode()))
    if envelope.tracestate:
        found.append(("tracestate", envelope.tracestate.encode()))
    return tuple(found)


def type_in(headers: Iterable[tuple[str, bytes]]) -> str | None:
    """The event's type alone, where the headers name one as they should."""
    for name, raw in headers:
        if name == "ce_type":
            named = _type_named(raw.decode("ascii", "replace"))
            return named[0] if named is not None else None
    return None


@lru_cache(maxsize=256)
def _type_named(text: str) -> tuple[str, int] | None:
    """Type and version as `ce_type` names them, where it does."""
    named = TYPE_PATTERN.fullmatch(text)
    return (named[1], int(named[2])) if named is not None else None


def read_envelope(key: bytes | None, headers: Iterable[tuple[str, bytes]]) -> Envelope:
    """The envelope from a record's key and headers; raises Undecodable naming the header that is off.

    A submission from a plain producer may leave out correlation, trace and time: they are made up from its id.
    """
    table = _table(tuple(headers))
    if table.get("ce_specversion", "1.0") != "1.0":
        raise Undecodable(f"ce_specversion {table['ce_specversion']!r} is not 1.0")
    named = _type_named(_wanted(table, "ce_type"))
    if named is None:
        raise Undecodable(f"ce_type {table['ce_type']!r} is not gavotte.<Event>.v<n>")
    event_id = _uuid(table, "ce_id")
    task_id = _uuid(table, "ce_subject") if "ce_subject" in table else _key_text(key)
    if not ids.is_uuid(task_id) or _key_text(key) != task_id:
        raise Undecodable(f"the key {_key_text(key)!r} is not the task id {task_id!r}")
    correlation_id = (
        _uuid(table, "ce_correlationid")
        if "ce_correlationid" in table
        else ids.derived("correlation", task_id, event_id)
    )
    causation_id = _uuid(table, "ce_causationid") if "ce_causationid" in table else None
    if causation_id == event_id:
        raise Undecodable(f"the event {event_id} names itself as its cause")
    trace = table.get("traceparent", "")
    return Envelope(
        id=event_id,
        type=named[0],
        version=named[1],
        task_id=task_id,
        correlation_id=correlation_id,
        causation_id=causation_id,
        time_us=_time(table),
        source=_wanted(table, "ce_source"),
        traceparent=trace if TRACEPARENT_PATTERN.fullmatch(trace) else open_trace(correlation_id),
        tracestate=table.get("tracestate", "")[:512],
        tenant=table.get("ce_tenant", "default")[:128],
        trust=_trust(table),
    )


def _table(headers: Headers) -> dict[str, str]:
    """Headers as text, by their names. Raises TooLarge, and Undecodable naming one that is off."""
    try:
        table = {name: raw.decode() for name, raw in headers}
    except (UnicodeDecodeError, AttributeError):
        name = next(name for name, raw in headers if not _is_text(raw))
        raise Undecodable(f"header {name!r} is not UTF-8 text") from None
    if sum(len(name) + len(raw) for name, raw in headers) > HEADERS_BYTES_MAX:
        raise TooLarge(f"headers exceed {HEADERS_BYTES_MAX} bytes")
    if len(table) < len(headers):
        for name, count in Counter(name for name, _ in headers).items():
            if count > 1 and name.startswith("ce_"):
                raise Undecodable(f"header {name!r} stands there twice")
    return table


def _is_text(raw: object) -> bool:
    try:
        str(raw, "utf-8")  # type: ignore[call-overload]  # whatever it is, that is the question
    except (UnicodeDecodeError, TypeError):
        return False
    return True


def _wanted(table: Mapping[str, str], name: str) -> str:
    try:
        return table[name]
    except KeyError:
        raise Undecodable(f"header {name} is missing", hint="docs/events.md lists the headers") from None


def _uuid(table: Mapping[str, str], name: str) -> str:
    text = _wanted(table, name)
    if not ids.is_uuid(text):
        raise Undecodable(f"header {name} is {text[:80]!r}, not a uuid in canonical lower case")
    return text


def _key_text(key: bytes | None) -> str:
    return (key or b"").decode("utf-8", "replace")


def _time(table: Mapping[str, str]) -> int:
    text = table.get("ce_time")
    if text is None:
        return ids.now_us()
    try:
        return from_iso(text)
    except ValueError:
        raise Undecodable(f"header ce_time is {text[:80]!r}, not an RFC 3339 time") from None


def _trust(table: Mapping[str, str]) -> Trust:
    said = table.get("ce_trust", "untrusted")
    if said not in {"operator", "system", "untrusted"}:
        raise Undecodable(f"header ce_trust is {said[:80]!r}")
    return cast("Trust", said)


def framed_id(value: bytes) -> int | None:
    """The schema id of a value in the Confluent wire format, None for bytes that are not in it."""
    return _FRAME.unpack_from(value)[1] if len(value) >= _FRAME.size and value[0] == 0 else None


def reframed(value: bytes, schema_id: int) -> bytes:
    """The same record under another schema id."""
    return _FRAME.pack(0, schema_id) + value[_FRAME.size :]


def canonical_form(text: str) -> str:
    """A schema without what does not change its bytes (Avro's Parsing Canonical Form); raises ValueError for no schema."""
    import json

    import fastavro.schema

    try:
        return fastavro.schema.to_parsing_canonical_form(json.loads(text))
    except Exception as error:  # noqa: BLE001  fastavro raises many kinds for JSON that is not a schema
        raise ValueError(f"not an Avro schema: {type(error).__name__}") from None


class Codec:
    """Encodes and decodes payloads against the schema ids of one process. Parsed schemas are cached.

    Whoever takes a value from a topic passes it through `inward` first, whoever puts one there through `wire.outward`.
    """

    def __init__(self, schema_ids: SchemaIds, wire: WireIds | None = None) -> None:
        self.schema_ids = schema_ids
        self.wire: WireIds = wire or SameIds()
        self._parsed: dict[int, Any] = {}
        self._firsts: dict[tuple[int | None, str, int, str], Any] = {}
        self._writers: dict[tuple[str, int], tuple[bytes, Any]] = {}

    def encode(self, event: Event) -> Wire:
        """The event as key, headers and value; raises TooLarge, or ValueError for an event that is not sealed."""
        envelope = event.envelope
        if not envelope.id or not envelope.source:
            raise ValueError(f"{envelope.type} is not sealed")
        return Wire(envelope.task_id.encode(), headers_of(envelope), self.encode_payload(event.payload))

    def encode_payload(self, payload: Payload) -> bytes:
        """The framed Avro body: 0x00, the schema id in 4 bytes, big endian, then the record."""
        import fastavro

        frame, schema = self._writer(payload.event_type(), payload.event_version())
        out = io.BytesIO()
        out.write(frame)
        fastavro.schemaless_writer(out, schema, payload.model_dump())
        value = out.getvalue()
        if len(value) > VALUE_BYTES_MAX:
            raise TooLarge(
                f"{payload.event_type()} takes {len(value)} bytes, the cap is {VALUE_BYTES_MAX}",
                hint="put large texts into the store and send their digest",
            )
        return value

    async def inward(self, envelope: Envelope | None, headers: Headers, value: bytes) -> bytes:
        """A value from a topic as it is stored: under our schema id, and in Avro where a plain producer wrote JSON.

        Raises what `WireIds.inward` raises, TooLarge and Undecodable.
        """
        if envelope is not None and envelope.type in TASK_EVENTS and _is_json(headers):
            return self._from_json(envelope, value)
        return await self.wire.inward(value)

    def _from_json(self, envelope: Envelope, value: bytes) -> bytes:
        """The framed Avro body of a payload in JSON (`content-type: application/json`): submissions alone may be."""
        if len(value) > VALUE_BYTES_MAX:
            raise TooLarge(f"value of {len(value)} bytes, the cap is {VALUE_BYTES_MAX}")
        cls = payload_class(envelope.type, envelope.version)
        if cls is None:
            raise Skew(f"this build knows no event {envelope.type} v{envelope.version}", hint="upgrade this agent")
        try:
            return self.encode_payload(cls.model_validate_json(value))
        except ValidationError as error:
            raise Undecodable(f"{envelope.type} v{envelope.version} in JSON: {_first(error)}") from None
        except (ValueError, OverflowError) as error:  # what JSON may hold and Avro may not: huge integers
            raise Undecodable(f"{envelope.type} v{envelope.version} in JSON: {error}") from None

    def decode(self, envelope: Envelope, value: bytes) -> Event:
        """The event of an envelope and its value, upcast to the newest version known here.

        Raises TooLarge or Undecodable for bytes that will never be an event, Skew where a newer release may read them.
        """
        return Event(envelope, self.decode_payload(envelope.type, envelope.version, value))

    def recorded(self, envelope: Envelope, value: bytes) -> Event:
        """The event of a value that comes from the store, where it was decoded before it was recorded.

        So its payload is decoded only when somebody asks for it. Raises Skew and Undecodable for what this build does not
        know, as `decode` does.
        """
        self._known(envelope.type, envelope.version, value)
        return Event(envelope, decode=partial(self.decode_payload, envelope.type, envelope.version, value))

    def _schema_of(self, value: bytes) -> Schema:
        """The writer's schema; raises TooLarge or Undecodable."""
        if len(value) > VALUE_BYTES_MAX:
            raise TooLarge(f"value of {len(value)} bytes, the cap is {VALUE_BYTES_MAX}")
        schema_id = framed_id(value)
        if schema_id is None:
            raise Undecodable("the value is not in the Confluent wire format (0x00, schema id, Avro)")
        return self.schema_ids.by_id(schema_id)

    def _known(self, type_: str, version: int, value: bytes) -> tuple[Schema, int]:
        """The writer's schema, as the envelope names it, and the newest version here. Raises Undecodable or Skew."""
        schema, latest = self._schema_of(value), latest_version(type_)
        if schema.type != type_ or schema.version != version:
            raise Undecodable(f"the headers say {type_} v{version}, the schema id says {schema.type} v{schema.version}")
        if latest is None or version > latest:
            raise Skew(f"this build knows no event {type_} v{version}", hint="upgrade this agent")
        return schema, latest

    def decode_payload(self, type_: str, version: int, value: bytes) -> Payload:
        """What a value states whose envelope names this type and version; raises likewise."""
        schema, latest = self._known(type_, version, value)
        fields = self._decoded(schema, value)
        while version < latest:
            fields = UPCASTERS[type_, version](fields)
            version += 1
        cls = payload_class(type_, version)
        if cls is None:
            raise Skew(f"this build knows no event {type_} v{version}", hint="upgrade this agent")
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise Undecodable(f"{type_} v{version}: {_first(error)}") from None

    def decode_first(self, type_: str, version: int, value: bytes, last: str) -> Any:
        """The fields of a recorded value, by their names, up to this one in the order of the schema.

        They were validated before they were recorded, and are not again: records are dicts here, arrays are lists. A
        value of an older version is decoded whole.
        """
        schema_id = framed_id(value)
        known = self._firsts.get((schema_id, type_, version, last))
        if known is None:
            schema = None if schema_id is None else self.schema_ids.by_id(schema_id)
            if schema is None or (schema.type, schema.version, latest_version(type_)) != (type_, version, version):
                return self.decode_payload(type_, version, value)  # which says what is wrong, if anything is
            known = self._firsts[schema_id, type_, version, last] = _up_to(schema, last)
        return SimpleNamespace(**_fields(value, known, type_, whole=False))

    def decode_plain(self, value: bytes) -> tuple[str, int, Plain]:
        """Type, version and fields by the writer's schema alone: also for events whose class is not known here."""
        schema = self._schema_of(value)
        return schema.type, schema.version, self._decoded(schema, value)

    def _decoded(self, schema: Schema, value: bytes) -> Plain:
        return _fields(value, self._schema(schema.id, schema.text), f"{schema.type} v{schema.version}")

    def decode_foreign(self, value: bytes, text: str) -> Plain:
        """The fields of a value by another writer's schema, for people to look at; raises TooLarge or Undecodable."""
        import json

        import fastavro

        if len(value) > VALUE_BYTES_MAX:
            raise TooLarge(f"value of {len(value)} bytes, the cap is {VALUE_BYTES_MAX}")
        if danger := hazard(text):
            raise Undecodable(f"the registry's schema is not decoded by: {danger}")
        try:
            parsed = fastavro.parse_schema(json.loads(text))
        except Exception as error:  # noqa: BLE001  fastavro raises many kinds for JSON that is not a schema
            raise Undecodable(f"the registry's schema is none: {type(error).__name__}") from None
        return _fields(value, parsed, "record of the registry's schema")

    def _writer(self, type_: str, version: int) -> tuple[bytes, Any]:
        found = self._writers.get((type_, version))
        if found is None:
            schema = self.schema_ids.by_type(type_, version)
            found = (_FRAME.pack(0, schema.id), self._schema(schema.id, schema.text))
            self._writers[type_, version] = found
        return found

    def _schema(self, schema_id: int, text: str) -> Any:
        parsed = self._parsed.get(schema_id)
        if parsed is None:
            import json

            import fastavro

            parsed = fastavro.parse_schema(json.loads(text))
            self._parsed[schema_id] = parsed
        return parsed


def _is_json(headers: Headers) -> bool:
    return any(name == "content-type" and value.split(b";")[0].strip() == JSON_TYPE for name, value in headers)


def _up_to(schema: Schema, last: str) -> Any:
    """The schema without the fields behind this one: what a reader need not look at."""
    import json

    import fastavro

    record = json.loads(schema.text)
    names = [field["name"] for field in record["fields"]]
    return fastavro.parse_schema(record | {"fields": record["fields"][: names.index(last) + 1]})


def _fields(value: bytes, parsed: Any, name: str, *, whole: bool = True) -> Plain:
    """The record behind the frame; all bytes must be its own where it is the `whole` one."""
    import fastavro

    body = io.BytesIO(value)
    body.seek(_FRAME.size)
    try:
        fields = fastavro.schemaless_reader(body, parsed, None)
    except (GavotteError, MemoryError, RecursionError):
        raise
    except Exception as error:  # noqa: BLE001  fastavro raises many kinds for bytes that are not a record
        raise Undecodable(f"the value is no {name}: {type(error).__name__}") from None
    if whole and body.tell() != len(value):
        raise Undecodable(f"{len(value) - body.tell()} bytes are left over after {name}")
    if not isinstance(fields, dict):
        raise Undecodable(f"the value is no record but {type(fields).__name__}")
    return fields


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where or 'payload'}: {problem['msg']}"
