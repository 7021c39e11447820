"""The hash chain: each event carries the hash of the one before it, so that what was changed later shows.

Verification needs nothing but the file. Edits, insertions, deletions and reordering show in the chain itself; a
truncated stream shows against the views, and beyond doubt against heads that were exported earlier to another place.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from contracts.envelope import Envelope
from state_store.port import Recorded
from state_store.queries import SQL

GENESIS: Final = "0" * 64
"""What the first event of a stream names as its predecessor."""

Heads = Mapping[str, tuple[int, str]]
"""task id -> (sequence, hash) of the last event."""

_encode: Final = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def chained_hash(prev_hash: str, envelope: Envelope, sequence: int, recorded_at_us: int, value: bytes) -> str:
    """sha256 hex over the predecessor's hash, a line of canonical JSON with all of the envelope, and the value."""
    e = envelope
    line = _encode(
        [
            e.id,
            e.type,
            e.version,
            e.task_id,
            sequence,
            e.correlation_id,
            e.causation_id,
            e.time_us,
            e.source,
            e.traceparent,
            e.tracestate,
            e.tenant,
            e.trust,
            recorded_at_us,
        ]
    )
    return hashlib.sha256(b"%b\n%b\n%b" % (prev_hash.encode(), line.encode(), value)).hexdigest()


def recorded(row: tuple[object, ...]) -> Recorded:
    """A row of `events` in the column order of the queries."""
    return Recorded(Envelope(*row[:12]), *row[12:])  # type: ignore[arg-type]  # the columns are typed by the table


@dataclass(slots=True)
class _Stream:
    task_id: str
    sequence: int = 0
    position: int = 0
    hash: str = GENESIS
    faults: list[str] = field(default_factory=list)

    def take(self, event: Recorded) -> None:
        where = f"task {self.task_id}, event {event.sequence} ({event.envelope.type})"
        if event.sequence != self.sequence + 1:
            self.faults.append(f"{where}: {event.sequence - self.sequence - 1} events before it are missing")
        if event.position <= self.position:
            self.faults.append(f"{where}: it stands before its predecessor in the log")
        if event.prev_hash != self.hash:
            self.faults.append(f"{where}: it does not follow the event before it")
        own = chained_hash(event.prev_hash, event.envelope, event.sequence, event.recorded_at_us, event.value)
        if own != event.hash:
            self.faults.append(f"{where}: its content does not match its hash")
        self.sequence, self.position, self.hash = event.sequence, event.position, event.hash


def faults(connection: sqlite3.Connection, heads: Heads | None = None) -> list[str]:
    """All that is wrong with the log, in words; `heads` are earlier exported ends of streams."""
    found: list[str] = []
    ends: dict[str, tuple[int, str]] = {}
    remembered = {task: at for task, at in (heads or {}).items() if at[0] > 0}
    for stream in _streams(connection, remembered, found):
        ends[stream.task_id] = (stream.sequence, stream.hash)
        found += stream.faults
    count, first, last = connection.execute(SQL["position_gaps"]).fetchone()
    if first != 1 or count != last:
        found.append(f"the log: {last - count} of its {last} positions are empty")
    for task_id, sequence, head_hash in connection.execute(SQL["view_heads"]):
        end, hash_ = ends.get(task_id, (0, GENESIS))
        if end < sequence or (end == sequence and hash_ != head_hash):
            found.append(f"task {task_id}: the view has seen event {sequence}, the stream ends otherwise at {end}")
    for task_id, (sequence, _) in remembered.items():
        end = ends.get(task_id, (0, GENESIS))[0]
        if end < sequence:
            found.append(f"task {task_id}: the exported head is event {sequence}, the stream ends at {end}")
    return found


def _streams(connection: sqlite3.Connection, heads: Heads, found: list[str]) -> Iterator[_Stream]:
    stream: _Stream | None = None
    for row in connection.execute(SQL["chain"]):
        event = recorded(row)
        if stream is None or stream.task_id != event.envelope.task_id:
            if stream is not None:
                yield stream
            stream = _Stream(event.envelope.task_id)
        stream.take(event)
        known = heads.get(stream.task_id)
        if known is not None and known[0] == event.sequence and known[1] != event.hash:
            found.append(f"task {stream.task_id}, event {event.sequence}: it is not the one whose hash was exported")
    if stream is not None:
        yield stream


def heads(connection: sqlite3.Connection) -> dict[str, tuple[int, str]]:
    """The ends of all streams, to be kept where those who write the log cannot write."""
    return {task_id: (sequence, hash_) for task_id, sequence, hash_ in connection.execute(SQL["stream_heads"])}


def verify_file(path: Path, exported: Heads | None = None) -> list[str]:
    """Check a database file that nobody needs to be running for; it is opened for reading only."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        return faults(connection, exported)
    finally:
        connection.close()
