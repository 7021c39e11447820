"""The port in memory: for tests, and for simulations in which a seed makes it misbehave as brokers do.

A `MemoryBroker` holds what all processes share; each process of a test connects to it with a `MemoryBus` of its own.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from bus.file_groups import shares
from bus.partitions import PARTITIONS, partition_of
from bus.port import Consumer, Features, Lag, Message, Record
from contracts import ids
from contracts.errors import Busy, OutcomeUnknown, Unavailable

NEVER: Final = 0.0


@dataclass
class Faults:
    """How the broker misbehaves; each a probability from 0 to 1, drawn from the seed.

    None of them breaks a promise of the port, but `drop`: a record that is never delivered is what only a
    sweep of the store can mend. Partitions and topics are always interleaved at random.
    """

    seed: int = 0
    duplicate: float = NEVER
    """Per fetch: go back to the last committed offset of a partition, as after a rebalance."""
    drop: float = NEVER
    """Per record and group: it is never delivered."""
    fail_before: float = NEVER
    """Per publish: Unavailable, nothing stored."""
    fail_after: float = NEVER
    """Per publish: OutcomeUnknown, some of the messages stored, or all."""
    commit_fails: float = NEVER
    """Per commit of offsets: Unavailable, nothing recorded."""
    delay_seconds_max: float = 0.0
    """Each call takes up to so long."""
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(f"faults of {self.seed}")  # noqa: S311  # a seed must give the same run

    def hits(self, probability: float) -> bool:
        """Draw once."""
        return probability > 0 and self.random.random() < probability

    def drops(self, group: str, record: Record) -> bool:
        """Whether the record never reaches the group: the same answer each time."""
        if not self.drop:
            return False
        name = f"{self.seed}/{group}/{record.topic}/{record.partition}/{record.offset}"
        return zlib.crc32(name.encode()) < self.drop * 2**32

    async def delay(self) -> None:
        """Let others run, and time pass if so asked."""
        await asyncio.sleep(self.random.uniform(0, self.delay_seconds_max) if self.delay_seconds_max else 0)


class MemoryBroker:
    """What is shared: the log, the groups, and the faults."""

    def __init__(
        self,
        *,
        partitions: int = PARTITIONS,
        clock: Callable[[], int] = ids.now_us,
        faults: Faults | None = None,
    ) -> None:
        self.partitions = partitions
        self.clock = clock
        self.faults = faults or Faults()
        self.logs: dict[tuple[str, int], list[Record]] = {}
        self.groups: dict[str, Group] = {}

    def connect(self) -> MemoryBus:
        """A connection for one process."""
        return MemoryBus(self)

    def store(self, messages: Sequence[Message]) -> None:
        """Append, and wake whoever listens."""
        for message in messages:
            partition = partition_of(message.key, self.partitions)
            records = self.log(message.topic, partition)
            records.append(
                Record(
                    message.topic,
                    partition,
                    len(records),
                    message.key,
                    message.value,
                    message.headers,
                    self.clock(),
                )
            )
        topics = {message.topic for message in messages}
        for group in self.groups.values():
            group.tell_news(topics)

    def log(self, topic: str, partition: int) -> list[Record]:
        """The records of a partition, in order."""
        return self.logs.setdefault((topic, partition), [])

    def group(self, name: str) -> Group:
        """A group, made at its first mention."""
        return self.groups.setdefault(name, Group(name))


class Group:
    """Who reads what, and how far all are."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.members: dict[str, MemorySubscription] = {}
        self.owners: dict[int, str] = {}
        self.committed: dict[tuple[str, int], int] = {}

    def tell_news(self, topics: set[str]) -> None:
        """There are records."""
        for member in self.members.values():
            if not topics.isdisjoint(member.consumer.topics):
                member.news.set()

    def tell_change(self) -> None:
        """Somebody came, went or gave something up."""
        for member in self.members.values():
            member.group_news.set()

    def remove(self, member: str) -> None:
        """The member is gone: what it owned is free."""
        self.members.pop(member, None)
        self.owners = {part: owner for part, owner in self.owners.items() if owner != member}
        self.tell_change()


