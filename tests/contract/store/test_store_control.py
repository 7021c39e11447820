"""Pauses and kills: what stops a delivery, who lets it go on, and what goes on with it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from contracts import ids
from contracts.errors import Conflict, Illegal, Killed, NotFound
from contracts.events import (
    BudgetExhausted,
    BudgetRaised,
    KillLifted,
    KillRaised,
    TaskCancelled,
    TaskEscalated,
    TaskResumed,
)
from contracts.ids import SYSTEM_TASK
from contracts.topology import HEARD_BY_ALL
from state_store.port import Commit, Due, Recorded
from tests.contract.store.world import (
    World,
    cancelling,
    plan,
    small_budget,
    step,
    swept,
)

PLANNING = ("TaskSubmitted", *HEARD_BY_ALL)
CODING = ("PlanProposed", "ChangesRequested", *HEARD_BY_ALL)


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
    assert (await world.store.start(delivery._replace(token=0), None)).status == "killed"


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


async def test_a_word_that_waits_is_nothing_that_goes_on_after_a_resume(world: World) -> None:
    submission = await world.submit()
    task_id = submission.envelope.task_id
    (word,) = await world.store.append([world.said(submission, cancelling())])
    await world.handle("planning", word, status="retry", due_us=world.clock())
    assert await world.store.next_waiting("planning", task_id) == word
    assert await world.store.next_waiting("planning", task_id, besides=submission.envelope.id) is None


async def test_a_kill_leaves_nothing_open_in_a_task_that_ended(world: World) -> None:
    submission = await world.submit()
    task_id = submission.envelope.task_id
    (word,) = await world.store.append([world.said(submission, cancelling())])
    heard = await world.delivery("review", word)
    await world.handle("planning", word, TaskCancelled(reason="not needed", requested_by="olga"))
    await world.store.append([world.word(SYSTEM_TASK, KillRaised(scope="all", reason="stop", operator="olga"))])
    assert (await world.store.commit(Commit(heard))).status == "recorded"
    assert await world.store.inbox(task_id=task_id, statuses=("started", "waiting", "retry", "parked")) == []
