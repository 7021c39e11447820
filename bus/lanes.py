"""Lanes: one task's work in order, different tasks side by side, and offsets that never pass what is unfinished.

How a worker uses them:

    lanes = Lanes(worker.deliver, detach)
    lanes.add(work)                     # a record just fetched, or, with `record` None, something swept from the store
    await bus.commit(lanes.ready_offsets()), then lanes.committed(the same offsets)
    lanes.pass_over(work)               # a record that is none of this worker's business
    subscription.pause(lanes.full_partitions()) and resume what is no longer among them
    await lanes.drain(partitions)       # in on_lost: then commit what is ready
    await lanes.progressed.wait()       # something of the above may have changed; clear it before looking

A record counts as done for its offset once `handle` has returned, or once it is *detached*: not done within
`detach_seconds`, running or queued behind its own task, and made durable by `detach`. A detached one goes on as
before, but holds back no offset. Nothing here retries: `handle` deals with failures, and an exception of it means stop.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

from bus.port import Record

log = logging.getLogger(__name__)

RUNNING_MAX: Final = 64
DETACH_SECONDS: Final = 30.0
AHEAD_MAX: Final = 1_000
DETACH_RETRY_SECONDS: Final = 5.0
DETACH_RETRY_SECONDS_MAX: Final = 300.0
LOOKS_PER_DETACH: Final = 30
"""How often within `detach_seconds` the late ones are looked for."""


class Laned(Protocol):
    """What a lane carries: `key` names the lane; `record` is None for work that has no offset."""

    @property
    def key(self) -> bytes: ...
    @property
    def record(self) -> Record | None: ...


W = TypeVar("W", bound=Laned)

Handle = Callable[[W], Coroutine[Any, Any, None]]


class Lanes(Generic[W]):
    """The work of one process. All methods belong to the event loop's thread.

    `handle` is called once per work, one at a time per key and at most `running_max` at a time; `prepare` before that
    with all that begin together, who begin whatever it raises. `detach` may be called while `handle` of the same work
    runs; if it raises, it is called again after a while. A partition is full when `ahead_max` of its records are in the
    lanes or done behind an unfinished one, until half of them are gone.
    """

    def __init__(
        self,
        handle: Handle[W],
        detach: Handle[W],
        *,
        prepare: Callable[[Sequence[W]], None] | None = None,
        running_max: int = RUNNING_MAX,
        detach_seconds: float = DETACH_SECONDS,
        ahead_max: int = AHEAD_MAX,
    ) -> None:
        self.progressed = asyncio.Event()
        """Set whenever offsets became ready, a partition has room again, or a handling ended or failed."""
        self.failure: BaseException | None = None
        """What `handle` raised: nothing is started any more, and the worker must stop."""
        self._handle = handle
        self._detach = detach
        self._prepare = prepare
        self._running_max = running_max
        self._detach_seconds = detach_seconds
        self._ahead_max = ahead_max
        self._queues: dict[bytes, deque[_Item[W]]] = {}
        self._startable: deque[bytes] = deque()
        self._running: dict[bytes, tuple[_Item[W], asyncio.Task[None]]] = {}
        self._detaching: set[asyncio.Task[None]] = set()
        self._look: asyncio.TimerHandle | None = None
        self._offsets: dict[tuple[str, int], _Offsets[W]] = {}
        self._loads: dict[int, int] = {}
        self._full: set[int] = set()
        self._resting = 0
        self._held = False
        self._starting: asyncio.Handle | None = None

    # -- what comes in ------------------------------------------------------------------------------------------------

    def add(self, work: W) -> None:
        """Queue the work behind all work of its key. Records are added in the order in which they were fetched."""
        item = _Item(work, asyncio.get_running_loop().time())
        if work.record is not None:
            self._expect(item, work.record)
        queue = self._queues.get(work.key)
        if queue is not None:
            queue.append(item)
        else:
            self._queues[work.key] = deque((item,))
            if work.key not in self._running:
                self._startable.append(work.key)
        self._start_soon()

    def pass_over(self, work: W) -> None:
        """A record that needs no handling: it only stands in the order of offsets."""
        if work.record is None:
            return
        offsets = self._offsets_of(work.record)
        if offsets.unfinished:  # behind what is not finished: it waits for that
            item = _Item(work, 0.0)
            item.finished, item.kept_by = True, 1
            offsets.unfinished.append(item)
            self._load(work.record.partition, 1)
        else:
            offsets.ready = max(offsets.ready, work.record.offset + 1)
            self.progressed.set()

    def _offsets_of(self, record: Record) -> _Offsets[W]:
        place = (record.topic, record.partition)
        offsets = self._offsets.get(place)
        if offsets is None or offsets.left:
            offsets = self._offsets[place] = _Offsets()
        return offsets

    def _expect(self, item: _Item[W], record: Record) -> None:
        offsets = item.offsets = self._offsets_of(record)
        offsets.unfinished.append(item)
        self._load(record.partition, 1)
        if self._look is None:
            self._look_again()

    # -- what the worker asks -----------------------------------------------------------------------------------------

    def ready_offsets(self) -> dict[tuple[str, int], int]:
        """The next offset to read per (topic, partition), where it moved since it was last `committed`."""
        return {place: found.ready for place, found in self._offsets.items() if found.ready > found.committed}

    def committed(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """The bus has these offsets: `ready_offsets` need not repeat them."""
        for place, offset in offsets.items():
            found = self._offsets.get(place)
            if found is None:
                continue
            found.committed = max(found.committed, offset)
            if found.left and found.ready <= found.committed:
                del self._offsets[place]

    def full_partitions(self) -> frozenset[int]:
        """The partitions of which nothing more should be fetched now."""
        return frozenset(self._full)

    @property
    def running(self) -> int:
        """How many are being handled now."""
        return len(self._running)

    @property
    def at_work(self) -> list[W]:
        """What is being handled now."""
        return [item.work for item, _ in self._running.values()]

    @property
    def room(self) -> int:
        """How many more could begin now."""
        if self._held or self.failure is not None:
            return 0
        return max(0, self._running_max - len(self._running) + self._resting)

    def is_free(self, key: bytes) -> bool:
        """Whether nothing of this key is running or queued."""
        return key not in self._running and key not in self._queues

    @property
    def waiting(self) -> int:
        """How many are queued and not begun."""
        return sum(len(queue) for queue in self._queues.values())

    @property
    def idle(self) -> bool:
        """Whether nothing is running, queued or being detached."""
        return not self._running and not self._queues and not self._detaching

    # -- how it is stopped --------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Begin nothing until `release`; what runs goes on."""
        self._held = True

    def release(self) -> None:
        """Begin work again."""
        self._held = False
        self._start_soon()

    def cancel(self, key: bytes | None = None) -> int:
        """Cancel what is being handled for the key, or everything; returns how many.

        If `handle` lets CancelledError through, the work goes back to the head of its lane, its offset unfinished,
        and begins anew as soon as it may: `hold` first to keep it there.
        """
        found = [task for lane, (_, task) in self._running.items() if key is None or lane == key]
        for task in found:
            task.cancel()
        return len(found)

    async def drain(self, partitions: Collection[int] | None = None, timeout_seconds: float = 10.0) -> None:
        """Finish what came from these partitions (None: everything), as before they go to another process.

        What has not begun is dropped: it was not acknowledged, so it comes again, there. What runs gets the time to
        finish; what then still runs is detached, within as long again, and goes on. Afterwards `ready_offsets` is
        final for these partitions. With None, work that was swept is dropped as well.
        """
        self._drop_queued(partitions)
        running = [(item, task) for item, task in self._running.values() if item.is_of(partitions)]
        if running:
            await asyncio.wait([task for _, task in running], timeout=timeout_seconds)
        late = [self._begin_detaching(item) for item, task in running if not task.done() and item.holds_offset]
        if late:
            log.info("%d deliveries go on while their partitions leave", len(late))
            await asyncio.wait(late, timeout=timeout_seconds)
        for place, offsets in self._offsets.items():
            if partitions is None or place[1] in partitions:
                self._leave(offsets)

    async def close(self, timeout_seconds: float = 10.0) -> None:
        """Begin nothing more, cancel what runs and wait for it to end."""
        self._held = True
        self._drop_queued(None)
        for item, _ in self._running.values():
            item.dropped = True
        self.cancel()
        for task in self._detaching:
            task.cancel()
        tasks = [task for _, task in self._running.values()] + list(self._detaching)
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_seconds)
        if self._look is not None:
            self._look.cancel()

    # -- running ------------------------------------------------------------------------------------------------------

    def _start_soon(self) -> None:
        """In the next turn, with all that may begin by then."""
        if self._starting is None:
            self._starting = asyncio.get_running_loop().call_soon(self.start)

    def start(self) -> None:
        """Begin what may begin, now and together; without this it begins in the next turn."""
        if self._starting is not None:
            self._starting.cancel()
            self._starting = None
        beginning: dict[bytes, _Item[W]] = {}
        room = self.room
        while self._startable and len(beginning) < room:
            key = self._startable.popleft()
            queue = self._queues.get(key)
            if not queue or key in self._running or key in beginning:
                continue
            beginning[key] = queue.popleft()
            if not queue:
                del self._queues[key]
        if not beginning:
            return
        if self._prepare is not None:
            try:
                self._prepare([item.work for item in beginning.values()])
            except Exception as error:  # noqa: BLE001  # each begins all the same, and meets it if it lasts
                log.warning("preparing failed: %s", error)
        loop = asyncio.get_running_loop()
        for key, item in beginning.items():
            task = loop.create_task(self._handle(item.work))
            self._running[key] = (item, task)
            task.add_done_callback(partial(self._ended, item))

    @contextmanager
    def resting(self) -> Iterator[None]:
        """For a handling that merely waits: meanwhile its slot is another task's; its own task keeps waiting."""
        self._resting += 1
        self._start_soon()
        try:
            yield
        finally:
            self._resting -= 1

    def _ended(self, item: _Item[W], task: asyncio.Task[None]) -> None:
        key = item.work.key
        del self._running[key]
        if task.cancelled():
            if not item.dropped:
                self._queues.setdefault(key, deque()).appendleft(item)
        elif task.exception() is not None:
            self.failure = self.failure or task.exception()
        else:
            self._let_go(item)
            self._finish(item)
        if key in self._queues:
            self._startable.append(key)
        self.progressed.set()
        self._start_soon()

    # -- offsets ------------------------------------------------------------------------------------------------------

    def _finish(self, item: _Item[W]) -> None:
        """Done for its offset: whatever lies before the first unfinished one is ready."""
        offsets = item.offsets
        item.finished = True
        if offsets is None:
            return
        while offsets.unfinished and offsets.unfinished[0].finished:
            first = offsets.unfinished.popleft()
            offsets.ready = max(offsets.ready, first.next_offset)
            self._let_go(first)
            self.progressed.set()

    def _let_go(self, item: _Item[W]) -> None:
        """One of the two that keep a record on the books: its lane, and the order of its offsets."""
        item.kept_by -= 1
        if item.kept_by == 0 and item.work.record is not None:
            self._load(item.work.record.partition, -1)

    def _load(self, partition: int, change: int) -> None:
        load = self._loads.get(partition, 0) + change
        self._loads[partition] = load
        if load >= self._ahead_max:
            self._full.add(partition)
        elif partition in self._full and load <= self._ahead_max // 2:
            self._full.discard(partition)
            self.progressed.set()

    def _leave(self, offsets: _Offsets[W]) -> None:
        """Unhook what is unfinished: the same records may come again, as others."""
        offsets.left = True
        while offsets.unfinished:
            item = offsets.unfinished.popleft()
            item.offsets = None
            self._let_go(item)

    def _drop_queued(self, partitions: Collection[int] | None) -> None:
        for key, queue in list(self._queues.items()):
            for item in [item for item in queue if item.is_of(partitions)]:
                queue.remove(item)
                item.dropped = True
                self._let_go(item)
            if not queue:
                del self._queues[key]

    # -- detaching ----------------------------------------------------------------------------------------------------

    def _look_again(self) -> None:
        seconds = self._detach_seconds / LOOKS_PER_DETACH
        self._look = asyncio.get_running_loop().call_later(seconds, self._look_for_the_late)

    def _look_for_the_late(self) -> None:
        """Detach what runs too long and what is queued behind it; what only waits for a free slot keeps waiting."""
        self._look = None
        limit = asyncio.get_running_loop().time() - self._detach_seconds
        for offsets in self._offsets.values():
            for item in _older(offsets.unfinished, limit):
                if item.holds_offset and not item.detaching and item.work.key in self._running:
                    self._begin_detaching(item)
        if any(offsets.unfinished for offsets in self._offsets.values()):
            self._look_again()

    def _begin_detaching(self, item: _Item[W]) -> asyncio.Task[None]:
        item.detaching = True
        task = asyncio.get_running_loop().create_task(self._detach_until_done(item))
        self._detaching.add(task)
        task.add_done_callback(self._detaching.discard)
        return task

    async def _detach_until_done(self, item: _Item[W]) -> None:
        pause_seconds = DETACH_RETRY_SECONDS
        while item.holds_offset:
            try:
                await self._detach(item.work)
            except Exception as error:  # noqa: BLE001  # whatever it is: the offset stays, nothing is lost, try again
                log.warning("detaching failed, tried again in %g s: %s", pause_seconds, error)
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(pause_seconds * 2, DETACH_RETRY_SECONDS_MAX)
            else:
                self._finish(item)


