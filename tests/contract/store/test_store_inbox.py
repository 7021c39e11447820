"""The inbox: what a delivery may do, what one commit changes, and what a conflict costs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from contracts import ids
from contracts.errors import Conflict
from contracts.events import PlanRejected, TaskCancelled, TaskEscalated, TaskFailed, TaskResumed
from state_store.port import Commit, Committed, Delivery, Recorded, TaskFilter
from tests.contract.store.world import (
    LicenceChecked,
    World,
    cancelling,
    change,
    passed,
    plan,
    production,
    step,
    succeeded,
    turned_down,
)


async def statuses(world: World, event: Recorded) -> dict[tuple[str, str], str]:
    """(role, type) -> status of the deliveries of the task."""
    rows = await world.store.inbox(task_id=event.envelope.task_id)
    return {(row.role, row.event_type): row.status for row in rows}


async def test_a_known_event_is_free_at_the_head(world: World) -> None:
    submission = await world.submit()
    claim = await world.claim("planning", submission)
    assert (claim.status, claim.basis, claim.known, claim.starts) == ("free", 1, True, 0)
    assert claim.state is not None
    assert (claim.state.step, claim.state.title) == ("submitted", "Split money without losing a cent")


async def test_an_unknown_event_is_free_one_after_the_head_and_recorded_by_the_commit(world: World) -> None:
    submission = world.submission()
    claim = await world.claim("planning", submission)
    assert (claim.status, claim.basis, claim.known) == ("free", 1, False)
    assert claim.state is not None
    assert claim.state.step == "submitted"
    assert await world.store.tail(0) == []
    delivery = await world.delivery("planning", submission)
    request = Commit(delivery, consumed=submission, emitted=world.answers(submission, "planning", plan()))
    committed = await world.store.commit(request)
    assert committed.status == "recorded"
    assert [event.envelope.type for event in await world.store.tail(0)] == ["TaskSubmitted", "PlanProposed"]


async def test_an_unknown_event_whose_payload_is_not_read_yet_has_no_state(world: World) -> None:
    """A start before decoding, so that bytes which kill the process are counted, then the event itself."""
    submission = world.submission()
    envelope = submission.event.envelope
    claim = await world.store.claim("planning", None, envelope)
    assert (claim.status, claim.known, claim.state) == ("free", False, None)
    delivery = Delivery("planning", envelope.id, envelope.task_id, envelope.id, claim.basis, holder="one")
    braced = await world.store.start(delivery, None)
    assert (braced.status, braced.starts) == ("started", 1)
    claim = await world.store.claim("planning", submission, envelope, holder="one")
    assert (claim.status, claim.known, claim.basis, claim.starts) == ("free", False, 1, 1)
    delivery = delivery._replace(basis=claim.basis)
    begun = await world.store.start(delivery, submission)
    assert (begun.token, begun.starts) == (braced.token, 1)
    assert [event.envelope.type for event in await world.store.tail(0)] == ["TaskSubmitted"]
    request = Commit(delivery._replace(token=begun.token), emitted=world.answers(submission, "planning", plan()))
    assert (await world.store.commit(request)).status == "recorded"


async def test_poison_is_parked_after_its_starts_were_in_vain(world: World) -> None:
    submission = await world.submit()
    envelope = submission.envelope
    for life in range(5):
        claim = await world.store.claim("planning", None, envelope)
        assert (claim.status, claim.starts) == ("free", life)
        delivery = Delivery("planning", envelope.id, envelope.task_id, envelope.id, claim.basis, holder=f"life {life}")
        await world.store.start(delivery, None)
        world.dead.add(f"life {life}")
    claim = await world.store.claim("planning", None, envelope)
    assert (claim.status, claim.starts) == ("free", 5)
    request = Commit(delivery._replace(holder="careful"), status="parked", reason="begun in vain", reason_code="poison")
    assert (await world.store.commit(request)).status == "recorded"
    assert (await world.claim("planning", submission)).status == "closed"


async def test_an_event_that_is_illegal_now_is_closed(world: World) -> None:
    *_, planned = await world.dance(upto="planned")
    stray = world.answers(planned, "deploy", production())[0]
    claim = await world.claim("review", world.answers(planned, "review", passed())[0])
    assert claim.status == "closed"
    assert "ReviewPassed" in claim.detail
    assert (await world.claim("watch", stray)).status == "free"  # a fact about an act done is always heard


async def test_done_answers_with_what_was_not_published(world: World) -> None:
    submission = await world.submit()
    delivery = await world.delivery("planning", submission)
    committed = await world.store.commit(Commit(delivery, emitted=world.answers(submission, "planning", plan())))
    claim = await world.claim("planning", submission)
    assert claim.status == "done"
    assert claim.unpublished == committed.events
    await world.store.published("planning", [submission.envelope.id])
    claim = await world.claim("planning", submission)
    assert (claim.status, claim.unpublished) == ("done", ())


async def test_a_commit_repeated_answers_as_the_first_time(world: World) -> None:
    submission = await world.submit()
    delivery = await world.delivery("planning", submission)
    request = Commit(delivery, emitted=world.answers(submission, "planning", plan()))
    first = await world.store.commit(request)
    second = await world.store.commit(request)
    assert (first.status, second.status) == ("recorded", "repeated")
    assert second.events == first.events
    assert len(await world.store.tail(0)) == 2


async def test_one_stale_among_two_hundred_leaves_the_others_committed(world: World) -> None:
    submissions = [await world.submit(title=f"task {index}") for index in range(200)]
    requests = []
    for submission in submissions:
        delivery = await world.delivery("planning", submission)
        requests.append(Commit(delivery, emitted=world.answers(submission, "planning", plan())))
    stale = submissions[77].envelope.task_id
    await world.handle("planning", submissions[77], TaskFailed(reason="overtaken", reason_code="x"))
    requests[77] = requests[77]._replace(delivery=requests[77].delivery._replace(event_id=ids.uuid7()))
    outcomes = await asyncio.gather(*(world.store.commit(request) for request in requests))
    assert [outcome.status for outcome in outcomes].count("recorded") == 199
    assert outcomes[77].status == "superseded"
    assert outcomes[77].events == ()
    assert [event.envelope.type for event in await world.store.stream(stale)] == ["TaskSubmitted", "TaskFailed"]


async def test_an_error_of_one_commit_leaves_the_others_of_its_group(world: World) -> None:
    """An id that is taken is a fault of the caller: it hears of it, the others do not."""
    first, second = await world.submit(), await world.submit(title="two")
    taken = await world.handle("planning", first, plan())
    repeated = (world.again(taken.events[0]),)
    outcomes = await asyncio.gather(
        world.store.commit(Commit(await world.delivery("licence", first), emitted=repeated)),
        world.store.commit(
            Commit(await world.delivery("planning", second), emitted=world.answers(second, "planning", plan()))
        ),
        return_exceptions=True,
    )
    assert not isinstance(outcomes[1], BaseException)
    assert outcomes[1].status == "recorded"
    assert isinstance(outcomes[0], Conflict) or getattr(outcomes[0], "status", "") == "superseded"


async def test_what_is_legal_on_the_head_is_appended_after_it(world: World) -> None:
    """An operator's mark arrived while the role was at work: no conflict."""
    submission = await world.submit()
    delivery = await world.delivery("planning", submission)
    await world.store.append([world.said(submission, cancelling())])
    committed = await world.store.commit(Commit(delivery, emitted=world.answers(submission, "planning", plan())))
    assert committed.status == "recorded"
    assert committed.events[0].sequence == 3


