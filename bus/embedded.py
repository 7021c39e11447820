"""The port on the file that the store shares: publishing joins the group commit, and nobody polls for news.

One table is the log, its row ids are the offsets; consumer groups are rows beside it (`file_groups`). After a commit the
processes that listen get a datagram; a slow poll makes a lost one a delay. Processes that die are noticed by
the next poll of any member, and their partitions taken over at once.
"""

from __future__ import annotations

import functools
import logging
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bus import file_groups
from bus.file_log import Content, Place, Row, Shelf, pack_headers, record_of, stored_contents
from bus.file_subscription import FileSubscription
from bus.losses import kept, loses_wakeups
from bus.partitions import PARTITIONS, partition_of
from bus.port import Consumer, Features, Lag, Message, Record
from bus.queries import SCHEMA, SQL
from bus.wakeups import GROUPS, RECORDS, WakeUps
from contracts import ids
from contracts.errors import Refused, Unavailable
from embedded.file import Database, Occupied
from embedded.gathering import Gathering
from embedded.liveness import Presence

__all__ = ["SCHEMA", "EmbeddedBus"]

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 1.0
PARTITIONS_MAX: Final = 62
"""A set of partitions travels to SQLite as the bits of one integer."""
REMOVED_AT_ONCE: Final = 2_000


Seen = tuple[int, dict[int, set[str]]]
"""A generation of members, and who of them listens: topic id -> addresses."""


class Enclosed(NamedTuple):
    """News within a change that is not committed yet: topic ids, and who listens where that is new."""

    topics: set[int]
    seen: Seen | None


