"""What must not change: the partition of a key, and headers as they are packed in the file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.file_log import pack_headers, unpack_headers
from bus.partitions import murmur2, partition_of


@pytest.mark.parametrize(
    ("key", "signed"),
    [  # as the Java client's own tests have them
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_keys_hash_as_in_kafka(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed & 0xFFFFFFFF
    assert partition_of(key, 8) == (signed & 0x7FFFFFFF) % 8


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.binary()).map(tuple)))
def test_headers_come_out_as_they_went_in(headers: list[tuple[str, bytes]]) -> None:
    assert unpack_headers(pack_headers(tuple(headers))) == tuple(headers)