async def test_a_conflict_closes_the_delivery_and_reruns_nothing(world: World) -> None:
    submission = world.submission()
    delivery = await world.delivery("planning", submission)
    await world.store.append([submission])
    cancel = world.word(submission.event.task_id, cancelling())
    (cancel_recorded,) = await world.store.append([cancel])
    await world.handle("planning", cancel_recorded, TaskCancelled(reason="not needed"))
    await world.store.published("planning", [cancel_recorded.envelope.id])
    request = Commit(delivery, consumed=submission, emitted=world.answers(submission, "planning", plan()))
    committed = await world.store.commit(request)
    assert (committed.status, committed.events) == ("superseded", ())
    types = [event.envelope.type for event in await world.store.stream(submission.event.task_id)]
    assert types == ["TaskSubmitted", "TaskCancelRequested", "TaskCancelled"]
    assert (await world.claim("planning", submission)).status == "closed"
    await world.store.published("planning", [cancel_recorded.envelope.id])
    world.clock.advance(3600)
    assert await world.store.sweep("planning", ["TaskSubmitted"]) == []


async def test_a_superseded_delivery_leaves_its_consumed_event_recorded(world: World) -> None:
    submission = world.submission()
    delivery = await world.delivery("planning", submission)
    request = Commit(delivery, consumed=submission, emitted=world.answers(submission, "planning", passed()))
    assert (await world.store.commit(request)).status == "superseded"
    assert [event.envelope.type for event in await world.store.tail(0)] == ["TaskSubmitted"]


