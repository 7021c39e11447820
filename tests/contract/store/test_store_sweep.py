"""The sweep, leases with their tokens, and deadlines: who reopens what, and who is kept out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from contracts.errors import Fenced
from contracts.events import (
    ApprovalExpired,
    BudgetRaised,
    TaskCancelled,
    TaskEscalated,
    TaskFailed,
)
from contracts.topology import HEARD_BY_ALL, WORK_SECONDS
from state_store.fold import deadline_id
from state_store.port import Commit, Delivery, Due
from tests.contract.store.world import (
    DIGEST,
    LicenceChecked,
    World,
    cancelling,
    change,
    moment,
    plan,
    small_budget,
    staging,
    step,
    swept,
    turned_down,
)

PLANNING = ("TaskSubmitted", *HEARD_BY_ALL)
CODING = ("PlanProposed", "ChangesRequested", *HEARD_BY_ALL)


# -- missed ---------------------------------------------------------------------------------------------------------


async def test_an_event_that_never_came_is_found_after_a_while(world: World) -> None:
    submission = await world.submit()
    assert await swept(world, "planning", PLANNING) == []
    world.clock.advance(31)
    assert await swept(world, "planning", PLANNING) == [Due("missed", submission)]
    assert await swept(world, "coding", CODING) == []
    await world.handle("planning", submission, plan())
    assert await swept(world, "planning", PLANNING) == []


async def test_the_mark_moves_over_what_is_settled_and_stops_at_what_is_not(world: World) -> None:
    first, second = await world.submit(), await world.submit()
    await world.dance(upto="succeeded")
    world.clock.advance(31)
    await world.handle("planning", second, plan())
    assert [due.event for due in await swept(world, "planning", PLANNING)] == [first]
    assert [due.event for due in await swept(world, "planning", PLANNING)] == [first]
    await world.handle("planning", first, plan())
    assert await swept(world, "planning", PLANNING) == []
    third = await world.submit()
    world.clock.advance(31)
    assert [due.event for due in await swept(world, "planning", PLANNING)] == [third]


async def test_a_role_that_hears_more_from_now_on_looks_back(world: World) -> None:
    *_, proposed = await world.dance(upto="proposed")
    world.clock.advance(31)
    assert await swept(world, "licence", ("ReviewPassed",)) == []
    assert [due.event for due in await swept(world, "licence", ("ReviewPassed", "ChangeProposed"))] == [proposed]


async def test_a_clock_that_was_set_back_hides_nothing(world: World) -> None:
    await world.dance(upto="planned")
    world.clock.now_us -= 20_000_000
    late = await world.submit()
    world.clock.advance(31)  # the first two are old, the third is young by the same clock
    await swept(world, "planning", PLANNING)
    world.clock.advance(31)
    assert [due.event for due in await swept(world, "planning", PLANNING)] == [late]


async def test_ended_tasks_are_missed_by_further_agents_alone(world: World) -> None:
    submission = await world.submit()
    (cancel,) = await world.store.append([world.said(submission, cancelling())])
    await world.handle("planning", cancel, TaskCancelled())
    world.clock.advance(31)
    assert await swept(world, "planning", PLANNING) == []
    assert await swept(world, "coding", CODING) == []
    assert await swept(world, "licence", ("TaskSubmitted",)) == [Due("missed", submission)]


# -- leases ---------------------------------------------------------------------------------------------------------


async def test_a_lease_keeps_others_out_until_it_ends(world: World) -> None:
    submission = await world.submit()
    delivery, started = await world.begin("planning", submission)
    assert (await world.claim("planning", submission)).status == "waiting"
    other = delivery._replace(holder="two", token=0)
    assert (await world.store.start(other, None)).status == "waiting"
    assert await world.store.leases("one") == {("planning", submission.envelope.task_id): started.token}
    assert await swept(world, "planning", PLANNING) == []
    world.clock.advance(6)
    await world.store.renew("one", "planning")
    world.clock.advance(6)
    assert (await world.store.start(other, None)).status == "waiting"
    world.clock.advance(5)
    assert await world.store.leases("one") == {}
    assert await swept(world, "planning", PLANNING) == [Due("lease", submission)]
    taken = await world.store.start(other, None)
    assert (taken.status, taken.starts) == ("started", 2)
    assert taken.token > started.token


async def test_the_lease_of_a_dead_process_is_free_at_once(world: World) -> None:
    submission = await world.submit()
    await world.begin("planning", submission)
    world.dead.add("one")
    assert await swept(world, "planning", PLANNING) == [Due("lease", submission)]
    claim = await world.claim("planning", submission)
    assert (claim.status, claim.basis, claim.starts) == ("free", 1, 1)


async def test_the_return_of_the_stale_worker_changes_nothing(world: World) -> None:
    submission = await world.submit()
    stale, _ = await world.begin("planning", submission)
    intent = await world.store.step_intent(stale, step(stale))
    world.clock.advance(11)
    fresh, _ = await world.begin("planning", submission, holder="two")
    with pytest.raises(Fenced):
        await world.store.step_intent(stale, step(stale, 1))
    with pytest.raises(Fenced):
        await world.store.effect_intent(stale, "push:x", "push", "{}")
    request = Commit(stale, emitted=world.answers(submission, "planning", plan()))
    committed = await world.store.commit(request)
    assert (committed.status, committed.events) == ("fenced", ())
    await world.store.step_outcome(stale, replace(intent, outcome="ok", result="1"))  # what was paid is recorded
    assert [recorded.result for recorded in await world.store.steps(submission.envelope.task_id)] == ["1"]
    committed = await world.store.commit(request._replace(delivery=fresh))
    assert committed.status == "recorded"
    assert await world.store.leases("two") == {}
    assert (await world.store.commit(request)).status == "repeated"


async def test_the_fast_path_is_fenced_by_a_start_of_another(world: World) -> None:
    submission = await world.submit()
    slow = await world.delivery("planning", submission, holder="slow")
    await world.begin("planning", submission, holder="two")
    committed = await world.store.commit(Commit(slow, emitted=world.answers(submission, "planning", plan())))
    assert committed.status == "fenced"


async def test_a_start_asked_for_twice_is_one_start(world: World) -> None:
    submission = await world.submit()
    delivery, first = await world.begin("planning", submission)
    again = await world.store.start(delivery._replace(token=0), None)
    assert (again.status, again.token, again.starts) == ("started", first.token, 1)


async def test_what_a_holder_has_begun_is_free_to_itself(world: World) -> None:
    submission = await world.submit()
    await world.begin("planning", submission)
    encoded = world.again(submission)
    mine = await world.store.claim("planning", encoded, submission.envelope, holder="one")
    others = await world.store.claim("planning", encoded, submission.envelope, holder="two")
    assert (mine.status, others.status) == ("free", "waiting")


async def test_forgiving_takes_back_a_start_and_lets_go(world: World) -> None:
    submission = await world.submit()
    delivery, _ = await world.begin("planning", submission)
    await world.store.forgive(delivery)
    assert await world.store.leases("one") == {}
    claim = await world.claim("planning", submission)
    assert (claim.status, claim.starts) == ("free", 0)
    taken, _ = await world.begin("planning", submission, holder="two")
    await world.store.forgive(delivery)  # too late: it is another's now
    assert await world.store.leases("two") == {("planning", submission.envelope.task_id): taken.token}


async def test_a_start_that_was_put_aside_in_order_was_not_in_vain(world: World) -> None:
    event = await world.submit()
    for attempt in range(9):  # as often as a model is down
        delivery, started = await world.begin("planning", event)
        assert (started.status, started.starts) == ("started", 1)
        later = Commit(delivery, status="retry", due_us=world.clock.now_us, attempt=attempt + 1, reason="it is down")
        assert (await world.store.commit(later)).status == "recorded"
        world.clock.advance(1)


async def test_starts_count_until_the_journal_grows(world: World) -> None:
    submission = await world.submit()
    starts = []
    for life in range(4):
        delivery, started = await world.begin("planning", submission, holder=f"life {life}")
        starts.append(started.starts)
        if life == 2:
            intent = await world.store.step_intent(delivery, step(delivery))
            await world.store.step_outcome(delivery, replace(intent, outcome="ok"))
        world.dead.add(f"life {life}")
    assert starts == [1, 2, 3, 1]


async def test_two_roles_work_on_one_task_at_once(world: World) -> None:
    *_, proposed = await world.dance(upto="proposed")
    _, review = await world.begin("review", proposed)
    _, licence = await world.begin("licence", proposed)
    assert (review.status, licence.status) == ("started", "started")


# -- retries and turns ----------------------------------------------------------------------------------------------


async def test_due_retries_and_waiting_turns_are_found_first_in_line_only(world: World) -> None:
    *_, proposed = await world.dance(upto="proposed")
    await world.handle("licence", proposed, status="retry", due_us=world.clock.now_us + 1_000_000, attempt=1)
    turned = (await world.handle("review", proposed, turned_down())).events[0]
    later = (await world.handle("coding", turned, change(2))).events[0]
    delivery = Delivery("licence", later.envelope.id, later.envelope.task_id, later.envelope.id, 0)
    await world.store.start(delivery, None, waiting=True)
    consumes = ("ChangeProposed",)
    assert await swept(world, "licence", consumes) == []
    world.clock.advance(2)
    assert await swept(world, "licence", consumes) == [Due("retry", proposed)]
    await world.handle("licence", proposed, LicenceChecked())
    assert await swept(world, "licence", consumes) == [Due("waiting", later)]


async def test_what_was_closed_and_never_published_is_found_once_it_is_old(world: World) -> None:
    submission = await world.submit()
    (proposed,) = (await world.handle("planning", submission, plan())).events
    assert await world.store.sweep("planning", ["TaskSubmitted"]) == []
    world.clock.advance(31)
    (due,) = await world.store.sweep("planning", ["TaskSubmitted"])
    assert (due.kind, due.event, due.deadline_id) == ("unpublished", submission, None)
    claim = await world.claim("planning", submission)
    assert (claim.status, claim.unpublished) == ("done", (proposed,))
    await world.store.published("planning", [submission.envelope.id])
    assert await world.store.sweep("planning", ["TaskSubmitted"]) == []


async def test_what_was_never_published_is_found_however_far_the_others_are(world: World) -> None:
    async def submitted() -> str:
        submission = await world.submit()
        await world.handle("planning", submission, plan())
        return submission.envelope.id

    async def found() -> list[str]:
        world.clock.advance(31)
        due = await world.store.sweep("planning", ["TaskSubmitted"])
        return [one.event.envelope.id for one in due if one.kind == "unpublished"]

    first, second, third, fourth = [await submitted() for _ in range(4)]
    await world.store.published("planning", [first])
    assert await found() == [second, third, fourth]
    await world.store.published("planning", [third])
    assert await found() == [second, fourth]
    fifth = await submitted()
    assert await found() == [second, fourth, fifth]
    await world.store.published("planning", [second, fourth, fifth])
    assert await found() == []
    sixth = await submitted()
    assert [await found(), await found()] == [[sixth], [sixth]]


async def test_a_parked_delivery_tells_what_it_did_not_publish(world: World) -> None:
    submission = await world.submit()
    escalated = TaskEscalated(role="planning", reason="help", reason_code="x")
    (said,) = (await world.handle("planning", submission, escalated, status="parked", reason_code="x")).events
    claim = await world.claim("planning", submission)
    assert (claim.status, claim.unpublished) == ("closed", (said,))


# -- deadlines ------------------------------------------------------------------------------------------------------


async def deadline(world: World, role: str) -> tuple[Due, Delivery]:
    (due,) = await swept(world, role, ())
    assert due.kind == "deadline"
    assert due.deadline_id is not None
    event = world.again(due.event)
    claim = await world.store.claim(role, event, due.event.envelope, inbox_id=due.deadline_id)
    assert claim.status == "free"
    envelope = due.event.envelope
    return due, Delivery(role, due.deadline_id, envelope.task_id, envelope.id, claim.basis, claim.kill_seq)


async def test_a_state_that_lasts_too_long_is_its_owners_business(world: World) -> None:
    *_, planned = await world.dance(upto="planned")
    world.clock.advance(WORK_SECONDS - 1)
    assert await swept(world, "coding", ()) == []
    world.clock.advance(2)
    assert await swept(world, "review", ()) == []
    due, delivery = await deadline(world, "coding")
    assert due.event == planned
    row = await world.store.task(planned.envelope.task_id)
    assert row is not None
    assert due.deadline_id == deadline_id(row.state)
    escalated = TaskEscalated(role="coding", reason="overdue", reason_code="overdue")
    request = Commit(delivery, emitted=world.answers(planned, "coding", escalated, slot="deadline"))
    assert (await world.store.commit(request)).status == "recorded"
    assert (await world.store.commit(request)).status == "repeated"
    await world.store.published("coding", [delivery.event_id])
    assert await swept(world, "coding", ()) == []
    world.clock.advance(8 * 24 * 3600)
    later, _ = await deadline(world, "coding")  # the pause has a deadline of its own
    assert later.deadline_id != due.deadline_id
    assert later.event.envelope.type == "TaskEscalated"


async def test_a_deadline_of_a_task_that_moved_on_does_nothing(world: World) -> None:
    *_, planned = await world.dance(upto="planned")
    world.clock.advance(WORK_SECONDS + 1)
    due, delivery = await deadline(world, "coding")
    await world.handle("coding", planned, change())
    event = world.again(due.event)
    claim = await world.store.claim("coding", event, due.event.envelope, inbox_id=due.deadline_id)
    assert claim.status == "closed"
    failed = TaskFailed(reason="overdue", reason_code="overdue")
    request = Commit(delivery, emitted=world.answers(planned, "coding", failed, slot="deadline"))
    assert (await world.store.commit(request)).status == "superseded"


async def test_a_deadline_says_nothing_about_a_later_state_of_the_same_owner(world: World) -> None:
    *_, reviewed = await world.dance(upto="reviewed")
    world.clock.advance(WORK_SECONDS + 1)
    due, delivery = await deadline(world, "deploy")
    await world.handle("deploy", reviewed, staging())  # still deploy's turn
    failed = TaskFailed(reason="overdue", reason_code="overdue")
    request = Commit(delivery, emitted=world.answers(due.event, "deploy", failed, slot="deadline"))
    committed = await world.store.commit(request)
    assert (committed.status, committed.events) == ("superseded", ())
    assert "moved on" in committed.detail


async def test_no_deadline_while_the_work_is_under_way(world: World) -> None:
    *_, planned = await world.dance(upto="planned")
    await world.begin("coding", planned)
    world.clock.advance(WORK_SECONDS - 5)
    await world.store.renew("one", "coding")
    world.clock.advance(6)
    assert await swept(world, "coding", ()) == []
    world.dead.add("one")
    kinds = [due.kind for due in await swept(world, "coding", ())]
    assert kinds == ["lease", "deadline"]


async def test_an_approval_ends_when_it_says(world: World) -> None:
    *_, request = await world.dance(upto="awaiting_approval")
    world.clock.advance(3601)
    due, delivery = await deadline(world, "deploy")
    assert due.event == request
    payload = ApprovalExpired(request_id=request.envelope.id, digest=DIGEST, expired_at=moment(world.clock.now_us))
    commit = Commit(delivery, emitted=world.answers(request, "deploy", payload, slot="deadline"))
    assert (await world.store.commit(commit)).status == "recorded"


async def test_a_deadline_passes_a_parked_delivery_and_can_be_retried(world: World) -> None:
    submission = await world.submit()
    escalated = TaskEscalated(role="planning", reason="help", reason_code="x")
    await world.handle("planning", submission, escalated, status="parked", reason_code="x")
    world.clock.advance(8 * 24 * 3600)
    due, delivery = await deadline(world, "planning")
    retried = Commit(delivery, status="retry", due_us=world.clock.now_us + 1_000_000, attempt=1)
    assert (await world.store.commit(retried)).status == "recorded"
    assert await swept(world, "planning", ()) == []
    world.clock.advance(2)
    again, _ = await deadline(world, "planning")
    assert again == due
    assert await world.store.next_waiting("planning", submission.envelope.task_id) is None
    failed = TaskFailed(reason="nobody answered", reason_code="escalation_expired")
    ended = Commit(delivery, emitted=world.answers(due.event, "planning", failed, slot="deadline"))
    assert (await world.store.commit(ended)).status == "recorded"


async def test_a_budget_raised_in_passing_does_not_move_the_deadline(world: World) -> None:
    submission = await world.submit()
    before = await world.store.task(submission.envelope.task_id)
    world.clock.advance(100)
    await world.store.append([world.said(submission, BudgetRaised(operator="olga", budget=small_budget(steps=99)))])
    after = await world.store.task(submission.envelope.task_id)
    assert before is not None
    assert after is not None
    assert after.state.since_us == before.state.since_us
    assert after.state.budget.steps == 99


# -- partitions -----------------------------------------------------------------------------------------------------


async def test_partitions_left_dirty_by_the_dead_are_told_once(world: World) -> None:
    assert await world.store.mark_partitions("review", [0, 1, 2], "one") == frozenset()
    await world.store.clean_partitions("review", [2], "one")
    assert await world.store.mark_partitions("review", [0], "two") == frozenset()  # one lives: it gave it up
    await world.store.mark_partitions("review", [0], "one")
    world.dead.add("one")
    assert await world.store.mark_partitions("review", [0, 1, 2], "two") == {0, 1}
    assert await world.store.mark_partitions("review", [0, 1, 2], "two") == frozenset()
    assert await world.store.mark_partitions("coding", [0], "two") == frozenset()
    await world.store.clean_partitions("review", [0, 1], "one")  # not his any more
    world.dead.add("two")
    assert await world.store.mark_partitions("review", [0, 1, 2], "three") == {0, 1, 2}
