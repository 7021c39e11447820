"""What is on a topic, decoded as far as it can be: for people who ask what travelled, not what is recorded."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from contracts import ids
from contracts.codec import Codec, framed_id, from_iso, iso, read_envelope
from contracts.errors import GavotteError, Retryable, Skew, Undecodable, Usage

if TYPE_CHECKING:
    from bus.dead_letters import Letter
    from bus.port import Bus, Headers, Record
    from contracts.envelope import Envelope

log = logging.getLogger(__name__)

PAGE: Final = 1000
PAUSE_SECONDS: Final = 0.2
PAUSE_SECONDS_MAX: Final = 5.0
UNITS: Final = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True)
class Carried:
    """A record as it lies on a topic. What could not be read is None, and `problem` says why."""

    record: Record
    envelope: Envelope | None
    letter: Letter | None
    payload: Any
    """The event's class where this build knows it, else the plain fields, else None."""
    problem: str

    @property
    def task_id(self) -> str:
        return self.envelope.task_id if self.envelope else self.record.key.decode("utf-8", "replace")

    @property
    def schema_id(self) -> int | None:
        return framed_id(self.record.value)

    def fields(self) -> dict[str, Any]:
        """The record for programs: names are stable, times are microseconds, bytes that nobody could read are base64."""
        record, envelope, letter = self.record, self.envelope, self.letter
        dumped = self.payload.model_dump(mode="json") if hasattr(self.payload, "model_dump") else self.payload
        found: dict[str, Any] = {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "ts": iso(record.timestamp_us),
            "timestamp_us": record.timestamp_us,
            "key": record.key.decode("utf-8", "backslashreplace"),
            "headers": {name: value.decode("utf-8", "backslashreplace") for name, value in record.headers},
            "task_id": self.task_id,
            "schema_id": self.schema_id,
            "size_bytes": len(record.value),
            "payload": dumped,
            "problem": self.problem or None,
        }
        if envelope is not None:
            found |= {
                "event_id": envelope.id,
                "type": envelope.type,
                "version": envelope.version,
                "source": envelope.source,
                "correlation_id": envelope.correlation_id,
                "causation_id": envelope.causation_id,
                "time_us": envelope.time_us,
            }
        if letter is not None:
            found["letter"] = {
                "group": letter.group,
                "code": letter.code,
                "message": letter.message,
                "attempt": letter.attempt,
                "topic": letter.topic,
                "partition": letter.partition,
                "offset": letter.offset,
            }
        if dumped is None:
            found["value_base64"] = base64.b64encode(record.value).decode()
        return found


async def carried(bus: Bus, topic: str, since_us: int = 0, *, follow: bool = False) -> AsyncGenerator[Record, None]:
    """The records of a topic stored since then, in the order of their partitions; with `follow` for ever.

    Following goes on while the bus is away. A page is in the order of its times.
    """
    offsets: dict[int, int] = {}
    pause_seconds = PAUSE_SECONDS
    while True:
        try:
            page = await bus.read(topic, after=offsets, records_max=PAGE)
        except Retryable as error:
            if not follow:
                raise
            log.warning("reading %s waits for the bus: %s", topic, error)
            page = []
        for record in sorted(page, key=lambda each: (each.timestamp_us, each.partition, each.offset)):
            offsets[record.partition] = max(offsets.get(record.partition, 0), record.offset + 1)
            if record.timestamp_us >= since_us:
                yield record
        if not page and not follow:
            return
        pause_seconds = PAUSE_SECONDS if page else min(pause_seconds * 1.5, PAUSE_SECONDS_MAX)
        await asyncio.sleep(0 if page else pause_seconds)


async def opened(codec: Codec, record: Record) -> Carried:
    """A record with all that can be read of it; nothing on a topic makes this fail."""
    letter = letter_of(record)
    headers = record.headers if letter is None else letter.headers
    envelope, problems = None, []
    try:
        envelope = read_envelope(record.key, headers)
    except GavotteError as error:
        problems.append(error.message)
    payload = None
    try:
        payload, other = await payload_of(codec, envelope, headers, record.value)
        if other:
            problems.append(other)
    except GavotteError as error:
        problems.append(error.message)
    return Carried(record, envelope, letter, payload, "; ".join(problems))


async def payload_of(codec: Codec, envelope: Envelope | None, headers: Headers, value: bytes) -> tuple[Any, str]:
    """The payload, by our classes, by the schemas known here, or by what a registry has of the writer's.

    Beside it what is odd about it.
    """
    try:
        stored = await codec.inward(envelope, headers, value)
        type_, version, fields = codec.decode_plain(stored)
    except Skew:
        number = framed_id(value)
        text = None if number is None else await codec.wire.text(number)
        if text is None:
            raise
        return codec.decode_foreign(value, text), ""
    if envelope is None:
        return fields, ""
    if (envelope.type, envelope.version) != (type_, version):
        said = f"{envelope.type} v{envelope.version}"
        return fields, f"the headers say {said}, the schema id says {type_} v{version}: is registry.url right?"
    try:
        return codec.decode(envelope, stored).payload, ""
    except (Skew, Undecodable):  # a class is missing here, or stricter than the schema: the fields are what travelled
        return fields, ""


def letter_of(record: Record) -> Letter | None:
    """What a dead letter says of its failure; None where the record is none."""
    from bus.dead_letters import PREFIX, explain

    if not any(name.startswith(PREFIX) for name, _ in record.headers):
        return None
    try:
        return explain(record)
    except Undecodable:
        return None


def since(text: str) -> int:
    """Microseconds since the epoch of `30min`, `2h`, `7d` (ago), of a date, or of an RFC 3339 time; raises Usage."""
    ago = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)", text)
    if ago is not None:
        return ids.now_us() - int(float(ago[1]) * UNITS[ago[2]] * 1_000_000)
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000
        return from_iso(text)
    except ValueError:
        raise Usage(
            f"--since {text!r} is no time", hint="30min, 2h, 7d, 2026-11-21 (UTC) or 2026-11-21T08:00:00Z"
        ) from None