class _Item(Generic[W]):
    """Work in a lane and how far it is."""

    __slots__ = ("added", "detaching", "dropped", "finished", "kept_by", "offsets", "work")

    def __init__(self, work: W, added: float) -> None:
        self.work = work
        self.added = added
        self.offsets: _Offsets[W] | None = None
        self.kept_by = 2
        self.finished = False
        """Handled or detached: done for the offset."""
        self.dropped = False
        self.detaching = False

    @property
    def holds_offset(self) -> bool:
        return self.offsets is not None and not self.finished and not self.dropped

    @property
    def next_offset(self) -> int:
        return self.work.record.offset + 1 if self.work.record is not None else 0

    def is_of(self, partitions: Collection[int] | None) -> bool:
        record = self.work.record
        return partitions is None or (record is not None and record.partition in partitions)


class _Offsets(Generic[W]):
    """What of one (topic, partition) is not yet acknowledged, in offset order; `left` once the partition went."""

    __slots__ = ("committed", "left", "ready", "unfinished")

    def __init__(self) -> None:
        self.unfinished: deque[_Item[W]] = deque()
        self.ready = 0
        self.committed = 0
        self.left = False


def _older(items: deque[_Item[W]], limit: float) -> Iterator[_Item[W]]:
    for item in items:
        if item.added > limit:
            return
        yield item
