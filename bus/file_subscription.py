"""One member of a group on the shared file: it reads its partitions, and hands them over in order."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Final, Protocol, TypeVar

from bus import file_groups
from bus.file_log import Found, Place, Shelf, read_windows, record_of, windows
from bus.partitions import remember
from bus.port import Consumer, Record
from bus.wakeups import remove
from contracts.errors import GavotteError, Retryable, Unavailable
from embedded.file import Database
from embedded.liveness import Presence, bury, is_alive

T = TypeVar("T")

log = logging.getLogger(__name__)

PAUSE_SECONDS: Final = 1.0
"""After an error in keeping the membership."""
POLLS_PER_LOOK: Final = 5
"""Each poll asks whether the other members live, which costs no query; some also look at the group's rows."""


class Surroundings(Protocol):
    """What a subscription needs of its bus."""

    database: Database
    folder: Path
    partitions: int
    poll_seconds: float | None
    shelf: Shelf | None

    def topic(self, topic_id: int) -> str: ...
    def topic_id(self, topic: str) -> int | None: ...
    def wake_group(self, sockets: list[str]) -> None: ...
    def forget(self, subscription: FileSubscription) -> None: ...


class FileSubscription:
    """The port's Subscription. A task of its own keeps the membership: it takes, and gives up, partitions."""

    def __init__(self, bus: Surroundings, consumer: Consumer, me: file_groups.Membership, presence: Presence) -> None:
        self._bus = bus
        self._consumer = consumer
        self._me = me
        self._presence = presence
        self._positions: dict[Place, int] = {}
        self._assigned: frozenset[int] = frozenset()
        self._paused: set[int] = set()
        self._more = True
        """Whether the last look left something behind."""
        self._news = asyncio.Event()
        self._group_news = asyncio.Event()
        self._attending: asyncio.Task[None] | None = None
        self._others: tuple[str, ...] = ()
        self._failure: BaseException | None = None
        self._closed = False

    @property
    def assigned(self) -> frozenset[int]:
        return self._assigned

    async def join(self) -> None:
        """Become a member and begin to keep the membership."""
        await self._join()
        self._attending = asyncio.get_running_loop().create_task(self._attend())

    async def fetch(self, records_max: int, timeout_seconds: float) -> list[Record]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        while True:
            if self._more:
                await asyncio.sleep(0)  # others get their turn
            elif not self._news.is_set():  # nothing was left, and nobody told of more
                await _wait(self._news, _shorter(max(0.0, deadline - loop.time()), self._bus.poll_seconds))
            if self._failure is not None:
                raise self._failure
            if self._closed:
                raise Unavailable(f"member {self._me.member} has left group {self._me.group}")
            self._news.clear()
            records, self._more = self._take(records_max)
            if records or loop.time() >= deadline:
                return records

    def pause(self, partitions: Collection[int]) -> None:
        self._paused.update(partitions)

    def resume(self, partitions: Collection[int]) -> None:
        self._paused.difference_update(partitions)
        self._news.set()

    async def commit(self, offsets: Mapping[tuple[str, int], int]) -> None:
        places = {
            (topic_id, part): after
            for (topic, part), after in offsets.items()
            if (topic_id := self._bus.topic_id(topic)) is not None
        }
        if places:  # without a flush: what is lost with the power comes again
            await self._bus.database.write(
                lambda connection: file_groups.commit(connection, self._me, places), flush=False
            )

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._news.set()
        if self._attending is not None:
            self._attending.cancel()
            await asyncio.wait([self._attending])
        try:
            await self._lose(self._assigned)
            await self._change(lambda connection: file_groups.leave(connection, self._me))
        except GavotteError as error:  # whoever looks next sees that this member is gone
            log.warning("leaving group %s without a word: %s", self._me.group, error)
        finally:
            self._presence.close()
            self._bus.forget(self)

    def wake(self, *, group: bool) -> None:
        """There is news of records, or of the group."""
        (self._group_news if group else self._news).set()

    # -- records ------------------------------------------------------------------------------------------------------

    def _take(self, records_max: int) -> tuple[list[Record], bool]:
        """What is there now, and whether there is more. Reading goes on behind it when this returns."""
        wanted = windows({place: at for place, at in self._positions.items() if place[1] not in self._paused})
        if not wanted:
            return [], False
        limit = max(1, records_max // len(wanted))
        shelf = self._bus.shelf
        found = self._bus.database.look(lambda connection: read_windows(connection, wanted, limit, shelf))
        records: list[Record] = []
        for each in found:
            records += self._accept(each)
        if len(found) > 1:
            records.sort(key=lambda record: record.offset)
        return records, any(each.more for each in found)

    def _accept(self, found: Found) -> Iterable[Record]:
        """The rows of a window, behind which its places are read on."""
        for place, position in found.window.positions.items():
            self._positions[place] = max(position, found.next)
        records = [record_of(row, self._bus.topic(row[1]), found.stored) for row in found.rows]
        for record in records:
            remember(record.key, self._bus.partitions, record.partition)
        return records

    # -- the group ----------------------------------------------------------------------------------------------------

    async def _attend(self) -> None:
        while True:
            self._group_news.clear()
            try:
                settled = await self._balance()
            except Retryable as error:
                log.warning("group %s waits: %s", self._me.group, error)
                await asyncio.sleep(PAUSE_SECONDS)
            except Exception as error:  # noqa: BLE001  # a callback's or our own mistake: whoever fetches must know
                self._failure = error
                self._news.set()
                return
            else:
                if settled:
                    await self._wait_for_change()

    async def _wait_for_change(self) -> None:
        for _ in range(POLLS_PER_LOOK):
            await _wait(self._group_news, self._bus.poll_seconds)
            if self._group_news.is_set() or not all(map(self._is_alive, self._others)):
                return

    async def _balance(self) -> bool:
        """One step towards this member's fair share; True when there is nothing to do."""
        seen = await self._bus.database.read(self._look)
        self._others = seen.others
        if seen.settled and seen.owned == self._assigned:
            return True
        if seen.lost or not self._assigned <= seen.owned:  # others took us for dead: begin anew
            await self._lose(self._assigned - seen.owned)
        if seen.lost:
            await self._join()
        elif seen.excess:
            await self._lose(seen.excess & self._assigned)
            await self._change(lambda connection: file_groups.release(connection, self._me, seen.excess))
        else:
            await self._gain()
        return False

    async def _gain(self) -> None:
        seen, owned, positions = await self._change(self._settle)
        for dead in seen.dead:
            bury(self._bus.folder, dead.presence)
            remove(dead.socket)
        gained = owned - self._assigned
        if gained:
            log.info("%s gained partitions %s", self._me.member, sorted(gained))
            await self._consumer.on_gained(gained)
            self._assigned |= gained
            self._positions |= positions
            self._news.set()

    async def _lose(self, parts: frozenset[int]) -> None:
        if not parts:
            return
        log.info("%s gives up partitions %s", self._me.member, sorted(parts))
        self._assigned -= parts
        self._positions = {place: at for place, at in self._positions.items() if place[1] not in parts}
        await self._consumer.on_lost(parts)

    async def _join(self) -> None:
        await self._change(lambda connection: file_groups.join(connection, self._me))

    async def _change(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Change the group's rows, and tell the other members."""
        result, sockets = await self._bus.database.write(
            lambda connection: (change(connection), file_groups.sockets(connection, self._me.group))
        )
        self._bus.wake_group(sockets)
        return result

    def _settle(self, connection: sqlite3.Connection) -> tuple[file_groups.Look, frozenset[int], dict[Place, int]]:
        """Take what is due; returns what is owned now, and where to read on in what is new."""
        seen = file_groups.settle(connection, self._me, self._bus.partitions, self._is_alive)
        owned = seen.owned - seen.excess | (frozenset() if seen.lost else seen.claims)
        return seen, owned, file_groups.positions(connection, self._me, owned - self._assigned)

    def _look(self, connection: sqlite3.Connection) -> file_groups.Look:
        return file_groups.look(connection, self._me, self._bus.partitions, self._is_alive)

    def _is_alive(self, presence: str) -> bool:
        return is_alive(self._bus.folder, presence)


async def _wait(event: asyncio.Event, seconds: float | None) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _shorter(seconds: float, other: float | None) -> float:
    return seconds if other is None else min(seconds, other)
