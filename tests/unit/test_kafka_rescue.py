"""Batches taken apart by ourselves: the same records as aiokafka's, and those that it cannot read."""

from __future__ import annotations

import gzip
import struct
from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from bus.kafka.rescue import unpacked
from contracts.errors import Unavailable

HEADERS = st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), st.binary(max_size=9)))
RECORDS = st.lists(st.tuples(st.none() | st.binary(max_size=200), st.binary(max_size=200), HEADERS), min_size=1)


def batch(records: list[tuple[Any, Any, Any]], compression: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(2, compression, 0, -1, -1, -1, 1 << 24)
    for offset, (key, value, headers) in enumerate(records):
        builder.append(offset, 1_700_000_000_000 + offset, key=key, value=value, headers=headers)
    return bytes(builder.build())


@given(RECORDS, st.sampled_from([0, 1]))
def test_records_come_out_as_they_went_in(records: list[tuple[Any, Any, Any]], compression: int) -> None:
    found = unpacked(3, batch(records, compression) + b"the start of another", 0)
    assert [(one.key, one.value, list(one.headers)) for one in found.records] == [
        (key, value, [tuple(header) for header in headers]) for key, value, headers in records
    ]
    assert [(one.partition, one.offset, one.timestamp) for one in found.records] == [
        (3, offset, 1_700_000_000_000 + offset) for offset in range(len(records))
    ]
    assert (found.next, found.lost) == (len(records), False)


def test_reading_starts_within_a_batch() -> None:
    data = batch([(b"k", str(n).encode(), []) for n in range(5)])
    moved = struct.pack(">q", 100) + data[8:]
    assert [one.offset for one in unpacked(0, moved, 103).records] == [103, 104]
    assert unpacked(0, moved, 103).next == 105


def test_names_that_are_no_text_come_out_marked() -> None:
    data = batch([(b"k", b"v", [("name", b"x")])]).replace(b"name", b"\xff\xfe\x00a")
    (record,) = unpacked(0, data, 0).records
    assert record.headers == (("\ufffd\ufffd\x00a", b"x"),)


def test_a_batch_that_cannot_be_taken_apart_is_passed_over_and_said_so() -> None:
    data = bytearray(batch([(b"k", b"v", [])] * 3))
    for damaged in (bytes(data[:80]), bytes(data[:16]) + b"\x01" + bytes(data[17:]), bytes(data[:70]) + b"\xff" * 60):
        found = unpacked(0, damaged, 0)
        assert (found.records, found.next, found.lost) == ([], 3, True)
    struct.pack_into(">h", data, 21, 3)
    assert unpacked(0, bytes(data), 0).lost, "compressed in a way that nobody here knows"
    struct.pack_into(">h", data, 21, 0x20)
    assert unpacked(0, bytes(data), 0) == type(unpacked(0, bytes(data), 0))([], 3), "a marker of a transaction"
    with pytest.raises(Unavailable, match="half a batch"):
        unpacked(0, b"short", 0)


@given(st.binary(max_size=300))
def test_no_bytes_break_it(body: bytes) -> None:
    data = batch([(b"k", b"v", [])])[:61] + body
    for attributes, inside in ((0, body), (1, gzip.compress(body))):
        whole = bytearray(data[:61] + inside)
        struct.pack_into(">i", whole, 8, len(whole) - 12)
        struct.pack_into(">h", whole, 21, attributes)
        found = unpacked(0, bytes(whole), 0)
        assert found.next == 1