class EmbeddedBus:
    """The bus in a file; `database` stays the caller's to close, and must hold `SCHEMA`.

    `run_folder` is where processes prove that they live and are woken. `shelf` looks up what the file holds already, so
    that the log need not keep it a second time (`Message.stored`). `poll_seconds` None and `wakeups` False switch
    the two ways to hear of news off, one at a time: for tests.
    """

    features: Features = Features(survives_restart=True, between_processes=True)

    def __init__(
        self,
        database: Database,
        run_folder: Path,
        *,
        shelf: Shelf | None = None,
        partitions: int = PARTITIONS,
        poll_seconds: float | None = POLL_SECONDS,
        wakeups: bool = True,
        clock: Callable[[], int] = ids.now_us,
    ) -> None:
        if not 0 < partitions <= PARTITIONS_MAX:
            raise Refused(f"{partitions} partitions cannot be had", hint=f"between 1 and {PARTITIONS_MAX}")
        self.database = database
        self.folder = run_folder / "bus"
        self.partitions = partitions
        self.shelf = shelf
        self.poll_seconds = poll_seconds
        self._clock = clock
        self._wakeups = WakeUps(self.folder, self._woken) if wakeups and not loses_wakeups() else None
        self._topic_ids: dict[str, int] = {}
        self._topics: dict[int, str] = {}
        self._listeners: dict[int, set[str]] = {}
        self._generation = -1
        self._subscriptions: set[FileSubscription] = set()
        self._publishing = Gathering(self._publish)
        self._closed = False

    # -- the port -----------------------------------------------------------------------------------------------------

    async def ensure_topics(self, topics: Sequence[str]) -> None:
        missing = [topic for topic in topics if topic not in self._topic_ids]
        if not missing:
            return
        known = await self.database.read(_topics)
        if any(topic not in known for topic in missing):
            known = await self.database.write(lambda connection: _add_topics(connection, missing, self.partitions))
        for topic in missing:
            self._learn(topic, *known[topic])

    async def publish(self, messages: Sequence[Message]) -> None:
        self._check_open()
        messages = kept(messages)
        if messages:
            await self._publishing(messages)

    async def _publish(self, calls: Sequence[Sequence[Message]]) -> Sequence[None]:
        """All that was asked to be published in one turn, as one change of the file."""
        messages = [message for call in calls for message in call]
        await self.ensure_topics(list({message.topic for message in messages}))
        time_us = self._clock()
        rows = [self._row(message, time_us) for message in messages]
        told_again = all(message.stored is not None for message in messages)  # by the sweep, from the record
        change = functools.partial(self._append, rows)
        try:
            seen = self.database.write_at_once(change, flush=not told_again)
        except Occupied:
            seen = await self.database.write(change, flush=not told_again)
        self._appended({self._topic_ids[message.topic] for message in messages}, seen)
        return [None] * len(calls)

    async def subscribe(self, consumer: Consumer) -> FileSubscription:
        self._check_open()
        await self.ensure_topics(consumer.topics)
        presence = Presence(self.folder, f"{consumer.group}.{consumer.member}")
        try:
            if self._wakeups is not None:
                self._wakeups.listen()
            me = file_groups.Membership(
                group=consumer.group,
                member=consumer.member,
                presence=presence.name,
                token=secrets.token_hex(8),
                socket=self._wakeups.address if self._wakeups is not None else "",
                topics=tuple(sorted(self._topic_ids[topic] for topic in consumer.topics)),
            )
            subscription = FileSubscription(self, consumer, me, presence)
            await subscription.join()
        except BaseException:
            presence.close()
            raise
        self._subscriptions.add(subscription)
        return subscription

    async def read(
        self, topic: str, *, after: Mapping[int, int] | None = None, records_max: int = 1000
    ) -> list[Record]:
        self._check_open()
        found = await self.database.read(_topics)
        if topic not in found:
            return []
        topic_id = found[topic][0]
        starts = {part: (after or {}).get(part, 0) for part in range(self.partitions)}
        rows, stored = await self.database.read(
            lambda connection: _read(connection, topic_id, starts, records_max, self.shelf)
        )
        return [record_of(row, topic, stored) for row in rows]

    async def lag(self, group: str, topics: Sequence[str]) -> list[Lag]:
        self._check_open()
        return await self.database.read(lambda connection: _lag(connection, group, topics, self.partitions))

    async def close(self) -> None:
        if self._closed:
            return
        for subscription in list(self._subscriptions):
            await subscription.close()
        self._closed = True
        if self._wakeups is not None:
            self._wakeups.close()

    # -- beyond the port ----------------------------------------------------------------------------------------------

    async def prune(self, older_than_seconds: float, *, beyond_groups: bool = False, dry_run: bool = False) -> int:
        """Remove records older than that which every group has acknowledged; returns how many.

        Topics to which no group ever listened (letters, above all) are kept. `beyond_groups` removes old records of
        the others even where a group has not read them. `dry_run` only counts.
        """
        limit_us = self._clock() - int(older_than_seconds * 1_000_000)
        found = await self.database.read(
            lambda connection: _removable(connection, limit_us, self.partitions, beyond_groups=beyond_groups)
        )
        for (topic, part), (below, count) in {} if dry_run else found.items():
            change = functools.partial(_remove, arguments=(topic, below, part, REMOVED_AT_ONCE))
            for _ in range(-(-count // REMOVED_AT_ONCE)):
                await self.database.write(change)
        return sum(count for _, count in found.values())

    # -- for a store on the same file ---------------------------------------------------------------------------------

    def encloses(self, topics: Iterable[str]) -> bool:
        """Whether news for these topics can be written by somebody else's change, with `enclose`."""
        return self.shelf is not None and not self._closed and self._topic_ids.keys() >= set(topics)

    def enclose(self, connection: sqlite3.Connection, news: Iterable[tuple[str, str, int]]) -> Enclosed:
        """Write news (topic, key, number of what is stored) within a change of the file; once it is committed, `tell`."""
        time_us = self._clock()
        rows = [self._news_row(topic, key.encode(), stored, time_us) for topic, key, stored in news]
        return Enclosed({row[0] for row in rows}, self._append(rows, connection))

    def tell(self, enclosed: Enclosed) -> None:
        """Wake those who listen to what was enclosed, and is committed now."""
        self._appended(*enclosed)

    # -- for its subscriptions ----------------------------------------------------------------------------------------

    def topic(self, topic_id: int) -> str:
        """The name of a known topic."""
        return self._topics[topic_id]

    def topic_id(self, topic: str) -> int | None:
        """The id of a topic, if this process has met it."""
        return self._topic_ids.get(topic)

    def wake_group(self, sockets: Sequence[str]) -> None:
        """Tell the members of a group that something of the group changed."""
        if self._wakeups is not None:
            self._wakeups.wake(sockets, GROUPS)

    def forget(self, subscription: FileSubscription) -> None:
        """A subscription was closed."""
        self._subscriptions.discard(subscription)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _learn(self, topic: str, topic_id: int, partitions: int) -> None:
        if partitions != self.partitions:
            raise Refused(
                f"topic {topic} has {partitions} partitions, not {self.partitions}",
                hint="all topics have one partition count: open the bus with that one",
            )
        self._topic_ids[topic] = topic_id
        self._topics[topic_id] = topic

    def _row(self, message: Message, time_us: int) -> tuple[object, ...]:
        """The row of a message; without a copy of what the file holds already."""
        if message.stored is not None and self.shelf is not None:
            return self._news_row(message.topic, message.key, message.stored, time_us)
        place = (self._topic_ids[message.topic], partition_of(message.key, self.partitions), time_us)
        return (*place, message.key, pack_headers(message.headers), message.value, None)

    def _news_row(
        self, topic: str, key: bytes, stored: int, time_us: int
    ) -> tuple[int, int, int, bytes, bytes, bytes, int]:
        """The row of what the file holds already, by its number there."""
        return self._topic_ids[topic], partition_of(key, self.partitions), time_us, b"", b"", b"", stored

    def _append(self, rows: Sequence[tuple[object, ...]], connection: sqlite3.Connection) -> Seen | None:
        return _append(connection, rows, self._generation)

    def _appended(self, topics: set[int], seen: Seen | None) -> None:
        """Wake once for all that was committed together."""
        if seen is not None:
            self._generation, self._listeners = seen
        if self._wakeups is not None and not self._closed:
            addresses = set().union(*(self._listeners.get(topic, ()) for topic in topics))
            self._wakeups.wake(sorted(addresses), RECORDS)

    def _woken(self, kind: str) -> None:
        for subscription in self._subscriptions:
            subscription.wake(group=kind == GROUPS)

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("this connection to the bus is closed")


def _topics(connection: sqlite3.Connection) -> dict[str, tuple[int, int]]:
    """Name -> id and number of partitions."""
    return {topic: (topic_id, partitions) for topic, topic_id, partitions in connection.execute(SQL["topics"])}


def _add_topics(connection: sqlite3.Connection, topics: Sequence[str], partitions: int) -> dict[str, tuple[int, int]]:
    connection.executemany(SQL["add_topic"], [(topic, partitions) for topic in topics])
    return _topics(connection)


def _append(connection: sqlite3.Connection, rows: Sequence[tuple[object, ...]], generation: int) -> Seen | None:
    """Append the rows; returns who listens, where that has changed since `generation`."""
    connection.executemany(SQL["append"], rows)
    current: int = connection.execute(SQL["generation"]).fetchone()[0]
    if current == generation:
        return None
    listeners: dict[int, set[str]] = {}
    for address, topics in connection.execute(SQL["listeners"]):
        for topic in filter(None, topics.split(",")):
            if address:
                listeners.setdefault(int(topic), set()).add(address)
    return current, listeners


def _read(
    connection: sqlite3.Connection, topic: int, starts: Mapping[int, int], records_max: int, shelf: Shelf | None
) -> tuple[list[Row], Mapping[int, Content]]:
    rows: list[Row] = []
    position, mask = min(starts.values()), sum(1 << part for part in starts)
    while len(rows) < records_max:
        found: list[Row] = connection.execute(SQL["read"], (topic, position, mask, records_max)).fetchall()
        rows += [row for row in found if row[0] >= starts[row[2]]]
        if len(found) < records_max:
            break
        position = found[-1][0] + 1
    rows = rows[:records_max]
    return rows, stored_contents(connection, rows, shelf)


def _lag(connection: sqlite3.Connection, group: str, topics: Sequence[str], partitions: int) -> list[Lag]:
    known = _topics(connection)
    committed: dict[Place, int] = {
        (topic, part): after for topic, part, after in connection.execute(SQL["committed"], (group,))
    }
    found: list[Lag] = []
    for name in topics:
        topic = known[name][0] if name in known else -1
        starts = [committed.get((topic, part)) for part in range(partitions)]
        ends, behind = [start or 0 for start in starts], [0] * partitions
        for part, offset in connection.execute(SQL["behind"], (topic, min(ends))):
            if offset >= (starts[part] or 0):
                ends[part] = max(ends[part], offset + 1)
                behind[part] += 1
        found += [Lag(name, part, starts[part], ends[part], behind[part]) for part in range(partitions)]
    return found


def _floors(connection: sqlite3.Connection, limit_us: int, partitions: int) -> dict[Place, tuple[int, int]]:
    """Place -> the offset below which every group has read all, and the first offset that is too young."""
    newest: int = connection.execute(SQL["newest"]).fetchone()[0]
    young: tuple[int] | None = connection.execute(SQL["first_since"], (limit_us,)).fetchone()
    parts = str(list(range(partitions)))
    return {
        (topic, part): (slowest, min(young[0] if young else newest, newest))
        for topic, part, slowest in connection.execute(SQL["slowest"], (parts,))
    }


def _removable(
    connection: sqlite3.Connection, limit_us: int, partitions: int, *, beyond_groups: bool
) -> dict[Place, tuple[int, int]]:
    """Place -> the offset below which records may go, and how many there are; places without any are left out."""
    found = {}
    for (topic, part), (slowest, young) in _floors(connection, limit_us, partitions).items():
        below = young if beyond_groups else min(slowest, young)
        count: int = connection.execute(SQL["removable"], (topic, below, part)).fetchone()[0]
        if count:
            found[topic, part] = (below, count)
    return found


def _remove(connection: sqlite3.Connection, arguments: tuple[int, int, int, int]) -> int:
    return connection.execute(SQL["remove"], arguments).rowcount
