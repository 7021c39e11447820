"""A clock that is set back or forward: order is kept by numbers, a dead holder is known by its death, nothing is lost."""

from __future__ import annotations

from state_store.port import Commit
from tests.contract.store.world import World, change, passed, plan, staging

DAY_SECONDS = 86_400


async def test_a_clock_that_is_set_back_disturbs_no_order(world: World) -> None:
    submission = await world.submit()
    planned = (await world.handle("planning", submission, plan())).events[-1]
    world.clock.advance(-DAY_SECONDS)
    delivery, _ = await world.begin("coding", planned, holder="coding-1")
    other = await world.delivery("coding", planned, holder="coding-2")
    assert (await world.store.start(other, None)).status == "waiting", "the lease is held, whatever the clock says"
    world.clock.advance(-DAY_SECONDS)
    world.dead.add("coding-1")
    taken = await world.store.start(other, None)
    assert taken.status == "started", "its holder died: nobody waits for the old clock to come back"
    stale = Commit(delivery, emitted=world.answers(planned, "coding", change()))
    assert (await world.store.commit(stale)).status == "fenced"
    committed = await world.store.commit(stale._replace(delivery=other._replace(token=taken.token)))
    assert committed.status == "recorded"
    reviewed = await world.handle("review", committed.events[-1], passed())
    await world.handle("deploy", reviewed.events[-1], staging())
    events = await world.store.stream(submission.envelope.task_id)
    assert [event.sequence for event in events] == [1, 2, 3, 4, 5]
    assert events[0].recorded_at_us > events[-1].recorded_at_us
    assert await world.store.verify_chain() == []
    row = await world.store.task(submission.envelope.task_id)
    assert await world.store.rebuild_views() == 1
    assert await world.store.task(submission.envelope.task_id) == row


async def test_a_clock_that_is_set_forward_fences_whoever_seems_late(world: World) -> None:
    planned = (await world.handle("planning", await world.submit(), plan())).events[-1]
    delivery, _ = await world.begin("coding", planned, holder="coding-1")
    world.clock.advance(DAY_SECONDS)
    other = await world.delivery("coding", planned, holder="coding-2")
    taken = await world.store.start(other, None)
    assert taken.status == "started"
    world.clock.advance(-DAY_SECONDS)
    late = Commit(delivery, emitted=world.answers(planned, "coding", change()))
    assert (await world.store.commit(late)).status == "fenced"
    committed = await world.store.commit(late._replace(delivery=other._replace(token=taken.token)))
    assert [event.envelope.type for event in committed.events] == ["ChangeProposed"]
