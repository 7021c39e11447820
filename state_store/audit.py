"""The hash chain: each event carries the hash of the one before it, so that what was changed later shows.

Verification needs nothing but the file. Edits, insertions, deletions and reordering show in the chain itself; a
truncated stream shows against the views. Whoever can write the file can compute a whole new chain: that shows, beyond
doubt, against the ends of all streams as they were exported earlier to a place where agents cannot write.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from pydantic_core import to_json

from contracts.envelope import Envelope
from state_store.port import Ends, Heads, Recorded
from state_store.transaction import Transaction

GENESIS: Final = "0" * 64
"""What the first event of a stream names as its predecessor."""

EVENTS_PER_PAGE: Final = 1_000
"""Events held in memory at once while all are verified."""


def chained_hash(prev_hash: str, envelope: Envelope, sequence: int, recorded_at_us: int, value: bytes) -> str:
    """sha256 hex over the predecessor's hash, a line of canonical JSON with all of the envelope, and the value."""
    id_, type_, version, task_id, *rest = envelope
    line = to_json((id_, type_, version, task_id, sequence, *rest, recorded_at_us), ensure_ascii=True)
    canonical = line.replace(b"\x7f", b"\\u007f")  # the one character that is ASCII and escaped all the same
    digest = sha256(b"%b\n%b\n" % (prev_hash.encode(), canonical))
    digest.update(value)
    return digest.hexdigest()


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


async def faults(tx: Transaction, exported: Ends | None = None) -> list[str]:
    """All that is wrong with the log, in words; `exported` is what it was earlier."""
    remembered = {} if exported is None else dict(exported.heads)
    chain = _Chain(remembered)
    after: tuple[str, int] = ("", 0)
    while page := await tx.rows("chain", (*after, EVENTS_PER_PAGE)):
        for row in page:
            chain.take(recorded(row))
        after = chain.end()
    found, ends = chain.close(), chain.ends
    count, first, last = await tx.one("position_gaps")
    if first != 1 or count != last:
        found.append(f"the log: {last - count} of its {last} positions are empty")
    for task_id, sequence, head_hash in await tx.rows("view_heads"):
        end, hash_ = ends.get(task_id, (0, GENESIS))
        if end < sequence or (end == sequence and hash_ != head_hash):
            found.append(f"task {task_id}: the view has seen event {sequence}, the stream ends otherwise at {end}")
    for task_id, (sequence, _) in remembered.items():
        end = ends.get(task_id, (0, GENESIS))[0]
        if end < sequence:
            found.append(f"task {task_id}: the exported head is event {sequence}, the stream ends at {end}")
    if exported is not None and not found and await _order(tx, exported.position) != (exported.events, exported.order):
        found.append(f"the log: its first {exported.events} events are not those that were exported, in their order")
    return found


class _Chain:
    """All streams, event by event in the order of tasks and sequences."""

    def __init__(self, remembered: Heads) -> None:
        self.remembered = remembered
        self.ends: dict[str, tuple[int, str]] = {}
        self.faults: list[str] = []
        self.stream = _Stream("")

    def take(self, event: Recorded) -> None:
        task_id = event.envelope.task_id
        if task_id != self.stream.task_id:
            self.close()
            self.stream = _Stream(task_id)
        self.stream.take(event)
        known = self.remembered.get(task_id)
        if known is not None and known[0] == event.sequence and known[1] != event.hash:
            self.faults.append(f"task {task_id}, event {event.sequence}: it is not the one whose hash was exported")

    def end(self) -> tuple[str, int]:
        """The task and sequence that were taken last."""
        return self.stream.task_id, self.stream.sequence

    def close(self) -> list[str]:
        """The stream at hand is at its end; all that was found so far."""
        if self.stream.task_id:
            self.ends[self.stream.task_id] = (self.stream.sequence, self.stream.hash)
            self.faults += self.stream.faults
        return self.faults


async def ends(tx: Transaction) -> Ends:
    """What the log is now, to be kept where those who write it cannot write."""
    heads = {task_id: (sequence, hash_) for task_id, sequence, hash_ in await tx.rows("stream_heads")}
    _, _, position = await tx.one("position_gaps")
    events, order = await _order(tx, position)
    return Ends(events, position, order, heads)


async def _order(tx: Transaction, upto: int) -> tuple[int, str]:
    """How many events stand up to a position, and the hash over theirs."""
    events, digest, after = 0, sha256(), 0
    while page := await tx.rows("hashes", (after, upto, EVENTS_PER_PAGE)):
        for after, hash_ in page:  # noqa: B007  the last one is where the next page begins
            digest.update(hash_.encode())
        events += len(page)
    return events, digest.hexdigest()