async def test_only_the_owner_pauses_or_ends_a_task(world: World) -> None:
    *_, planned = await world.dance(upto="planned")  # it is coding's turn
    failed = TaskFailed(reason="I give up", reason_code="x")
    escalated = TaskEscalated(role="planning", reason="help", reason_code="x")
    for role, payload in (("planning", failed), ("review", escalated)):
        committed = await world.handle(role, planned, payload)
        assert committed.status == "superseded"
        assert "coding" in committed.detail
    assert (await world.handle("coding", planned, failed)).status == "recorded"


async def test_a_refused_plan_is_followed_by_its_escalation_in_one_commit(world: World) -> None:
    submission = await world.submit()
    rejected = PlanRejected(reason="no such file", reason_code="ungrounded")
    escalated = TaskEscalated(role="planning", reason="no such file", reason_code="ungrounded")
    committed = await world.handle("planning", submission, rejected, escalated)
    assert [event.sequence for event in committed.events] == [2, 3]
    row = await world.store.task(submission.envelope.task_id)
    assert row is not None
    assert (row.state.step, row.state.status) == ("plan_rejected", "escalated")
    (resumed,) = await world.store.append(
        [world.said(submission, TaskResumed(operator="olga", corrections={"title": "Split ten euros"}))]
    )
    again = await world.handle("planning", resumed, plan())
    assert again.status == "recorded"
    row = await world.store.task(submission.envelope.task_id)
    assert row is not None
    assert (row.state.step, row.state.title) == ("planned", "Split ten euros")


async def test_a_spent_revision_cap_is_said_by_the_one_who_turned_the_change_down(world: World) -> None:
    *_, proposed = await world.dance(upto="proposed")
    escalated = TaskEscalated(role="coding", reason="3 revisions", reason_code="revisions_spent")
    committed = await world.handle("review", proposed, turned_down(), escalated)
    assert committed.status == "recorded"


async def test_later_events_wait_for_an_earlier_one_of_their_role(world: World) -> None:
    *_, proposed = await world.dance(upto="proposed")
    delivery, _ = await world.begin("licence", proposed)
    turned = (await world.handle("review", proposed, turned_down())).events[0]
    later = (await world.handle("coding", turned, change(2))).events[0]
    claim = await world.claim("licence", later)
    assert (claim.status, claim.known) == ("waiting", True)
    waiting = Delivery("licence", later.envelope.id, later.envelope.task_id, later.envelope.id, claim.basis)
    assert (await world.store.start(waiting, None, waiting=True)).status == "waiting"
    assert (await world.claim("review", later)).status == "free"  # another role has its own order
    assert await world.store.next_waiting("licence", later.envelope.task_id) is None
    answer = world.answers(proposed, "licence", LicenceChecked())
    assert (await world.store.commit(Commit(delivery, emitted=answer))).status == "recorded"
    assert await world.store.next_waiting("licence", later.envelope.task_id) == later
    assert (await world.claim("licence", later)).status == "free"
    assert await world.store.next_waiting("licence", later.envelope.task_id, besides=later.envelope.id) is None
    await world.handle("licence", later, LicenceChecked(note="two"))
    assert await world.store.next_waiting("licence", later.envelope.task_id) is None


async def test_who_began_an_earlier_one_after_the_look_is_heard_at_the_commit(world: World) -> None:
    *_, proposed = await world.dance(upto="proposed")
    turned = (await world.handle("review", proposed, turned_down())).events[0]
    later = (await world.handle("coding", turned, change(2))).events[0]
    seen = await world.delivery("licence", later)
    begun, _ = await world.begin("licence", proposed, holder="two")
    committed = await world.store.commit(Commit(seen, emitted=world.answers(later, "licence", LicenceChecked())))
    assert (committed.status, committed.events) == ("fenced", ())
    answer = world.answers(proposed, "licence", LicenceChecked(note="first"))
    assert (await world.store.commit(Commit(begun, emitted=answer))).status == "recorded"
    assert [row.event_id for row in await world.store.inbox(task_id=seen.task_id) if row.role == "licence"] == [
        proposed.envelope.id
    ]


async def test_an_act_that_became_uncertain_after_the_look_keeps_its_task_open(world: World) -> None:
    *_, granted = await world.dance(upto="approved")
    (cancel,) = await world.store.append([world.said(granted, cancelling())])
    seen = await world.delivery("deploy", cancel)
    begun, _ = await world.begin("deploy", granted)
    await world.store.effect_intent(begun, "release:x", "release", "{}")
    assert (await world.store.commit(Commit(begun))).status == "recorded"
    with pytest.raises(Conflict, match="release:x"):
        await world.store.commit(Commit(seen, emitted=world.answers(cancel, "deploy", TaskCancelled())))
    assert (await world.store.stream(seen.task_id))[-1] == cancel


