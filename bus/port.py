"""The port through which bytes travel: records on partitioned topics, consumer groups, news without polling.

Promises every backend keeps (the conformance suite in tests/contract holds them):
- `publish` returns after the records are durable; an error means unknown, and publishing the same event again is safe;
- records of one key keep their order on a topic; a group's partition is read by one live member at a time;
- what was not committed is delivered again, to this or another member; nothing is lost;
- all topics have one partition count, and partition p of every topic goes to the same member of a group, so that a
  task's events over all topics meet in one process;
- `fetch` waits for news and wakes up by itself; a slow safety poll makes a lost wake-up a delay.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from contracts.envelope import Envelope

log = logging.getLogger(__name__)

Headers = tuple[tuple[str, bytes], ...]


class Message(NamedTuple):
    """A record to be published. The partition follows from the key.

    `carried` is the headers, or the envelope that they are made from when somebody asks for them. `stored` is the
    number under which the very same event is stored. A bus that shares its file with that store keeps the number
    instead of a second copy; any other bus passes it over.
    """

    topic: str
    key: bytes
    value: bytes
    carried: Headers | Envelope = ()
    stored: int | None = None

    @property
    def headers(self) -> Headers:
        return _headers(self.carried)


class Record(NamedTuple):
    """A record as it was read. `timestamp_us` is when the bus stored it; `carried` as in `Message`."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    carried: Headers | Envelope
    timestamp_us: int

    @property
    def headers(self) -> Headers:
        return _headers(self.carried)

    @property
    def envelope(self) -> Envelope | None:
        """The envelope, where the bus had it from the store on its own file: nothing needs to be read or checked."""
        return self.carried if isinstance(self.carried, Envelope) else None


def _headers(carried: Headers | Envelope) -> Headers:
    if not isinstance(carried, Envelope):
        return carried
    from contracts.codec import headers_of

    return headers_of(carried)


@dataclass(frozen=True, slots=True)
class Features:
    """What a backend promises beyond the port."""

    survives_restart: bool
    between_processes: bool
    virtual_time: bool = False
    newest_member_wins: bool = False
    """Of two processes that join by one name the older is told `Busy`, and not the newer."""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a group is behind on one partition. `committed` is the next offset to read, None before the first."""

    topic: str
    partition: int
    committed: int | None
    end: int
    behind: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that were removed before this group read them: `next` is what is read instead of `expected`.

    Where `next` is the smaller, the topic was made anew, and is read from its start.
    """

    topic: str
    partition: int
    expected: int
    next: int


Assignment = Callable[[frozenset[int]], Awaitable[None]]
"""Called with partition numbers (of every subscribed topic) when they are gained or given up."""


async def ignore_assignment(_: frozenset[int]) -> None:
    """The default for callers that keep no state per partition."""


async def report_gap(gap: Gap) -> None:
    """The default: an error in the log."""
    log.error(
        "%s/%d: records from %d on were removed before they were read; reading goes on at %d",
        gap.topic,
        gap.partition,
        gap.expected,
        gap.next,
    )


@dataclass(frozen=True, slots=True)
class Consumer:
    """Who subscribes: a group, a stable member id, and the topics. A new group starts at the start of the log."""

    group: str
    member: str
    topics: tuple[str, ...]
    on_gained: Assignment = field(default=ignore_assignment)
    """Awaited before the first record of the partitions is handed out."""
    on_lost: Assignment = field(default=ignore_assignment)
    """Awaited before the partitions may go to another member: finish or let go what is in flight, commit it."""
    on_gap: Callable[[Gap], Awaitable[None]] = field(default=report_gap)
    """Awaited when records were removed before they were read, before those behind them are handed out."""


class Subscription(Protocol):
    """One member's view of its partitions."""

    @property
    def assigned(self) -> frozenset[int]:
        """The partition numbers that this member holds now."""
        ...

    async def fetch(self, records_max: int, timeout_seconds: float) -> list[Record]:
        """What is there, at most `records_max`, in offset order per partition; empty after the timeout."""
        ...

    def pause(self, partitions: Collection[int]) -> None:
        """Hand out nothing of these partitions until `resume`; membership is kept."""
        ...

    def resume(self, partitions: Collection[int]) -> None:
        """Hand out records of these partitions again."""
        ...

    async def commit(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Record the next offset to read per (topic, partition). Partitions lost meanwhile are ignored."""
        ...

    async def close(self) -> None:
        """Leave the group: `on_lost` is awaited, then others take over at once."""
        ...


@runtime_checkable
class Prunable(Protocol):
    """A bus that keeps its log itself, and lets go of old records when it is told to; a broker does that alone."""

    async def prune(self, older_than_seconds: float, *, beyond_groups: bool = False, dry_run: bool = False) -> int: ...


class Bus(Protocol):
    """A running connection to a bus. Every await has a deadline; errors are contracts.errors.Unavailable."""

    features: Features

    async def ensure_topics(self, topics: Sequence[str]) -> None:
        """Create what is missing; idempotent."""
        ...

    async def publish(self, messages: Sequence[Message]) -> None:
        """Store all messages durably and wake the consumers; order is kept per key."""
        ...

    async def subscribe(self, consumer: Consumer) -> Subscription:
        """Join a group. Topics that do not exist are created."""
        ...

    async def read(
        self, topic: str, *, after: Mapping[int, int] | None = None, records_max: int = 1000
    ) -> list[Record]:
        """Records of a topic without a group, from (partition -> next offset), default the start; for people."""
        ...

    async def lag(self, group: str, topics: Sequence[str]) -> list[Lag]:
        """How far the group is behind, per topic and partition."""
        ...

    async def close(self) -> None:
        """Close every subscription and let go of all resources; safe to call twice."""
        ...