class MemoryBus:
    """The port for one process of a test."""

    features: Features = Features(survives_restart=False, between_processes=False, virtual_time=True)

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self._subscriptions: list[MemorySubscription] = []
        self._closed = False

    async def ensure_topics(self, topics: Sequence[str]) -> None:
        self._check_open()
        for topic in topics:
            for partition in range(self.broker.partitions):
                self.broker.log(topic, partition)

    async def publish(self, messages: Sequence[Message]) -> None:
        faults = self.broker.faults
        self._check_open()
        await faults.delay()
        self._check_open()
        if faults.hits(faults.fail_before):
            raise Unavailable("the bus of this simulation does not answer")
        if faults.hits(faults.fail_after):
            self.broker.store(messages[: faults.random.randint(0, len(messages))])
            raise OutcomeUnknown("the bus of this simulation did not answer")
        self.broker.store(messages)
        await asyncio.sleep(0)

    async def subscribe(self, consumer: Consumer) -> MemorySubscription:
        self._check_open()
        await self.ensure_topics(consumer.topics)
        group = self.broker.group(consumer.group)
        if consumer.member in group.members:
            raise Busy(f"{consumer.member} is a member of {group.name} already", hint="choose another name")
        subscription = MemorySubscription(self.broker, group, consumer)
        self._subscriptions.append(subscription)
        return subscription

    async def read(
        self, topic: str, *, after: Mapping[int, int] | None = None, records_max: int = 1000
    ) -> list[Record]:
        self._check_open()
        starts = after or {}
        found = [
            record
            for partition in range(self.broker.partitions)
            for record in self.broker.logs.get((topic, partition), [])[starts.get(partition, 0) :]
        ]
        return sorted(found, key=lambda record: (record.timestamp_us, record.partition, record.offset))[:records_max]

    async def lag(self, group: str, topics: Sequence[str]) -> list[Lag]:
        self._check_open()
        committed = self.broker.group(group).committed
        found = []
        for topic in topics:
            for partition in range(self.broker.partitions):
                end, at = len(self.broker.logs.get((topic, partition), ())), committed.get((topic, partition))
                found.append(Lag(topic, partition, at, end, end - (at or 0)))
        return found

    async def close(self) -> None:
        for subscription in self._subscriptions:
            await subscription.close()
        self._closed = True

    def crash(self) -> None:
        """As if the process died: no callback, no commit; its partitions are free at once."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.crash()

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("this connection to the bus is closed")


class MemorySubscription:
    """The port's Subscription; a task of its own takes and gives up partitions."""

    def __init__(self, broker: MemoryBroker, group: Group, consumer: Consumer) -> None:
        self.consumer = consumer
        self.news = asyncio.Event()
        self.group_news = asyncio.Event()
        self._broker = broker
        self._group = group
        self._assigned: frozenset[int] = frozenset()
        self._positions: dict[tuple[str, int], int] = {}
        self._paused: set[int] = set()
        self._failure: BaseException | None = None
        self._closed = False
        group.members[consumer.member] = self
        group.tell_change()
        self._attending = asyncio.get_running_loop().create_task(self._attend())

    @property
    def assigned(self) -> frozenset[int]:
        return self._assigned

    async def fetch(self, records_max: int, timeout_seconds: float) -> list[Record]:
        await self._broker.faults.delay()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        while True:
            self.news.clear()
            if self._failure is not None:
                raise self._failure
            if self._closed:
                raise Unavailable(f"member {self.consumer.member} has left group {self._group.name}")
            records = self._take(records_max)
            if records or loop.time() >= deadline:
                return records
            try:
                async with asyncio.timeout_at(deadline):
                    await self.news.wait()
            except TimeoutError:
                continue

    def pause(self, partitions: Collection[int]) -> None:
        self._paused.update(partitions)

    def resume(self, partitions: Collection[int]) -> None:
        self._paused.difference_update(partitions)
        self.news.set()

    async def commit(self, offsets: Mapping[tuple[str, int], int]) -> None:
        faults = self._broker.faults
        await faults.delay()
        if faults.hits(faults.commit_fails):
            raise Unavailable("the bus of this simulation does not answer")
        for place, offset in offsets.items():
            if self._group.owners.get(place[1]) == self.consumer.member:
                self._group.committed[place] = max(offset, self._group.committed.get(place, 0))
        await asyncio.sleep(0)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.news.set()
        self._attending.cancel()
        await asyncio.wait([self._attending])
        await self._lose(self._assigned)
        self._group.remove(self.consumer.member)

    def crash(self) -> None:
        """Be gone without a word."""
        self._closed = True
        self._attending.cancel()
        self._assigned = frozenset()
        self._group.remove(self.consumer.member)

    # -- records ------------------------------------------------------------------------------------------------------

    def _take(self, records_max: int) -> list[Record]:
        """Records of places in random turn, each place in order."""
        faults = self._broker.faults
        ready = [place for place in self._positions if place[1] not in self._paused and self._has_more(place)]
        if ready and faults.hits(faults.duplicate):
            place = faults.random.choice(ready)
            self._positions[place] = min(self._positions[place], self._group.committed.get(place, 0))
        found: list[Record] = []
        while ready and len(found) < records_max:
            place = faults.random.choice(ready)
            record = self._broker.log(*place)[self._positions[place]]
            self._positions[place] += 1
            if not self._has_more(place):
                ready.remove(place)
            if not faults.drops(self._group.name, record):
                found.append(record)
        return found

    def _has_more(self, place: tuple[str, int]) -> bool:
        return self._positions[place] < len(self._broker.log(*place))

    # -- the group ----------------------------------------------------------------------------------------------------

    async def _attend(self) -> None:
        try:
            while True:
                self.group_news.clear()
                if await self._balance():
                    await self.group_news.wait()
        except Exception as error:  # noqa: BLE001  # a callback's mistake: whoever fetches must know
            self._failure = error
            self.news.set()

    async def _balance(self) -> bool:
        """One step towards this member's fair share; True when there is nothing to do."""
        group, me = self._group, self.consumer.member
        parts = self._broker.partitions
        share = shares(group.members, group.owners.values(), parts)[me]
        owned = sorted(part for part, owner in group.owners.items() if owner == me)
        excess = frozenset(owned[share:])
        if excess:
            await self._lose(excess)
            for part in excess:
                group.owners.pop(part, None)
            group.tell_change()
            return False
        free = sorted(set(range(parts)) - group.owners.keys())
        gained = frozenset(free[: max(0, share - len(owned))])
        if not gained:
            return True
        group.owners.update(dict.fromkeys(gained, me))
        await self._gain(gained)
        return False

    async def _gain(self, parts: frozenset[int]) -> None:
        await self.consumer.on_gained(parts)
        self._assigned |= parts
        for topic in self.consumer.topics:
            for part in sorted(parts):
                self._positions[topic, part] = self._group.committed.get((topic, part), 0)
        self.news.set()

    async def _lose(self, parts: frozenset[int]) -> None:
        if not parts:
            return
        self._assigned -= parts
        for place in [place for place in self._positions if place[1] in parts]:
            del self._positions[place]
        await self.consumer.on_lost(parts)