async def test_an_unknown_event_waits_behind_everything_that_is_open(world: World) -> None:
    submission = await world.submit()
    await world.handle("licence", submission, status="parked", reason_code="skew")
    (unknown,) = world.answers(submission, "planning", plan())
    claim = await world.claim("licence", unknown)
    assert (claim.status, claim.known) == ("waiting", False)
    assert submission.envelope.id in claim.detail


async def test_an_event_that_only_waits_is_recorded_if_it_was_unknown(world: World) -> None:
    submission = await world.submit()
    await world.begin("planning", submission)
    cancel = world.said(submission, cancelling())
    claim = await world.claim("planning", cancel)
    assert (claim.status, claim.known) == ("waiting", False)
    delivery = await world.delivery("planning", cancel)
    assert (await world.store.start(delivery, cancel, waiting=True)).status == "waiting"
    assert (await world.store.start(delivery, cancel, waiting=True)).status == "waiting"
    assert [event.envelope.type for event in await world.store.tail(0)] == ["TaskSubmitted", "TaskCancelRequested"]


async def test_a_retry_is_not_due_then_free_with_its_journal_on_its_basis(world: World) -> None:
    submission = await world.submit()
    delivery, started = await world.begin("planning", submission)
    assert (started.status, started.starts) == ("started", 1)
    intent = await world.store.step_intent(delivery, step(delivery))
    await world.store.step_outcome(delivery, replace(intent, outcome="ok", result='"green"'))
    due = world.clock.now_us + 30_000_000
    request = Commit(delivery, status="retry", due_us=due, reason="no answer", reason_code="unavailable", attempt=1)
    assert (await world.store.commit(request)).status == "recorded"
    assert (await world.claim("planning", submission)).status == "waiting"
    assert await world.store.sweep("planning", ["TaskSubmitted"], older_than_seconds=0) == []
    await world.store.append([world.said(submission, cancelling())])  # the head moves on meanwhile
    world.clock.advance(31)
    claim = await world.claim("planning", submission)
    assert (claim.status, claim.basis, claim.attempt, claim.starts) == ("free", 1, 1, 0)
    assert claim.state is not None
    assert (claim.state.sequence, claim.state.cancel_requested) == (1, False)
    assert [recorded.result for recorded in claim.steps] == ['"green"']
    (row,) = await world.store.inbox(statuses=["retry"])
    assert (row.reason, row.reason_code, row.attempt, row.due_us) == ("no answer", "unavailable", 1, due)
    assert [task.retrying for task in await world.store.tasks(TaskFilter(retrying=True))] == [1]


async def test_control_events_pass_what_is_parked_or_retried(world: World) -> None:
    submission = await world.submit()
    await world.handle("planning", submission, status="retry", due_us=world.clock.now_us + 10**9, attempt=1)
    (cancel,) = await world.store.append([world.said(submission, cancelling())])
    assert (await world.claim("planning", cancel)).status == "free"
    committed = await world.handle("planning", cancel, TaskCancelled())
    assert committed.status == "recorded"
    assert (await statuses(world, submission))["planning", "TaskSubmitted"] == "superseded"


async def test_control_events_wait_for_work_that_has_begun(world: World) -> None:
    submission = await world.submit()
    await world.begin("planning", submission)
    (cancel,) = await world.store.append([world.said(submission, cancelling())])
    assert (await world.claim("planning", cancel)).status == "waiting"
    world.dead.add("one")  # even of a dead worker: its delivery comes back first
    assert (await world.claim("planning", cancel)).status == "waiting"


async def test_an_ended_task_is_closed_for_the_roles_of_the_dance(world: World) -> None:
    *_, proposed = await world.dance(upto="proposed")
    ours, _ = await world.begin("review", proposed)
    further, _ = await world.begin("licence", proposed)
    (cancel,) = await world.store.append([world.said(proposed, cancelling())])
    word = Delivery("review", cancel.envelope.id, cancel.envelope.task_id, cancel.envelope.id, cancel.sequence)
    ending = Commit(word, emitted=world.answers(cancel, "review", TaskCancelled()))
    assert (await world.store.commit(ending)).status == "fenced"  # the lease is not that delivery's
    world.dead.add("one")
    assert (await world.store.commit(ending)).status == "recorded"
    assert (await statuses(world, proposed))["review", "ChangeProposed"] == "superseded"
    assert (await statuses(world, proposed))["licence", "ChangeProposed"] == "started"
    assert (await world.claim("review", proposed)).status == "closed"
    assert (await world.store.commit(Commit(ours))).status == "superseded"
    assert set(await world.store.leases("one")) == {("licence", proposed.envelope.task_id)}
    late = world.answers(proposed, "licence", LicenceChecked())
    assert (await world.store.commit(Commit(further, emitted=late))).status == "recorded"


