"""One member's view of its partitions: records are read ahead into a small store of its own, and handed out from there.

Three tasks: the membership takes and gives up partitions, the pump reads, the watch rebuilds the pump's reader when
records lie there and none come. Positions are kept here, not in the reader: so it can be thrown away at any time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, Protocol

from aiokafka import TopicPartition, errors

from bus.kafka import faults
from bus.kafka.cluster import Cluster
from bus.kafka.fetching import Fetching, Read
from bus.kafka.link import ended
from bus.kafka.membership import Membership
from bus.kafka.reader import as_record
from bus.kafka.rescue import Rescued
from bus.kafka.sharing import Claim
from bus.port import Consumer, Gap, Record
from contracts.errors import GavotteError, Retryable, Unavailable

log = logging.getLogger(__name__)

Parts = frozenset[int]

AHEAD_MAX: Final = 2_000
"""Records that are read and not yet handed out, at most, beside those of paused partitions."""
PAUSE_SECONDS: Final = 1.0


class Surroundings(Protocol):
    """What a subscription needs of its bus."""

    cluster: Cluster

    async def bounds(self, topics: Iterable[str], parts: Parts) -> dict[tuple[str, int], tuple[int, int]]: ...
    async def rescue(self, wanted: Mapping[TopicPartition, int]) -> dict[TopicPartition, Rescued]: ...
    def forget(self, subscription: KafkaSubscription) -> None: ...


class KafkaSubscription:
    """The port's Subscription."""

    def __init__(self, bus: Surroundings, consumer: Consumer) -> None:
        self._bus = bus
        self._cluster = bus.cluster
        self._consumer = consumer
        self._assigned: Parts = frozenset()
        self._paused: set[int] = set()
        self._positions: dict[TopicPartition, int] = {}
        """The next offset to read, per place: what is before it is in `_ahead` or handed out."""
        self._ahead: dict[TopicPartition, deque[Record]] = {}
        self._waiting = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._reader: Fetching | None = None
        self._turned = asyncio.Event()
        self._progress = 0
        self._failure: BaseException | None = None
        self._closed = False
        self._tasks: list[asyncio.Task[None]] = []
        self._membership = Membership(
            self._cluster,
            Claim(consumer.member, consumer.topics),
            consumer.group,
            gained=self._gain,
            lost=self._lose,
            failed=self._fail,
        )

    @property
    def assigned(self) -> frozenset[int]:
        return self._assigned

    async def join(self) -> None:
        """Become a member and begin to read."""
        await self._membership.start()
        self._tasks = [asyncio.create_task(self._guard(loop)) for loop in (self._pump, self._watch)]

    async def fetch(self, records_max: int, timeout_seconds: float) -> list[Record]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        while True:
            self._membership.polled()
            self._news.clear()
            if self._failure is not None:
                raise self._failure
            if self._closed:
                raise Unavailable(f"member {self._consumer.member} has left group {self._consumer.group}")
            records = self._take(records_max)
            remaining = deadline - loop.time()
            if records or remaining <= 0:
                return records
            await _wait(self._news, min(remaining, self._cluster.patience.poll / 2))

    def pause(self, partitions: Collection[int]) -> None:
        self._paused.update(partitions)
        self._turn()

    def resume(self, partitions: Collection[int]) -> None:
        self._paused.difference_update(partitions)
        self._turn()
        self._news.set()

    async def commit(self, offsets: Mapping[tuple[str, int], int]) -> None:
        named = {(self._cluster.named(topic), part): offset for (topic, part), offset in offsets.items()}
        await self._membership.commit(named)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._news.set()
        await ended(self._tasks)
        try:
            await self._membership.close()
        finally:
            await self._drop_reader()
            self._bus.forget(self)

    # -- handing out --------------------------------------------------------------------------------------------------

    def _take(self, records_max: int) -> list[Record]:
        """What was read ahead, of each place in turn."""
        found: list[Record] = []
        for place in list(self._ahead):
            if place.partition in self._paused or place.partition not in self._assigned:
                continue
            records = self._ahead.pop(place)
            room = records_max - len(found)
            if len(records) <= room:
                found += records
            else:
                found += [records.popleft() for _ in range(room)]
                self._ahead[place] = records  # at the end: the others come first next time
            if len(found) == records_max:
                break
        self._count()
        return found

    def _count(self) -> None:
        self._waiting = sum(len(found) for place, found in self._ahead.items() if place.partition not in self._paused)
        if self._waiting < AHEAD_MAX:
            self._room.set()
        else:
            self._room.clear()

    def _accept(self, found: Mapping[TopicPartition, Read]) -> None:
        """Keep what was read where we still are in that place; there is no await between reading and this."""
        for place, (asked, records, following) in found.items():
            if self._positions.get(place) != asked or place.partition in self._paused:
                continue
            if records:
                self._ahead.setdefault(place, deque()).extend(records)
            self._positions[place] = following
            self._progress += len(records)
        self._count()
        self._news.set()

    # -- reading ------------------------------------------------------------------------------------------------------

    async def _pump(self) -> None:
        """Read whatever there is, ahead of whoever fetches."""
        while True:
            await self._room.wait()
            try:
                await self._read()
            except Retryable as error:
                log.warning("reading waits: %s", error)
                await asyncio.sleep(PAUSE_SECONDS)
            except (errors.KafkaError, OSError) as error:
                found = faults.explained(error, self._cluster, f"reading {', '.join(self._consumer.topics)}")
                if not isinstance(found, Retryable):
                    raise found from error
                log.warning("reading begins anew: %s", found)
                await self._drop_reader()
                await asyncio.sleep(PAUSE_SECONDS)

    async def _read(self) -> None:
        """One batch. It is never cancelled but to throw the reader away: what that had in hand is then read again."""
        wanted = self._wanted()
        if not wanted:
            self._turned.clear()
            await self._turned.wait()
            return
        reader = self._reader or await self._open_reader()
        try:
            found = await reader.read(wanted)
        except errors.OffsetOutOfRangeError as error:
            await self._leap(error.args[0])
        except UnicodeDecodeError as error:
            await self._rescue(error)
        else:
            self._accept(found)

    def _wanted(self) -> dict[TopicPartition, int]:
        """Where to read on, in all places that are not paused."""
        return {place: at for place, at in self._positions.items() if place.partition not in self._paused}

    async def _open_reader(self) -> Fetching:
        reader = Fetching(self._cluster)
        try:
            await reader.start(self._consumer.topics)
        except BaseException as error:
            await reader.close()
            if isinstance(error, errors.KafkaError | OSError):
                raise faults.explained(error, self._cluster, "reading") from error
            raise
        self._reader = reader
        return reader

    async def _drop_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()

    def _turn(self) -> None:
        """What is to be read has changed; the next question takes it up."""
        self._count()
        self._turned.set()

    # -- partitions ---------------------------------------------------------------------------------------------------

    async def _gain(self, parts: Parts) -> None:
        """Find where to read on, tell the application, begin to read."""
        committed = await self._membership.committed(parts)
        bounds = await self._bus.bounds(self._consumer.topics, parts)
        positions: dict[TopicPartition, int] = {}
        for place, (first, end) in bounds.items():
            position = committed.get(place, first)
            if not first <= position <= end:
                await self._tell_gap(TopicPartition(*place), position, first)
                position = first
            positions[TopicPartition(*place)] = position
        await self._consumer.on_gained(parts)
        self._assigned |= parts
        self._positions |= positions
        self._turn()

    async def _lose(self, parts: Parts) -> None:
        self._assigned -= parts
        self._positions = {place: at for place, at in self._positions.items() if place.partition not in parts}
        self._ahead = {place: found for place, found in self._ahead.items() if place.partition not in parts}
        self._turn()
        await self._consumer.on_lost(parts)

    # -- what should not happen ---------------------------------------------------------------------------------------

    async def _leap(self, lost: Mapping[TopicPartition, int]) -> None:
        """Records were removed before they were read: say so, and go on with the first that is there."""
        for place, position in lost.items():
            bounds = await self._bus.bounds([place.topic[len(self._cluster.prefix) :]], frozenset({place.partition}))
            first = bounds[place.topic, place.partition][0]
            if self._positions.get(place) == position != first:
                await self._tell_gap(place, position, first)
                self._positions[place] = first

    async def _rescue(self, error: UnicodeDecodeError) -> None:
        """Somewhere lies a record that stops the reader: take the next batch of every place ourselves."""
        log.warning(
            "group %s reads with care past a record that is not as it should be: %s", self._consumer.group, error
        )
        wanted = self._wanted()
        for place, found in (await self._bus.rescue(wanted)).items():
            if self._positions.get(place) != wanted[place]:
                continue
            if found.lost:
                await self._tell_gap(place, wanted[place], found.next)
            topic = place.topic[len(self._cluster.prefix) :]
            records = [as_record(topic, one) for one in found.records]
            self._accept({place: Read(wanted[place], records, found.next)})

    async def _tell_gap(self, place: TopicPartition, position: int, first: int) -> None:
        topic = place.topic[len(self._cluster.prefix) :]
        await self._consumer.on_gap(Gap(topic, place.partition, position, first))

    async def _watch(self) -> None:
        """If records lie there and none come, twice in a row, throw the reader away."""
        stuck = 0
        while True:
            seen = self._progress
            await asyncio.sleep(self._cluster.patience.watch)
            try:
                stuck = stuck + 1 if await self._is_stuck(seen) else 0
            except GavotteError as error:  # brokers that do not answer are no reason to suspect the reader
                log.debug("the watch waits: %s", error)
            if stuck == 2:
                log.error("records lie there and none come: group %s reads anew", self._consumer.group)
                await self._drop_reader()
                stuck = 0

    async def _is_stuck(self, seen: int) -> bool:
        """Whether nothing was read since, though there is room and there are records."""
        if self._progress != seen or not self._room.is_set():
            return False
        bounds = await self._bus.bounds(self._consumer.topics, self._assigned - self._paused)
        places = {place: self._positions.get(TopicPartition(*place)) for place in bounds}
        behind = [place for place, at in places.items() if at is not None and at < bounds[place][1]]
        return bool(behind) and self._progress == seen

    async def _guard(self, loop: Callable[[], Any]) -> None:
        try:
            await loop()
        except Exception as error:  # noqa: BLE001  whoever fetches must know
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._news.set()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
