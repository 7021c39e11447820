"""Reading places from offsets on, from whichever brokers lead them, by fetch sessions (KIP-227).

A broker remembers what it is asked for; a question names only what has changed since the last one, and an answer only
the places that have news. aiokafka's consumer names all places in both, each time, which costs more than the records of
a system that has little to do. Nothing is kept here between two questions: positions belong to whoever reads.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from operator import itemgetter
from typing import Any, Final, NamedTuple

from aiokafka import TopicPartition, errors
from aiokafka.client import AIOKafkaClient
from aiokafka.record.memory_records import MemoryRecords

from bus.kafka.cluster import Cluster
from bus.kafka.link import BACKOFF_MS, arguments, begun, dropped, ended
from bus.kafka.wire import Api, Request
from bus.port import Record

log = logging.getLogger(__name__)

WAIT_MS: Final = 500
"""How long a broker waits for news before it answers that there is none: by so much a gained place may be late."""
BYTES_MAX: Final = 16 << 20
PLACE_BYTES_MAX: Final = 1 << 20
"""Of one place in one answer; a larger batch comes by itself."""
EPOCH_MAX: Final = 2**31 - 1
UNKNOWN_SESSION, WRONG_EPOCH = 70, 71
LEADERLESS: Final = frozenset({3, 5, 6, 9, 56})
"""No such place here, or not any more: who leads it is to be asked again."""

QUESTION: Final = struct.Struct(">iiiibii")
ASKED: Final = struct.Struct(">iqqi")
ANSWER: Final = struct.Struct(">ihii")
FOUND: Final = struct.Struct(">ihqqqi")
SHORT: Final = struct.Struct(">h")
INT: Final = struct.Struct(">i")
ABORTED_BYTES: Final = 16
VALUE: Final = itemgetter(1)


class News(NamedTuple):
    """What an answer says of one place: an error, or batches from the offset on that was asked for."""

    place: TopicPartition
    error: int
    data: bytes


class Answer(NamedTuple):
    """`session` is the broker's number of it, 0 where it keeps none."""

    error: int
    session: int
    news: list[News]


class Read(NamedTuple):
    """Records from `asked` on, and where the next ones begin."""

    asked: int
    records: list[Record]
    following: int


class _Question:
    """The values of a fetch as bytes."""

    @staticmethod
    def encode(values: tuple[int, int, Mapping[TopicPartition, int], Iterable[TopicPartition]]) -> bytes:
        session, epoch, asked, dropped_places = values
        out = [QUESTION.pack(-1, WAIT_MS, 1, BYTES_MAX, 0, session, epoch)]
        topics: dict[str, list[bytes]] = {}
        for place, offset in asked.items():
            topics.setdefault(place.topic, []).append(ASKED.pack(place.partition, offset, -1, PLACE_BYTES_MAX))
        _put_topics(out, topics)
        forgotten: dict[str, list[bytes]] = {}
        for place in dropped_places:
            forgotten.setdefault(place.topic, []).append(INT.pack(place.partition))
        _put_topics(out, forgotten)
        return b"".join(out)


def _put_topics(out: list[bytes], topics: Mapping[str, list[bytes]]) -> None:
    out.append(INT.pack(len(topics)))
    for topic, partitions in topics.items():
        name = topic.encode()
        out += (SHORT.pack(len(name)), name, INT.pack(len(partitions)), *partitions)


class _Fetch(Api):
    """Fetch in the first version with sessions."""

    def decode(self, data: BytesIO) -> Any:
        return answered(data.read())


FETCH: Final = _Fetch("Fetch", 1, 7, _Question, None)


def answered(data: bytes) -> Answer:
    """An answer taken apart."""
    _, error, session, topics = ANSWER.unpack_from(data)
    at, news = ANSWER.size, []
    for _ in range(topics):
        (length,) = SHORT.unpack_from(data, at)
        topic = data[at + SHORT.size : at + SHORT.size + length].decode()
        at += SHORT.size + length
        (partitions,) = INT.unpack_from(data, at)
        at += INT.size
        for _ in range(partitions):
            partition, code, _, _, _, aborted = FOUND.unpack_from(data, at)
            at += FOUND.size + max(aborted, 0) * ABORTED_BYTES
            (size,) = INT.unpack_from(data, at)
            at += INT.size
            news.append(News(TopicPartition(topic, partition), code, data[at : at + max(size, 0)]))
            at += max(size, 0)
    return Answer(error, session, news)


@dataclass(slots=True)
class Session:
    """What a broker knows of us: its number, the next question's, and where it reads each place on."""

    number: int = 0
    epoch: int = 0
    asked: dict[TopicPartition, int] = field(default_factory=dict)

    def question(self, wanted: Mapping[TopicPartition, int]) -> Request:
        """What has changed since the last question; all of it, where there was none."""
        if self.epoch == 0:
            changed, gone = wanted, []
        else:
            changed = {place: offset for place, offset in wanted.items() if self.asked.get(place) != offset}
            gone = [place for place in self.asked if place not in wanted]
        self.asked = dict(wanted)
        return Request(FETCH, (self.number, self.epoch, changed, gone))

    def heard(self, answer: Answer) -> None:
        """The next question is the next of this session; without one, it asks for all again."""
        self.number = answer.session
        self.epoch = 0 if answer.session == 0 else self.epoch % EPOCH_MAX + 1