async def test_dead_is_closed_until_it_is_reopened(world: World) -> None:
    submission = await world.submit()
    escalated = TaskEscalated(role="planning", reason="undecodable", reason_code="undecodable")
    request = Commit(
        await world.delivery("planning", submission),
        status="dead",
        emitted=world.answers(submission, "planning", escalated, slot="aside"),
        reason_code="undecodable",
    )
    assert (await world.store.commit(request)).status == "recorded"
    await world.store.published("planning", [submission.envelope.id])
    assert (await world.claim("planning", submission)).status == "closed"
    await world.store.published("planning", [submission.envelope.id])
    assert await world.store.sweep("planning", ["TaskSubmitted"], older_than_seconds=0) == []
    await world.store.append([world.said(submission, TaskResumed(operator="olga"))])
    assert (await world.claim("planning", submission)).status == "closed"  # a letter comes back by a redrive alone
    assert await world.store.reopen("planning", submission.envelope.id)
    assert not await world.store.reopen("planning", submission.envelope.id)
    claim = await world.claim("planning", submission)
    assert (claim.status, claim.basis, claim.attempt) == ("free", 3, 0)
    assert (await world.handle("planning", submission, plan())).status == "recorded"


async def test_a_delivery_of_bytes_that_are_no_event_is_remembered(world: World) -> None:
    event_id, task_id = ids.uuid7(), ids.uuid7()
    delivery = Delivery("planning", event_id, task_id, event_id, 0)
    request = Commit(delivery, status="dead", reason="not an event", reason_code="undecodable")
    assert (await world.store.commit(request)).status == "recorded"
    (row,) = await world.store.inbox(statuses=["dead"])
    assert (row.event_id, row.event_type, row.reason_code) == (event_id, "", "undecodable")


async def test_nothing_stays_open_on_a_task_that_ended(world: World) -> None:
    submission = await world.submit()
    first = await world.delivery("planning", submission)
    (cancel,) = await world.store.append([world.said(submission, cancelling())])
    await world.handle("planning", cancel, TaskCancelled())
    committed = await world.store.commit(Commit(first, status="retry", due_us=world.clock.now_us, attempt=1))
    assert committed.status == "superseded"
    assert (await world.store.start(first, None)).status == "closed"
    anew = first._replace(role="coding")
    assert (await world.store.start(anew, None, waiting=True)).status == "closed"
    assert (await world.store.start(anew, None)).status == "closed"
    assert [row.role for row in await world.store.inbox()] == ["planning", "planning"]


async def test_a_resubmission_from_the_bus_with_another_id_is_closed(world: World) -> None:
    first = await world.submit()
    again = world.submission(task_id=first.envelope.task_id)
    claim = await world.claim("planning", again)
    assert claim.status == "closed"
    assert first.envelope.id in claim.detail


async def test_who_fails_after_its_first_word_is_undone_alone(world: World) -> None:
    """An act of that task is uncertain, so it cannot end; the word before the end is taken back with it."""
    granted = [(await world.dance(upto="approved"))[-1] for _ in range(5)]
    requests = []
    for number, event in enumerate(granted):
        delivery, _ = await world.begin("deploy", event)
        if number == 2:
            await world.store.effect_intent(delivery, f"release:{event.envelope.task_id}", "release", "{}")
        requests.append(Commit(delivery, emitted=world.answers(event, "deploy", production(), succeeded())))
    outcomes = await asyncio.gather(*map(world.store.commit, requests), return_exceptions=True)
    assert isinstance(outcomes[2], Conflict)
    assert outcomes[2].code == "open_effect"
    others = [outcome for outcome in outcomes if isinstance(outcome, Committed)]
    assert [outcome.status for outcome in others] == ["recorded"] * 4
    assert (await world.store.stream(granted[2].envelope.task_id))[-1] == granted[2]
    assert await world.store.verify_chain() == []
    await world.store.effect_receipt(f"release:{granted[2].envelope.task_id}", "{}")
    assert (await world.store.commit(requests[2])).status == "recorded"
