"""The log in the shared file: appending records, and reading many partitions with few queries."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bus.port import Headers, Record
from bus.queries import SQL
from contracts.envelope import Envelope
from contracts.errors import Corrupt

Place = tuple[int, int]
"""(topic id, partition)."""
Row = tuple[int, int, int, int, bytes, bytes, bytes, int | None]
"""id, topic id, partition, time_us, key, headers, value, stored."""
Content = tuple[bytes, Headers | Envelope, bytes]
"""Key, headers (or what they are made from) and value."""
Shelf = Callable[[sqlite3.Connection, Sequence[int]], Mapping[int, Content]]
"""Looks up what is stored in the same file already, by its numbers."""

SPAN: Final = 10_000
"""Positions closer than this are read together, and what lies before a partition's own is skipped."""


@dataclass(frozen=True, slots=True)
class Window:
    """Positions near each other, read by one query per topic."""

    start: int
    positions: dict[Place, int]

    def masks(self) -> dict[int, int]:
        """topic id -> its partitions as a bit mask."""
        masks: dict[int, int] = {}
        for topic, part in self.positions:
            masks[topic] = masks.get(topic, 0) | 1 << part
        return masks


@dataclass(frozen=True, slots=True)
class Found:
    """What a window held: rows in offset order, and where its places go on from. `more`: the limit cut it short."""

    window: Window
    rows: list[Row]
    stored: Mapping[int, Content]
    next: int
    more: bool


def windows(positions: Mapping[Place, int]) -> list[Window]:
    """The positions in groups that lie near each other."""
    found: list[Window] = []
    for place, position in sorted(positions.items(), key=lambda item: item[1]):
        if not found or position - found[-1].start > SPAN:
            found.append(Window(position, {}))
        found[-1].positions[place] = position
    return found


def read_windows(
    connection: sqlite3.Connection, wanted: Iterable[Window], records_max: int, shelf: Shelf | None
) -> list[Found]:
    """At most `records_max` rows of each window. Runs in one snapshot."""
    newest: int = connection.execute(SQL["newest"]).fetchone()[0]
    return [_read_window(connection, window, records_max, newest, shelf) for window in wanted if window.start <= newest]


def _read_window(connection: sqlite3.Connection, window: Window, limit: int, newest: int, shelf: Shelf | None) -> Found:
    rows: list[Row] = []
    last = newest
    for topic, mask in window.masks().items():
        found = connection.execute(SQL["read"], (topic, window.start, mask, limit)).fetchall()
        rows += found
        if len(found) == limit:
            last = min(last, found[-1][0])
    rows.sort()
    if len(rows) > limit:
        last = min(last, rows[limit - 1][0])
    while rows and rows[-1][0] > last:
        rows.pop()
    positions = window.positions
    own = [row for row in rows if row[0] >= positions[row[1], row[2]]]
    return Found(window, own, stored_contents(connection, own, shelf), last + 1, last < newest)


def stored_contents(connection: sqlite3.Connection, rows: Iterable[Row], shelf: Shelf | None) -> Mapping[int, Content]:
    """What lies elsewhere in the file of these rows; raises Corrupt where it is not there."""
    numbers = [row[7] for row in rows if row[7] is not None]
    found = shelf(connection, numbers) if numbers and shelf is not None else {}
    if len(found) < len(set(numbers)):
        raise Corrupt("the log of the bus names events that are not in the file", hint="restore it from a copy")
    return found


def pack_headers(headers: Headers) -> bytes:
    """Headers as bytes: how many, the length of each name and value, then all of them."""
    parts = [part for name, value in headers for part in (name.encode(), value)]
    return struct.pack(f"<{len(parts) + 1}I", len(parts), *map(len, parts)) + b"".join(parts)


def unpack_headers(packed: bytes) -> Headers:
    """The reverse of `pack_headers`."""
    (count,) = struct.unpack_from("<I", packed)
    lengths = struct.unpack_from(f"<{count}I", packed, 4)
    parts = []
    start = 4 + 4 * count
    for length in lengths:
        parts.append(packed[start : start + length])
        start += length
    return tuple((parts[index].decode(), parts[index + 1]) for index in range(0, count, 2))


def record_of(row: Row, topic: str, stored: Mapping[int, Content]) -> Record:
    """A row as the record that the port promises."""
    offset, _, part, time_us, key, packed, value, number = row
    if number is None:
        return Record(topic, part, offset, key, value, unpack_headers(packed), time_us)
    key, carried, value = stored[number]
    return Record(topic, part, offset, key, value, carried, time_us)
