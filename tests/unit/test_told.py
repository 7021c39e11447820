"""Embedded, what is recorded is told by the same commit, and what begins together is looked up together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agents.beginnings import detach
from agents.emission import Emission
from agents.foresight import foresee
from agents.settings import load_settings
from agents.wiring import Runtime, announce, open_runtime
from agents.work import Work
from agents.worker import Worker
from bus.port import Message, Record
from contracts import ids
from contracts.envelope import OPERATOR_SOURCE, Event, root
from contracts.errors import Conflict, Unavailable
from contracts.events import KillRaised, PlanProposed, TaskSubmitted
from contracts.topology import topic_of
from state_store.port import Commit, Delivery, Due, Encoded, Recorded

PLANS, TASKS = topic_of("planning"), topic_of("tasks")
SUBMITTED = TaskSubmitted(
    title="t", repository="/r", project_id="p", project_digest="sha256:0", base_commit="0" * 40, author="patch"
)


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[Runtime]:
    opened = await open_runtime(load_settings(data=tmp_path / "data"))
    await opened.bus.ensure_topics([PLANS, TASKS])
    yield opened
    await opened.close()


def encoded(runtime: Runtime, event: Event) -> Encoded:
    return Encoded(event, runtime.codec.encode_payload(event.payload))


async def submitted(runtime: Runtime) -> Recorded:
    (recorded,) = await runtime.store.append([encoded(runtime, root(SUBMITTED))])
    return recorded


async def planned(runtime: Runtime, task: Recorded, *, kill_seq: int | None = None) -> Any:
    """What became of a plan for a task that was just submitted."""
    event = runtime.codec.decode(task.envelope, task.value)
    claim = await runtime.store.claim("planning", Encoded(event, task.value), task.envelope, holder="me")
    number = claim.kill_seq if kill_seq is None else kill_seq
    delivery = Delivery(
        "planning", event.id, event.task_id, event.id, claim.basis, number, holder="me", seen=claim.seen
    )
    emission = Emission(runtime.topology.agent("planning"), runtime.codec, runtime.topology, ids.now_us)
    sealed = emission.sealed(delivery, [event.cause(PlanProposed(summary="s", base_commit="b"))])
    return await runtime.store.commit(Commit(delivery, emitted=sealed))


async def on(runtime: Runtime, topic: str) -> list[Record]:
    return await runtime.bus.read(topic)


async def test_a_submission_is_on_the_bus_when_it_is_recorded_and_once(runtime: Runtime) -> None:
    recorded = await submitted(runtime)
    assert recorded.told
    (record,) = await on(runtime, TASKS)
    assert (record.envelope, record.value) == (recorded.envelope, recorded.value)
    await announce(runtime, [recorded])
    assert len(await on(runtime, TASKS)) == 1


async def test_what_a_delivery_emits_is_on_the_bus_and_needs_no_mark(runtime: Runtime) -> None:
    committed = await planned(runtime, await submitted(runtime))
    assert [event.told for event in committed.events] == [True]
    (record,) = await on(runtime, PLANS)
    assert record.envelope == committed.events[0].envelope
    (row,) = await runtime.store.inbox(task_id=committed.events[0].envelope.task_id)
    assert (row.status, row.published) == ("done", True)


async def test_what_is_refused_is_not_told(runtime: Runtime) -> None:
    task = await submitted(runtime)
    kill = root(
        KillRaised(scope="task", target=task.envelope.task_id, reason="stop", operator="ann"),
        task_id=task.envelope.task_id,
        source=OPERATOR_SOURCE,
    )
    event = runtime.codec.decode(task.envelope, task.value)
    claim = await runtime.store.claim("planning", Encoded(event, task.value), task.envelope, holder="me")
    await runtime.store.append([encoded(runtime, kill)])
    delivery = Delivery("planning", event.id, event.task_id, event.id, claim.basis, holder="me", seen=claim.seen)
    emission = Emission(runtime.topology.agent("planning"), runtime.codec, runtime.topology, ids.now_us)
    sealed = emission.sealed(delivery, [event.cause(PlanProposed(summary="s", base_commit="b"))])
    committed = await runtime.store.commit(Commit(delivery, emitted=sealed))
    assert committed.status == "killed"
    assert await on(runtime, PLANS) == []
    known = runtime.codec.decode(task.envelope, task.value)
    other = Event(known.envelope._replace(id=ids.uuid7()), SUBMITTED.model_copy(update={"title": "other"}))
    with pytest.raises(Conflict):
        await runtime.store.append([encoded(runtime, other)])
    assert len(await on(runtime, TASKS)) == 1


async def test_without_the_topics_news_goes_its_own_way(tmp_path: Path) -> None:
    fresh = await open_runtime(load_settings(data=tmp_path / "fresh"))
    try:
        recorded = await submitted(fresh)
        assert not recorded.told
        await announce(fresh, [recorded])
        assert len(await on(fresh, TASKS)) == 1
    finally:
        await fresh.close()


class Absence:
    """The bus is away until it is `there`; `tries` has the number of messages of each call."""

    def __init__(self, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there, self.tries = asyncio.Event(), list[int]()
        self._told = runtime.bus.publish
        monkeypatch.setattr(runtime.bus, "publish", self._publish)

    async def _publish(self, messages: Sequence[Message]) -> None:
        self.tries.append(len(messages))
        if not self.there.is_set():
            raise Unavailable("the bus is away")
        await self._told(messages)


@pytest.fixture
def absence(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> Absence:
    return Absence(runtime, monkeypatch)


async def test_what_waits_for_the_bus_alone_need_not_begin_again_to_be_detached(
    runtime: Runtime, absence: Absence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.store, "_news", None)  # as where the bus is elsewhere
    worker = worker_of(runtime, [])
    (recorded,) = await runtime.store.append([encoded(runtime, root(SUBMITTED))])
    work = Work(recorded.envelope.task_id.encode(), due=Due("missed", recorded))
    delivered = asyncio.create_task(worker.deliver(work))
    while not work.recorded:
        await asyncio.sleep(0)
    await detach(worker, work)
    (row,) = await runtime.store.inbox(task_id=recorded.envelope.task_id)
    assert (row.status, row.published) == ("done", False)
    absence.there.set()
    await delivered
    assert len(await on(runtime, PLANS)) == 1


async def test_what_waits_for_the_bus_says_so_once_for_all(
    runtime: Runtime, absence: Absence, caplog: pytest.LogCaptureFixture
) -> None:
    telling = worker_of(runtime, []).telling
    events = [(await submitted(runtime))._replace(told=False) for _ in range(3)]
    waiting = [asyncio.create_task(telling([event])) for event in events]
    while len(absence.tries) < 4:
        await asyncio.sleep(0)
    absence.there.set()
    await asyncio.gather(*waiting)
    assert absence.tries[:4] == [3, 1, 1, 1], "together, and then each by itself"
    assert [record.getMessage() for record in caplog.records] == ["publishing waits for the bus: the bus is away"]
    assert len(await on(runtime, TASKS)) == 6, "told by the commit, and again here"


# -- looked up together ------------------------------------------------------------------------------------------------


def worker_of(runtime: Runtime, handled: list[Event]) -> Worker:
    async def handle(event: Event, *_: Any) -> list[Event]:
        handled.append(event)
        return [event.cause(PlanProposed(summary="s", base_commit="b"))]

    return Worker(
        runtime.topology.agent("planning"),
        handle,
        lambda session: session,
        store=runtime.store,
        bus=runtime.bus,
        codec=runtime.codec,
        topology=runtime.topology,
        keyring=runtime.keyring,
        holder="me",
        again=lambda *_: None,
        sweep_soon=lambda: None,
    )


async def test_ordinary_records_need_no_question_of_their_own(runtime: Runtime) -> None:
    tasks = [await submitted(runtime) for _ in range(3)]
    handled: list[Event] = []
    worker = worker_of(runtime, handled)
    works = [Work(record.key, record) for record in await on(runtime, TASKS)]
    foresee(worker, works)
    assert all(work.foreseen is not None for work in works)
    for work in works:
        await worker.deliver(work)
    assert {event.task_id for event in handled} == {task.envelope.task_id for task in tasks}
    assert len(await on(runtime, PLANS)) == 3


async def test_a_record_that_was_handled_before_is_left_to_the_inbox(runtime: Runtime) -> None:
    await planned(runtime, await submitted(runtime))
    handled: list[Event] = []
    worker = worker_of(runtime, handled)
    (record,) = await on(runtime, TASKS)
    work = Work(record.key, record)
    foresee(worker, [work])
    assert work.foreseen is None
    await worker.deliver(work)
    assert not handled
    assert len(await on(runtime, PLANS)) == 1


async def test_what_comes_after_the_look_is_heard_at_the_commit(runtime: Runtime) -> None:
    task = await submitted(runtime)
    handled: list[Event] = []
    worker = worker_of(runtime, handled)
    (record,) = await on(runtime, TASKS)
    work = Work(record.key, record)
    foresee(worker, [work])
    await planned(runtime, task)  # another process was faster
    await worker.deliver(work)
    assert len(handled) == 1
    assert len(await on(runtime, PLANS)) <= 2, "the same event again, or not at all"
    assert len(await runtime.store.stream(task.envelope.task_id)) == 2
