"""Publishing in batches: what is there goes out together, one batch at a time per partition, in the order it came.

The producer is idempotent and waits for all replicas. Whatever it does not confirm in time, or refuses, has an unknown
outcome: it is thrown away with everything that waits in it, and a new one is made for those who publish again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaProducer, errors

from bus.kafka import faults
from bus.kafka.cluster import Cluster
from bus.kafka.link import CLOSE_SECONDS, arguments, begun, ended, within
from bus.partitions import partition_of
from bus.port import Message
from contracts.codec import HEADERS_BYTES_MAX
from contracts.errors import GavotteError, TooLarge, Unavailable

log = logging.getLogger(__name__)

BATCH_BYTES: Final = 256 * 1024
BATCH_MESSAGES: Final = 10_000
HEADROOM_BYTES: Final = 64 * 1024
"""A letter carries its record and what is to be said of it."""

Place = tuple[str, int]


class Call:
    """One `publish`: done when all its messages are."""

    __slots__ = ("future", "left")

    def __init__(self, left: int) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.left = left

    def confirm(self) -> None:
        """One message is stored."""
        self.left -= 1
        if self.left == 0 and not self.future.done():
            self.future.set_result(None)

    def fail(self, error: GavotteError) -> None:
        """A message was not stored, or nobody knows."""
        if not self.future.done():
            self.future.set_exception(error)


class Entry(NamedTuple):
    """One message on its way. Its headers are made once: they may come from an envelope."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    call: Call


Queue = deque[Entry]


class Publisher:
    """Messages with topics as the port names them; those must exist."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._producer: Any = None
        self._opening = asyncio.Lock()
        self._queues: dict[Place, Queue] = {}
        self._senders: set[asyncio.Task[None]] = set()
        self._closings: set[asyncio.Task[None]] = set()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Store all; raises Unavailable where the outcome is unknown, and TooLarge, Refused where it is not stored."""
        call = Call(len(messages))
        entries = [Entry(message.key, message.value, list(message.headers), call) for message in messages]
        for message, entry in zip(messages, entries, strict=True):
            self._check(message.topic, entry)
        for message, entry in zip(messages, entries, strict=True):
            place = (message.topic, partition_of(message.key, self._cluster.partitions))
            queue = self._queues.get(place)
            if queue is None:
                self._queues[place] = queue = deque()
                task = asyncio.create_task(self._send(place, queue))
                self._senders.add(task)
                task.add_done_callback(self._senders.discard)
            queue.append(entry)
        try:
            await call.future
        except asyncio.CancelledError:
            call.future.cancel()
            raise

    async def close(self) -> None:
        """Fail what is in flight and let go of the producer."""
        await ended(self._senders)
        self._drop()
        if self._closings:
            await asyncio.wait(self._closings, timeout=2 * CLOSE_SECONDS)

    def _check(self, topic: str, entry: Entry) -> None:
        if len(entry.value) + HEADERS_BYTES_MAX < self._cluster.record_bytes_max:
            return  # nobody reads more in headers, so nearly nothing needs to be measured
        size = len(entry.key) + len(entry.value) + sum(map(len, chain.from_iterable(entry.headers)))
        most = self._cluster.record_bytes_max
        if topic.endswith(".dlq"):
            most += HEADROOM_BYTES
        if size > most:
            raise TooLarge(
                f"a record of {size} bytes for {topic} exceeds {most}", hint="large contents belong in bodies"
            )

    # -- one partition ------------------------------------------------------------------------------------------------

    async def _send(self, place: Place, queue: Queue) -> None:
        """Send what is queued until nothing is. What fails fails whatever waits behind it, for the order's sake."""
        batch: list[Entry] = []
        at_once = BATCH_MESSAGES
        try:
            while queue:
                producer = await self._open()
                try:
                    await self._send_batch(producer, place, self._pack(producer, queue, batch, at_once))
                except TooLarge as error:
                    if len(batch) == 1:
                        batch.pop().call.fail(error)
                    at_once = 1  # to find the one that is
                    queue.extendleft(reversed(batch))
                else:
                    for entry in batch:
                        entry.call.confirm()
                batch.clear()
        except GavotteError as error:
            self._fail((*batch, *queue), error)
        except asyncio.CancelledError:
            self._fail((*batch, *queue), Unavailable("this connection to the bus is closed"))
            raise
        except Exception as error:  # whoever waits must hear of it, whatever it is
            log.exception("a batch for %s could not be made", place[0])
            self._fail((*batch, *queue), Unavailable(f"publishing to {place[0]} failed: {error!r}"))
        finally:
            del self._queues[place]

    @staticmethod
    def _fail(entries: Iterable[Entry], error: GavotteError) -> None:
        for entry in entries:
            entry.call.fail(error)

    @staticmethod
    def _pack(producer: Any, queue: Queue, batch: list[Entry], most: int) -> Any:
        """As many messages as one batch takes; the first always fits."""
        builder = producer.create_batch()
        while queue and len(batch) < most:
            entry = queue[0]
            if entry.call.future.done():  # whoever asked has gone, or heard that it failed
                queue.popleft()
                continue
            added = builder.append(timestamp=None, key=entry.key, value=entry.value, headers=entry.headers)
            if added is None:
                break
            batch.append(queue.popleft())
        return builder

    async def _send_batch(self, producer: Any, place: Place, builder: Any) -> None:
        if builder.record_count() == 0:
            return
        topic, part = place
        try:
            async with asyncio.timeout(self._cluster.patience.request):
                await (await producer.send_batch(builder, self._cluster.named(topic), partition=part))
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            raise Unavailable(f"publishing to {topic}: the connection was closed meanwhile") from None
        except (errors.KafkaError, OSError, AssertionError) as error:  # the last: a partition that is not there
            self._drop(producer)
            raise faults.explained(error, self._cluster, f"publishing to {topic}") from error

    # -- the producer -------------------------------------------------------------------------------------------------

    async def _open(self) -> Any:
        async with self._opening:
            if self._producer is None:
                room = self._cluster.record_bytes_max + 2 * HEADROOM_BYTES
                producer = AIOKafkaProducer(
                    **arguments(self._cluster),
                    acks="all",
                    enable_idempotence=True,
                    max_batch_size=BATCH_BYTES,
                    max_request_size=room,
                )
                try:
                    await begun(self._cluster.patience.request, producer.start())
                except BaseException as error:
                    self._begin_closing(producer)
                    if isinstance(error, errors.KafkaError | OSError):
                        raise faults.explained(error, self._cluster, "publishing") from error
                    raise
                self._producer = producer
            return self._producer

    def _drop(self, producer: Any = None) -> None:
        """Throw this producer away, if it is still the one in use; None for whichever is."""
        if self._producer is not None and producer in {None, self._producer}:
            producer, self._producer = self._producer, None
            self._begin_closing(producer)

    def _begin_closing(self, producer: Any) -> None:
        task = asyncio.create_task(_close(producer))
        self._closings.add(task)
        task.add_done_callback(self._closings.discard)


async def _close(producer: Any) -> None:
    """End a producer that may be in any state; its own way waits for brokers to confirm what they never will."""
    producer._closed = True  # noqa: SLF001  what `stop` begins with
    try:
        await within(CLOSE_SECONDS, producer._sender.close())  # noqa: SLF001  likewise, without the wait
    except Exception as error:  # noqa: BLE001  it is thrown away either way
        log.debug("a producer ended with %r", error)
    try:
        await within(CLOSE_SECONDS, producer.client.close())
    except Exception as error:  # noqa: BLE001  likewise
        log.debug("a connection ended with %r", error)
