"""Reading what aiokafka cannot: one record with a header name that is not UTF-8 and it reads no further, for ever.

So a stranger could block a partition. Here the batch is asked for by itself and taken apart with patience: every
record comes out, the odd name with marks where its bytes were, and whoever handles it makes a letter of it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import TopicPartition

from bus.kafka import faults, wire
from bus.kafka.link import Link
from contracts.errors import Unavailable

BATCH: Final = struct.Struct(">qiibIhiqqqhii")
"""Base offset, length, epoch, magic, checksum, attributes, last delta, first and last time, producer (3), count."""
LENGTH_AT: Final = 12
"""The length counts what comes behind it."""
FETCH_BYTES: Final = 8 << 20
COMPRESSION, APPEND_TIME, CONTROL = 0x07, 0x08, 0x20
GZIP: Final = 1


@dataclass(frozen=True, slots=True)
class Raw:
    """A record with the names that aiokafka gives; the time is in milliseconds."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class Rescued:
    """The records of one batch from an offset on, and the offset behind it. `lost`: they could not be taken apart."""

    records: list[Raw]
    next: int
    lost: bool = False


async def rescue(link: Link, wanted: Mapping[TopicPartition, int]) -> dict[TopicPartition, Rescued]:
    """The next batch of each place, where there is one. Raises a GavotteError if a broker does not give it."""
    metadata = await link.metadata("the leaders of partitions")
    found: dict[TopicPartition, Rescued] = {}
    for place, offset in wanted.items():
        doing = f"reading {place.topic}"
        leader = metadata.leader_for_partition(place)
        topics = [(place.topic, [(place.partition, offset, FETCH_BYTES)])]
        answer = await link.ask(wire.FETCH, -1, 0, 1, FETCH_BYTES, 0, topics, doing=doing, node=leader)
        ((_, ((_, error, _, _, _, data),)),) = answer["topics"]
        if error:
            raise faults.of_code(error, link.cluster, doing)
        if data:
            found[place] = unpacked(place.partition, data, offset)
    return found


def unpacked(partition: int, data: bytes, offset: int) -> Rescued:
    """The first batch of what a broker gave; raises Unavailable where not even its outlines are there."""
    if len(data) < BATCH.size:
        raise Unavailable("a broker gave half a batch")
    base, length, _, magic, _, attributes, last_delta, first_ms, last_ms, *_, count = BATCH.unpack_from(data)
    following = base + last_delta + 1
    body = data[BATCH.size : LENGTH_AT + length]
    if attributes & CONTROL:
        return Rescued([], following)
    try:
        if magic != 2 or len(data) < LENGTH_AT + length:
            raise ValueError("not a whole batch of the present format")  # noqa: TRY301  one way out for all that fails
        plain = _decompressed(body, attributes & COMPRESSION)
        time_ms = last_ms if attributes & APPEND_TIME else None
        records = list(_records(partition, plain, count, base, first_ms, time_ms))
    except (ValueError, IndexError, struct.error, zlib.error):
        return Rescued([], following, lost=True)
    return Rescued([record for record in records if record.offset >= offset], following)


def _decompressed(body: bytes, compression: int) -> bytes:
    if compression == 0:
        return body
    if compression == GZIP:
        return zlib.decompress(body, 31)
    raise ValueError("compressed in a way that the standard library does not know")


def _records(partition: int, body: bytes, count: int, base: int, first_ms: int, time_ms: int | None) -> Iterator[Raw]:
    at = 0
    for _ in range(count):
        length, at = _varint(body, at)
        end = at + length
        delta_ms, at = _varint(body, at + 1)
        delta, at = _varint(body, at)
        key, at = _bytes(body, at)
        value, at = _bytes(body, at)
        headers, at = _headers(body, at)
        if at != end:
            raise ValueError("a record is longer than it says")
        yield Raw(partition, base + delta, first_ms + delta_ms if time_ms is None else time_ms, key, value, headers)


def _headers(body: bytes, at: int) -> tuple[tuple[tuple[str, bytes | None], ...], int]:
    count, at = _varint(body, at)
    found: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        name, at = _bytes(body, at)
        value, at = _bytes(body, at)
        found.append(((name or b"").decode("utf-8", "replace"), value))
    return tuple(found), at


def _bytes(body: bytes, at: int) -> tuple[bytes | None, int]:
    length, at = _varint(body, at)
    if length < 0:
        return None, at
    if at + length > len(body):
        raise ValueError("a field ends behind its batch")
    return body[at : at + length], at + length


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, zigzag."""
    shift = value = 0
    while True:
        byte: Any = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value >> 1 ^ -(value & 1), at
        shift += 7
        if shift > 63:
            raise ValueError("a number without an end")