class Fetching:
    """One question at a time to each broker. Raises errors of aiokafka that whoever reads must hear of."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._client: Any = AIOKafkaClient(**arguments(cluster))
        self._sessions: dict[int, Session] = {}
        self._asking: dict[int, asyncio.Task[tuple[dict[TopicPartition, int], Answer | None]]] = {}
        self._closed = False

    async def start(self, topics: Collection[str]) -> None:
        """Connect, and learn who leads these topics."""
        self._client.set_topics([self._cluster.named(topic) for topic in topics])
        await begun(self._cluster.patience.request, self._client.bootstrap())

    async def close(self) -> None:
        """Let go of it, whatever it is doing."""
        self._closed = True
        await ended(self._asking.values())
        await dropped(self._client.close())

    async def read(self, wanted: Mapping[TopicPartition, int]) -> dict[TopicPartition, Read]:
        """What comes first of these places, nothing after a while. `wanted` may have changed by then: see `asked`."""
        for node, places in self._by_leader(wanted).items():
            if node not in self._asking:
                self._asking[node] = asyncio.create_task(self._ask(node, places))
        if not self._asking:  # nobody leads anything
            await asyncio.wait({self._client.force_metadata_update()}, timeout=BACKOFF_MS / 1000)
            await asyncio.sleep(BACKOFF_MS / 1000)
            return {}
        done, _ = await asyncio.wait(self._asking.values(), return_when=asyncio.FIRST_COMPLETED)
        if self._closed:
            raise errors.KafkaConnectionError("the reader was closed")
        found: dict[TopicPartition, Read] = {}
        for node in [node for node, task in self._asking.items() if task in done]:
            asked, answer = self._asking.pop(node).result()
            if answer is not None:
                await self._take(asked, answer, found)
        return found

    def _by_leader(self, wanted: Mapping[TopicPartition, int]) -> dict[int, dict[TopicPartition, int]]:
        found: dict[int, dict[TopicPartition, int]] = {}
        leader_of = self._client.cluster.leader_for_partition
        leaderless = False
        for place, offset in wanted.items():
            leader = leader_of(place)
            if leader is None or leader == -1:
                leaderless = True
            else:
                found.setdefault(leader, {})[place] = offset
        if leaderless:
            self._client.force_metadata_update()
        return found

    async def _ask(
        self, node: int, wanted: dict[TopicPartition, int]
    ) -> tuple[dict[TopicPartition, int], Answer | None]:
        """Ask one broker; what was asked, and None where it gave no answer: then the next question asks for all again."""
        session = self._sessions.setdefault(node, Session())
        try:
            answer: Answer = await self._client.send(node, session.question(wanted))
        except errors.KafkaError as error:
            log.warning("broker %s gave nothing to read: %s", node, error)
            del self._sessions[node]
            await asyncio.sleep(BACKOFF_MS / 1000)
            return wanted, None
        except BaseException:
            self._sessions.pop(node, None)
            raise
        if answer.error:
            del self._sessions[node]
            if answer.error not in {UNKNOWN_SESSION, WRONG_EPOCH}:
                log.warning("broker %s gave nothing to read: %s", node, errors.for_code(answer.error).__name__)
                await asyncio.sleep(BACKOFF_MS / 1000)
            return wanted, None
        session.heard(answer)
        return wanted, answer

    async def _take(
        self, asked: Mapping[TopicPartition, int], answer: Answer, found: dict[TopicPartition, Read]
    ) -> None:
        """The records of an answer. Raises what is wrong with a place, once the others have been looked at."""
        cut, outside, later = len(self._cluster.prefix), {}, False
        for place, code, data in answer.news:
            offset = asked.get(place)
            if offset is None:
                continue
            if code == errors.OffsetOutOfRangeError.errno:
                outside[place] = offset
            elif code == errors.TopicAuthorizationFailedError.errno:
                raise errors.TopicAuthorizationFailedError(place.topic)
            elif code:
                log.debug("%s/%d cannot be read now: %s", *place, errors.for_code(code).__name__)
                later = True
                if code in LEADERLESS:
                    self._client.force_metadata_update()
            elif data:
                found[place] = records_in(place.topic[cut:], place, data, offset)
        if outside and not found:  # else they are told of with the next answer
            raise errors.OffsetOutOfRangeError(outside)
        if later and not found:
            await asyncio.sleep(BACKOFF_MS / 1000)


def records_in(topic: str, place: TopicPartition, data: bytes, offset: int) -> Read:
    """Batches taken apart. Raises CorruptRecordException, or UnicodeDecodeError where a header has an odd name."""
    records: list[Record] = []
    batches, partition, following = MemoryRecords(data), place.partition, offset
    while batches.has_next():
        batch = batches.next_batch()
        if not batch.validate_crc():
            raise errors.CorruptRecordException(f"a batch of {topic}/{partition} is damaged")
        if not batch.is_control_batch:
            records.extend(
                Record(
                    *(topic, partition, one.offset, one.key or b"", one.value or b""),
                    *(filled(one.headers), one.timestamp * 1000),
                )
                for one in batch
                if one.offset >= offset
            )
        following = batch.next_offset
    return Read(offset, records, following)


def filled(headers: Iterable[tuple[str, bytes | None]]) -> tuple[tuple[str, bytes], ...]:
    """Headers as the port has them: it knows none without content."""
    kept = tuple(headers)
    if None in map(VALUE, kept):
        return tuple((name, value or b"") for name, value in kept)
    return kept  # type: ignore[return-value]  # none of them is None
