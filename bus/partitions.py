"""Which partition a key belongs to: murmur2, as Kafka's default partitioner does it, so that all backends agree."""

from __future__ import annotations

import struct
from typing import Final

PARTITIONS: Final = 8
"""The one partition count of all topics, unless a bus is made with another."""

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF


_KNOWN_MAX: Final = 16_384
_known: dict[tuple[bytes, int], int] = {}


def partition_of(key: bytes, partitions: int = PARTITIONS) -> int:
    """The partition of a key among `partitions`."""
    part = _known.get((key, partitions))
    if part is None:
        part = (murmur2(key) & 0x7FFFFFFF) % partitions
        remember(key, partitions, part)
    return part


def remember(key: bytes, partitions: int, part: int) -> None:
    """A record of this key was read from this partition: whoever answers it need not count."""
    if len(_known) >= _KNOWN_MAX:
        _known.clear()
    _known[key, partitions] = part


def murmur2(data: bytes) -> int:
    """The 32-bit MurmurHash2 of the bytes, unsigned, with Kafka's seed."""
    whole = len(data) & ~3
    result = _SEED ^ len(data)
    for number in struct.unpack_from(f"<{whole >> 2}I", data):
        word = number * _M & _MASK
        word = (word ^ word >> 24) * _M & _MASK
        result = result * _M & _MASK ^ word
    if whole < len(data):
        result = (result ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    result = (result ^ result >> 13) * _M & _MASK
    return result ^ result >> 15
