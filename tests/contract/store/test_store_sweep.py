"""The sweep, leases with their tokens, deadlines, pauses and kills: who reopens what, and who is kept out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from contracts import ids
from contracts.errors import Conflict, Fenced, Illegal, Killed, NotFound
from contracts.events import (
    ApprovalExpired,
    BudgetExhausted,
    BudgetRaised,
    KillLifted,
    KillRaised,
    TaskCancelled,
    TaskEscalated,
    TaskFailed,
    TaskResumed,
)
from contracts.ids import SYSTEM_TASK
from contracts.topology import HEARD_BY_ALL, WORK_SECONDS
from state_store.fold import deadline_id
from state_store.port import Commit, Delivery, Due, Recorded
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
    turned_down,
)

PLANNING = ("TaskSubmitted", *HEARD_BY_ALL)
CODING = ("PlanProposed", "ChangesRequested", *HEARD_BY_ALL)


async def swept(world: World, role: str, consumes: tuple[str, ...], *, older: float = 30.0) -> list[Due]:
    """What is due, but for what was closed and waits to be published: nothing publishes here."""
    found = await world.store.sweep(role, consumes, older_than_seconds=older)
    return [due for due in found if due.kind != "unpublished"]


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
    other = replace(delivery, holder="two", token=0)
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
    committed = await world.store.commit(replace(request, delivery=fresh))
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
    again = await world.store.start(replace(delivery, token=0), None)
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


# -- pauses ---------------------------------------------------------------------------------------------------------


async def test_a_parked_delivery_goes_on_after_resume_with_its_journal_on_the_new_state(world: World) -> None:
    submission = await world.submit()
    delivery, _ = await world.begin("planning", submission)
    intent = await world.store.step_intent(delivery, step(delivery))
    await world.store.step_outcome(delivery, replace(intent, outcome="ok", result="41"))
    escalated = TaskEscalated(role="planning", reason="which file?", reason_code="ambiguous")
    parked = Commit(
        delivery,
        status="parked",
        emitted=world.answers(submission, "planning", escalated, slot="aside"),
        reason="which file?",
        reason_code="ambiguous",
    )
    assert (await world.store.commit(parked)).status == "recorded"
    assert (await world.claim("planning", submission)).status == "closed"
    assert await swept(world, "planning", ()) == []
    row = await world.store.task(submission.envelope.task_id)
    assert row is not None
    assert (row.parked, row.state.status) == (1, "escalated")
    correction = TaskResumed(operator="olga", corrections={"file": "money.py"})
    (resumed,) = await world.store.append([world.said(submission, correction)])
    assert await world.store.next_waiting("planning", submission.envelope.task_id) == submission
    assert await swept(world, "planning", ()) == [Due("retry", submission)]
    claim = await world.claim("planning", submission)
    assert (claim.status, claim.basis) == ("free", resumed.sequence)
    assert claim.state is not None
    assert (claim.state.corrections, claim.state.pause) == ({"file": "money.py"}, None)
    assert [recorded.result for recorded in claim.steps] == ["41"]
    begun, _ = await world.begin("planning", submission, holder="two")
    answered = await world.store.step_intent(begun, step(begun))
    assert (answered.outcome, answered.result) == ("ok", "41")
    committed = await world.store.commit(Commit(begun, emitted=world.answers(submission, "planning", plan())))
    assert committed.status == "recorded"
    assert committed.events[0].envelope.causation_id == submission.envelope.id


async def test_a_raise_reopens_what_waits_for_budget_and_resume_does_not(world: World) -> None:
    submission = await world.submit()
    exhausted = BudgetExhausted(axis="steps", limit=60, spent=60, role="planning")
    await world.handle("planning", submission, exhausted, status="parked", reason_code="exhausted")
    with pytest.raises(Illegal):
        await world.store.append([world.said(submission, TaskResumed(operator="olga"))])
    word = BudgetRaised(operator="olga", budget=small_budget(steps=100))
    (raised,) = await world.store.append([world.said(submission, word)])
    claim = await world.claim("planning", submission)
    assert (claim.status, claim.basis) == ("free", raised.sequence)
    assert claim.state is not None
    assert (claim.state.pause, claim.state.budget.steps) == (None, 100)


# -- kills ----------------------------------------------------------------------------------------------------------


async def raised(world: World, scope: str, target: str = "") -> Recorded:
    payload = KillRaised.model_validate({"scope": scope, "target": target, "reason": "stop it", "operator": "olga"})
    (event,) = await world.store.append([world.word(target if scope == "task" else SYSTEM_TASK, payload)])
    return event


async def lifted(world: World, kill: Recorded) -> Recorded:
    payload = KillLifted(kill_id=kill.envelope.id, operator="olga")
    (event,) = await world.store.append([world.word(kill.envelope.task_id, payload)])
    return event


@pytest.mark.parametrize("scope", ["task", "role", "all"])
async def test_a_kill_parks_what_began_before_it_until_it_is_lifted(world: World, scope: str) -> None:
    submission = await world.submit()
    target = {"task": submission.envelope.task_id, "role": "planning", "all": ""}[scope]
    delivery, _ = await world.begin("planning", submission)
    intent = await world.store.step_intent(delivery, step(delivery))
    killed = await raised(world, scope, target)
    with pytest.raises(Killed, match="stop it"):
        await world.store.step_intent(delivery, step(delivery, 1))
    with pytest.raises(Killed):
        await world.store.effect_intent(delivery, "push:x", "push", "{}")
    await world.store.step_outcome(delivery, replace(intent, outcome="ok", result="7"))
    assert [found.scope for found in await world.store.renew("one", "planning")] == [scope]
    request = Commit(delivery, emitted=world.answers(submission, "planning", plan()))
    committed = await world.store.commit(request)
    assert (committed.status, committed.events, committed.detail) == ("killed", (), "stop it")
    assert await world.store.leases("one") == {}
    (row,) = await world.store.inbox(statuses=["parked"])
    assert (row.reason_code, row.reason) == ("killed", "stop it")
    assert (await world.claim("planning", submission)).status == "closed"
    await lifted(world, killed)
    assert [found.lifted for found in await world.store.kills()] == [True]
    assert await world.store.renew("one", "planning") == []
    claim = await world.claim("planning", submission)
    assert (claim.status, claim.basis, claim.killed_by) == ("free", 1, "")
    assert [recorded.result for recorded in claim.steps] == ["7"]


async def test_under_a_kill_a_claim_says_so_and_restarting_revives_nothing(world: World) -> None:
    submission = await world.submit()
    killed = await raised(world, "all")
    claim = await world.claim("planning", submission)
    assert (claim.status, claim.killed_by) == ("free", "stop it")
    parked = Commit(await world.delivery("planning", submission), status="parked", reason_code="killed")
    assert (await world.store.commit(parked)).status == "recorded"
    world.clock.advance(31)
    assert await swept(world, "planning", PLANNING) == []
    assert (await world.store.reopen("planning", submission.envelope.id)) is True
    assert (await world.claim("planning", submission)).killed_by == "stop it"  # even then it is told
    await world.store.commit(parked)
    await lifted(world, killed)
    assert (await world.claim("planning", submission)).status == "free"


async def test_a_delivery_parked_after_the_lift_is_not_forgotten(world: World) -> None:
    """The worker saw the kill, the operator lifted it, then the worker parked: nobody else would reopen that."""
    submission = await world.submit()
    killed = await raised(world, "all")
    delivery = await world.delivery("planning", submission)
    await lifted(world, killed)
    assert (await world.store.commit(Commit(delivery, status="parked", reason_code="killed"))).status == "recorded"
    assert (await world.claim("planning", submission)).status == "free"
    assert [due.kind for due in await swept(world, "planning", ())] == ["retry"]


async def test_a_lift_reopens_nothing_that_another_kill_covers(world: World) -> None:
    submission = await world.submit()
    delivery, _ = await world.begin("planning", submission)
    first, second = await raised(world, "role", "planning"), await raised(world, "all")
    await world.store.commit(Commit(delivery))
    await lifted(world, first)
    assert (await world.claim("planning", submission)).status == "closed"
    await lifted(world, second)
    assert (await world.claim("planning", submission)).status == "free"


async def test_work_that_began_under_a_kill_may_clean_up(world: World) -> None:
    """A cancel under a kill: its handler knows of the kill and goes on."""
    submission = await world.submit()
    await raised(world, "all")
    delivery, started = await world.begin("planning", submission)
    assert started.status == "started"
    assert (await world.store.step_intent(delivery, step(delivery))).outcome == ""
    await raised(world, "all")
    with pytest.raises(Killed):
        await world.store.step_intent(delivery, step(delivery, 1))
    assert (await world.store.start(replace(delivery, token=0), None)).status == "killed"


async def test_resume_does_not_undo_a_kill(world: World) -> None:
    submission = await world.submit()
    delivery, _ = await world.begin("planning", submission)
    killed = await raised(world, "all")
    await world.store.commit(Commit(delivery))
    (cancel,) = await world.store.append([world.said(submission, cancelling())])
    escalated = TaskEscalated(role="planning", reason="x", reason_code="x")
    await world.handle("planning", cancel, escalated)
    await world.store.append([world.said(submission, TaskResumed(operator="olga"))])
    assert (await world.claim("planning", submission)).status == "closed"
    await lifted(world, killed)
    assert await swept(world, "planning", ()) == [Due("retry", submission)]


async def test_a_kill_of_one_role_leaves_the_others_alone(world: World) -> None:
    submission = await world.submit()
    await raised(world, "role", "review")
    await raised(world, "task", (await world.submit()).envelope.task_id)
    assert (await world.claim("planning", submission)).killed_by == ""
    assert (await world.handle("planning", submission, plan())).status == "recorded"


async def test_a_task_can_be_cancelled_under_its_kill_and_the_kill_lifted_after(world: World) -> None:
    submission = await world.submit()
    killed = await raised(world, "task", submission.envelope.task_id)
    (cancel,) = await world.store.append([world.said(submission, cancelling())])
    assert (await world.claim("planning", cancel)).killed_by == "stop it"
    assert (await world.handle("planning", cancel, TaskCancelled())).status == "recorded"
    await lifted(world, killed)
    row = await world.store.task(submission.envelope.task_id)
    assert row is not None
    assert row.state.step == "cancelled"


async def test_kills_belong_into_their_own_streams_and_are_lifted_once(world: World) -> None:
    submission = await world.submit()
    everything = KillRaised(scope="all", reason="x", operator="olga")
    with pytest.raises(Illegal, match="belongs into the stream"):
        await world.store.append([world.said(submission, everything)])
    with pytest.raises(NotFound):
        await world.store.append([world.word(SYSTEM_TASK, KillLifted(kill_id=ids.uuid7(), operator="olga"))])
    killed = await raised(world, "all")
    await lifted(world, killed)
    with pytest.raises(Conflict, match="lifted before"):
        await lifted(world, killed)
    assert [event.sequence for event in await world.store.stream(SYSTEM_TASK)] == [1, 2]
    assert await world.store.task(SYSTEM_TASK) is None
    assert await world.store.verify_chain() == []


async def test_every_role_hears_of_a_lift_in_the_stream_of_the_system(world: World) -> None:
    lift = await lifted(world, await raised(world, "all"))
    world.clock.advance(31)
    for role, consumes in (("planning", PLANNING), ("coding", CODING)):
        assert await swept(world, role, consumes) == [Due("missed", lift)]
        claim = await world.claim(role, lift)
        assert (claim.status, claim.basis) == ("free", 2)
        assert (await world.handle(role, lift)).status == "recorded"
        assert await swept(world, role, consumes) == []


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
