"""Order within a task, concurrency across tasks, and offsets that never pass what is unfinished."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from bus.lanes import Lanes
from bus.port import Record


@dataclass(eq=False)
class Job:
    key: bytes
    record: Record | None = None


def job(key: str, offset: int, partition: int = 0, topic: str = "t") -> Job:
    return Job(key.encode(), Record(topic, partition, offset, key.encode(), b"", (), 0))


class Desk:
    """A handler whose jobs end when the test says so."""

    def __init__(self, **settings: float) -> None:
        self.begun: list[Job] = []
        self.detached: list[Job] = []
        self.gates: dict[int, asyncio.Future[None]] = {}
        self.detach_error: Exception | None = None
        self.lanes: Lanes[Job] = Lanes(self.handle, self.detach, **settings)  # type: ignore[arg-type]  # int or float

    async def handle(self, work: Job) -> None:
        self.begun.append(work)
        await self.gates.setdefault(id(work), asyncio.get_running_loop().create_future())

    async def detach(self, work: Job) -> None:
        if self.detach_error is not None:
            raise self.detach_error
        self.detached.append(work)

    async def finish(self, work: Job) -> None:
        await until(lambda: id(work) in self.gates)
        self.gates.pop(id(work)).set_result(None)
        await settle()

    async def add(self, *jobs: Job) -> None:
        for each in jobs:
            self.lanes.add(each)
        await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_one_key_is_handled_in_order_and_others_beside_it() -> None:
    desk = Desk()
    a1, a2, b1 = job("a", 1), job("a", 2), job("b", 3)
    await desk.add(a1, a2, b1)
    assert desk.begun == [a1, b1]
    await desk.finish(b1)
    assert desk.begun == [a1, b1]
    await desk.finish(a1)
    assert desk.begun == [a1, b1, a2]
    await desk.finish(a2)
    assert desk.lanes.idle


async def test_a_key_is_one_lane_over_all_topics_and_for_swept_work() -> None:
    desk = Desk()
    first, swept, last = job("a", 1, topic="t1"), Job(b"a"), job("a", 2, topic="t2")
    await desk.add(first, swept, last)
    assert desk.begun == [first]
    await desk.finish(first)
    assert desk.begun == [first, swept]
    await desk.finish(swept)
    assert desk.begun == [first, swept, last]
    await desk.finish(last)
    assert desk.lanes.ready_offsets() == {("t1", 0): 2, ("t2", 0): 3}


async def test_at_most_so_many_run_and_every_key_gets_its_turn() -> None:
    desk = Desk(running_max=2)
    jobs = [job(key, offset) for offset, key in enumerate("aabbcc")]
    await desk.add(*jobs)
    assert [found.key for found in desk.begun] == [b"a", b"b"]
    await desk.finish(jobs[0])
    assert [found.key for found in desk.begun] == [b"a", b"b", b"c"], "c waited longer than the second a"


async def test_offsets_are_ready_up_to_the_first_unfinished_record() -> None:
    desk = Desk()
    jobs = [job("a", 10), job("b", 17), job("c", 18), job("d", 3, partition=1)]
    await desk.add(*jobs)
    await desk.finish(jobs[2])
    await desk.finish(jobs[1])
    assert desk.lanes.ready_offsets() == {}
    await desk.finish(jobs[3])
    assert desk.lanes.ready_offsets() == {("t", 1): 4}
    desk.lanes.committed({("t", 1): 4})
    await desk.finish(jobs[0])
    assert desk.lanes.ready_offsets() == {("t", 0): 19}


async def test_a_late_record_is_detached_and_holds_back_no_offset() -> None:
    desk = Desk(detach_seconds=0.06)
    late, behind, other = job("a", 1), job("a", 2), job("b", 3)
    await desk.add(late, behind, other)
    await desk.finish(other)
    assert desk.lanes.ready_offsets() == {}
    await until(lambda: desk.lanes.ready_offsets() == {("t", 0): 4})
    assert desk.detached == [late, behind]
    assert desk.begun == [late, other], "it is still being handled, and its task's next record still waits"
    await desk.finish(late)
    await desk.finish(behind)
    assert desk.lanes.idle


async def test_what_waits_for_a_free_slot_is_not_detached() -> None:
    desk = Desk(detach_seconds=0.03, running_max=1)
    running, waiting = job("a", 1), job("b", 2)
    await desk.add(running, waiting)
    await until(lambda: desk.lanes.ready_offsets() == {("t", 0): 2})
    await asyncio.sleep(0.05)
    assert desk.detached == [running]
    await desk.finish(running)
    await until(lambda: waiting in desk.begun)
    await desk.finish(waiting)
    assert desk.lanes.ready_offsets() == {("t", 0): 3}


async def test_a_detachment_that_fails_holds_the_offset_and_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus.lanes.DETACH_RETRY_SECONDS", 0.01)
    desk = Desk(detach_seconds=0.03)
    desk.detach_error = OSError("disk full")
    late = job("a", 1)
    await desk.add(late)
    await asyncio.sleep(0.06)
    assert desk.lanes.ready_offsets() == {}
    desk.detach_error = None
    await until(lambda: desk.lanes.ready_offsets() == {("t", 0): 2})
    await desk.finish(late)


async def test_a_partition_is_full_at_the_cap_and_open_again_at_half() -> None:
    desk = Desk(ahead_max=4)
    jobs = [job(str(offset), offset) for offset in range(4)]
    await desk.add(*jobs, job("x", 0, partition=1))
    assert desk.lanes.full_partitions() == {0}
    await desk.finish(jobs[3])
    await desk.finish(jobs[2])
    assert desk.lanes.full_partitions() == {0}, "the first one holds all offsets back"
    await desk.finish(jobs[0])
    assert desk.lanes.full_partitions() == {0}
    desk.lanes.progressed.clear()
    await desk.finish(jobs[1])
    assert desk.lanes.full_partitions() == frozenset()
    assert desk.lanes.progressed.is_set()


async def test_detached_work_still_counts_for_the_cap_so_that_memory_is_bounded() -> None:
    desk = Desk(ahead_max=3, detach_seconds=0.03)
    jobs = [job("a", offset) for offset in range(3)]
    await desk.add(*jobs)
    await until(lambda: desk.lanes.ready_offsets() == {("t", 0): 3})
    assert desk.lanes.full_partitions() == {0}
    for each in jobs:
        await desk.finish(each)
    assert desk.lanes.full_partitions() == frozenset()


async def test_draining_drops_what_has_not_begun_and_waits_for_what_has() -> None:
    desk = Desk()
    first, queued, elsewhere = job("a", 1), job("a", 2), job("b", 9, partition=1)
    await desk.add(first, queued, elsewhere)
    draining = asyncio.create_task(desk.lanes.drain({0}, timeout_seconds=10))
    await settle()
    assert not draining.done()
    await desk.finish(first)
    await draining
    assert queued not in desk.begun
    assert desk.lanes.ready_offsets() == {("t", 0): 2}
    desk.lanes.committed({("t", 0): 2})
    await desk.finish(elsewhere)
    assert desk.lanes.ready_offsets() == {("t", 1): 10}


async def test_draining_detaches_what_is_not_done_in_time() -> None:
    desk = Desk()
    slow = job("a", 1)
    await desk.add(slow)
    await desk.lanes.drain({0}, timeout_seconds=0.01)
    assert desk.detached == [slow]
    assert desk.lanes.ready_offsets() == {("t", 0): 2}
    await desk.finish(slow)
    assert desk.lanes.idle


async def test_a_lane_that_was_emptied_and_filled_again_still_runs_one_at_a_time() -> None:
    desk = Desk(running_max=1)
    busy, dropped = job("busy", 1, partition=1), job("a", 1)
    await desk.add(busy, dropped)
    await desk.lanes.drain({0})
    first, second = job("a", 1), job("a", 2)
    desk.lanes._running_max = 2
    await desk.add(first, second)
    await desk.finish(busy)
    assert desk.begun == [busy, first]
    await desk.finish(first)
    await desk.finish(second)


async def test_a_partition_that_comes_back_starts_afresh() -> None:
    desk = Desk()
    desk.detach_error = OSError("disk full")
    before, again = job("a", 7), job("a", 7)
    await desk.add(before)
    await desk.lanes.drain({0}, timeout_seconds=0.01)
    assert desk.lanes.ready_offsets() == {}
    await desk.add(again)
    assert desk.begun == [before]
    await desk.finish(before)
    assert desk.lanes.ready_offsets() == {}, "what was handled before the partition left says nothing of the new one"
    await desk.finish(again)
    assert desk.lanes.ready_offsets() == {("t", 0): 8}
    await desk.lanes.close()


async def test_an_exception_stops_the_lanes() -> None:
    async def handle(_: Job) -> None:
        raise RuntimeError("cannot go on")

    async def detach(_: Job) -> None: ...

    lanes: Lanes[Job] = Lanes(handle, detach)
    lanes.add(job("a", 1))
    await lanes.progressed.wait()
    assert isinstance(lanes.failure, RuntimeError)
    lanes.add(job("b", 2))
    await settle()
    assert (lanes.running, lanes.waiting, lanes.ready_offsets()) == (0, 1, {})


async def test_cancelled_work_goes_back_to_the_head_of_its_lane() -> None:
    desk = Desk()
    first, second, other = job("a", 1), job("a", 2), job("b", 3)
    await desk.add(first, second, other)
    desk.lanes.hold()
    assert desk.lanes.cancel(b"a") == 1
    await settle()
    assert (desk.lanes.running, desk.lanes.waiting) == (1, 2)
    desk.gates.pop(id(first))
    desk.lanes.release()
    await settle()
    assert desk.begun == [first, other, first]
    assert desk.lanes.cancel() == 2
    await desk.lanes.close()
    assert desk.lanes.ready_offsets() == {}


async def test_closing_ends_everything_and_leaves_the_offsets() -> None:
    desk = Desk()
    await desk.add(job("a", 1), job("a", 2), job("b", 3))
    await desk.lanes.close()
    assert desk.lanes.idle
    assert desk.lanes.ready_offsets() == {}


async def test_ten_thousand_jobs_leave_nothing_behind() -> None:
    done: list[Job] = []

    async def handle(work: Job) -> None:
        await asyncio.sleep(0)
        done.append(work)

    async def detach(_: Job) -> None: ...

    lanes: Lanes[Job] = Lanes(handle, detach)
    for offset in range(10_000):
        lanes.add(job(str(offset % 97), offset, partition=offset % 8))
        while lanes.full_partitions():
            lanes.progressed.clear()
            await lanes.progressed.wait()
    await until(lambda: lanes.idle)
    assert lanes.ready_offsets() == {("t", partition): 9_992 + partition + 1 for partition in range(8)}
    for key in {each.key for each in done}:
        offsets = [each.record.offset for each in done if each.key == key and each.record]
        assert offsets == sorted(offsets)
    assert not lanes._queues
    assert not any(lanes._loads.values())


async def test_who_merely_waits_gives_its_slot_away_and_keeps_its_lane() -> None:
    desk = Desk(running_max=1)
    a1, a2, b1, c1 = job("a", 1), job("a", 2), job("b", 3), job("c", 4)
    await desk.add(a1, a2, b1, c1)
    assert desk.begun == [a1]
    with desk.lanes.resting():
        await settle()
        assert desk.begun == [a1, b1]
    await desk.finish(b1)
    assert desk.begun == [a1, b1]
    await desk.finish(a1)
    assert desk.begun == [a1, b1, c1]
    await desk.lanes.close()


async def test_what_is_passed_over_waits_only_for_what_came_before_it() -> None:
    desk, first = Desk(), job("a", 1)
    desk.lanes.pass_over(job("a", 0))
    assert desk.lanes.ready_offsets() == {("t", 0): 1}
    await desk.add(first)
    desk.lanes.pass_over(job("b", 2))
    desk.lanes.pass_over(job("b", 3))
    assert desk.lanes.ready_offsets() == {("t", 0): 1}
    await desk.finish(first)
    assert desk.lanes.ready_offsets() == {("t", 0): 4}
    assert desk.begun == [first]
    assert desk.lanes.idle
    assert not any(desk.lanes._loads.values())


async def test_what_begins_together_is_prepared_together_and_before_it_begins() -> None:
    prepared: list[list[Job]] = []
    desk = Desk(running_max=2)
    desk.lanes._prepare = lambda works: prepared.append([*works, *desk.begun])
    first, behind, second, third = job("a", 0), job("a", 1), job("b", 2), job("c", 3)
    for each in (first, behind, second, third):
        desk.lanes.add(each)
    assert not prepared, "whatever is added in this turn belongs together"
    await settle()
    assert prepared == [[first, second]], "who waits behind its own task, or for room, is not prepared yet"
    await desk.finish(first)
    assert prepared[1:] == [[third, first, second]]
    await desk.finish(second)
    assert prepared[2:] == [[behind, first, second, third]]


async def test_a_lane_that_was_dropped_and_filled_again_runs_one_at_a_time() -> None:
    desk = Desk()
    desk.lanes.hold()
    await desk.add(job("a", 0))
    await desk.lanes.drain(frozenset({0}), 1.0)
    again, behind = job("a", 0), job("a", 1)
    await desk.add(again, behind)
    desk.lanes.release()
    await settle()
    assert desk.begun == [again]
    await desk.finish(again)
    assert desk.begun == [again, behind]


async def test_whatever_preparing_raises_the_work_begins() -> None:
    desk = Desk()

    def fail(_: Sequence[Job]) -> None:
        raise RuntimeError("not today")

    desk.lanes._prepare = fail
    first = job("a", 0)
    await desk.add(first)
    assert desk.begun == [first]
