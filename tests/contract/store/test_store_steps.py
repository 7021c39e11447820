"""The step journal, budgets on four axes, the effect ledger and bodies."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from contracts import ids
from contracts.errors import CancelRequested, Conflict, Corrupt, Exhausted, Fenced, NotFound
from contracts.events import BudgetRaised, DeploymentRolledBack, TaskFailed
from state_store.port import Commit, Delivery, Recorded, Step
from tests.contract.store.world import DIGEST, LicenceChecked, World, cancelling, plan, small_budget, staging, step


async def working(world: World, **caps: int) -> tuple[Recorded, Delivery]:
    submission = await world.submit(budget=small_budget(**caps))
    delivery, _ = await world.begin("planning", submission)
    return submission, delivery


async def done(world: World, delivery: Delivery, intent: Step, **outcome: object) -> None:
    given = {"outcome": "ok", "ended_at_us": world.clock()} | outcome
    await world.store.step_outcome(delivery, replace(intent, **given))  # type: ignore[arg-type]  # fields of Step


def rolled_back() -> DeploymentRolledBack:
    return DeploymentRolledBack(environment="production", digest=DIGEST, reason="ill", effect_key="release:production")


# -- the journal ----------------------------------------------------------------------------------------------------


async def test_a_step_is_intended_then_settled(world: World) -> None:
    submission, delivery = await working(world)
    asked = step(delivery, kind="model", name="plan", arguments='{"a":1}', why="to plan", reserved_tokens=900)
    asked = replace(asked, prompt="planning", prompt_hash="abc", reserved_cost_microdollars=50)
    intent = await world.store.step_intent(delivery, asked)
    assert (intent.outcome, intent.attempt, intent.why) == ("", 1, "to plan")
    (open_,) = await world.store.steps(submission.envelope.task_id)
    assert open_ == intent
    task = await world.store.task(submission.envelope.task_id)
    assert task is not None
    assert (task.spent.tokens, task.spent.steps, task.spent.cost_microdollars) == (900, 1, 50)
    ended = intent.began_at_us + 2_500_000
    await done(
        world, delivery, intent, result='"a plan"', tokens_in=100, tokens_out=20, cost_microdollars=7, ended_at_us=ended
    )
    (settled,) = await world.store.steps(submission.envelope.task_id)
    assert (settled.outcome, settled.result, settled.tokens_in, settled.prompt) == ("ok", '"a plan"', 100, "planning")
    task = await world.store.task(submission.envelope.task_id)
    assert task is not None
    assert (task.spent.tokens, task.spent.cost_microdollars, task.spent.wall_seconds) == (120, 7, 2.5)


async def test_a_rerun_is_answered_from_the_record(world: World) -> None:
    submission, delivery = await working(world)
    for ordinal in range(3):
        intent = await world.store.step_intent(delivery, step(delivery, ordinal, arguments=str(ordinal)))
        await done(world, delivery, intent, result=str(ordinal * 10))
    world.dead.add("one")
    again, started = await world.begin("planning", submission, holder="two")
    assert [recorded.result for recorded in started.steps] == ["0", "10", "20"]
    for ordinal in range(3):
        answered = await world.store.step_intent(again, step(again, ordinal, arguments=str(ordinal)))
        assert (answered.outcome, answered.result, answered.attempt) == ("ok", str(ordinal * 10), 1)
    assert len(await world.store.steps(submission.envelope.task_id)) == 3


async def test_a_step_of_unknown_outcome_is_tried_again_and_stays_charged(world: World) -> None:
    submission, delivery = await working(world)
    await world.store.step_intent(delivery, step(delivery, reserved_tokens=500, reserved_cost_microdollars=40))
    world.dead.add("one")
    again, _ = await world.begin("planning", submission, holder="two")
    intent = await world.store.step_intent(again, step(again, reserved_tokens=500, reserved_cost_microdollars=40))
    assert (intent.outcome, intent.attempt, intent.estimated) == ("", 2, True)
    await done(world, again, intent, tokens_in=10, cost_microdollars=1)
    task = await world.store.task(submission.envelope.task_id)
    assert task is not None
    assert (task.spent.tokens, task.spent.cost_microdollars, task.spent.steps) == (510, 41, 2)


async def test_a_step_that_failed_is_tried_again(world: World) -> None:
    submission, delivery = await working(world)
    intent = await world.store.step_intent(delivery, step(delivery))
    await done(world, delivery, intent, outcome="error", error="Unavailable: no answer", tokens_in=3)
    again = await world.store.step_intent(delivery, step(delivery))
    assert (again.outcome, again.attempt, again.error, again.estimated) == ("", 2, "", False)
    await done(world, delivery, again, result="1", tokens_in=4)
    (settled,) = await world.store.steps(submission.envelope.task_id)
    assert (settled.outcome, settled.result) == ("ok", "1")
    task = await world.store.task(submission.envelope.task_id)
    assert task is not None
    assert task.spent.tokens == 7


async def test_other_arguments_abandon_the_old_tail(world: World) -> None:
    submission, delivery = await working(world)
    for ordinal in range(3):
        intent = await world.store.step_intent(delivery, step(delivery, ordinal, reserved_tokens=100))
        await done(world, delivery, intent, tokens_in=10)
    world.dead.add("one")
    again, _ = await world.begin("planning", submission, holder="two")
    kept = await world.store.step_intent(again, step(again, 0))
    assert kept.outcome == "ok"
    anew = await world.store.step_intent(again, step(again, 1, arguments='{"other":1}'))
    assert (anew.outcome, anew.attempt) == ("", 1)
    await done(world, again, anew, result="new", tokens_in=1)
    behind = await world.store.step_intent(again, step(again, 2))
    assert behind.outcome == ""  # what followed the old answer answers nothing now
    journal = await world.store.steps(submission.envelope.task_id)
    assert [(recorded.ordinal, recorded.abandoned) for recorded in journal] == [
        (0, False),
        (1, True),
        (2, True),
        (1, False),
        (2, False),
    ]
    claim = await world.store.claim("planning", None, submission.envelope, holder="two")
    assert [(recorded.ordinal, recorded.result) for recorded in claim.steps] == [(0, ""), (1, "new"), (2, "")]
    task = await world.store.task(submission.envelope.task_id)
    assert task is not None
    assert task.spent.tokens == 31  # the abandoned ones were paid


async def test_the_same_arguments_of_another_tool_are_another_step(world: World) -> None:
    _, delivery = await working(world)
    first = await world.store.step_intent(delivery, step(delivery, name="read"))
    await done(world, delivery, first, result="1")
    other = replace(step(delivery, name="read"), name="write")
    assert (await world.store.step_intent(delivery, other)).outcome == ""


async def test_outcomes_are_taken_from_stale_hands_but_never_twice(world: World) -> None:
    submission, stale = await working(world)
    first = await world.store.step_intent(stale, step(stale))
    world.clock.advance(11)
    fresh, _ = await world.begin("planning", submission, holder="two")
    second = await world.store.step_intent(fresh, step(fresh))
    await done(world, stale, first, outcome="error", error="too late")  # says nothing about the second try
    assert [recorded.outcome for recorded in await world.store.steps(submission.envelope.task_id)] == [""]
    await done(world, stale, first, result="stale but right")
    await done(world, fresh, second, result="fresh")
    (settled,) = await world.store.steps(submission.envelope.task_id)
    assert (settled.outcome, settled.result) == ("ok", "stale but right")


async def test_an_outcome_without_an_intent_is_refused(world: World) -> None:
    _, delivery = await working(world)
    with pytest.raises(NotFound):
        await done(world, delivery, step(delivery))


async def test_steps_need_a_durable_start(world: World) -> None:
    submission = await world.submit()
    delivery = await world.delivery("planning", submission)
    with pytest.raises(Fenced):
        await world.store.step_intent(delivery, step(delivery))


async def test_a_request_to_cancel_stops_the_owner_at_its_next_step(world: World) -> None:
    submission, delivery = await working(world)
    licence, _ = await world.begin("licence", submission)
    await world.store.append([world.said(submission, cancelling())])
    with pytest.raises(CancelRequested, match="olga"):
        await world.store.step_intent(delivery, step(delivery))
    assert (await world.store.step_intent(licence, step(licence))).outcome == ""  # it is not for that one to end it


async def test_large_texts_of_steps_lie_in_bodies(world: World) -> None:
    submission, delivery = await working(world)
    arguments, result = json.dumps("a" * 200_000), json.dumps("ü" * 200_000)
    intent = await world.store.step_intent(delivery, step(delivery, arguments=arguments))
    assert intent.arguments == arguments
    await done(world, delivery, intent, result=result)
    (settled,) = await world.store.steps(submission.envelope.task_id)
    assert (settled.arguments, settled.result) == (arguments, result)
    answered = await world.store.step_intent(delivery, step(delivery, arguments=arguments))
    assert answered.result == result
    longest = "SELECT max(coalesce(length(arguments), 0) + coalesce(length(result), 0)) FROM steps"
    assert await world.sql(longest) == [(0,)]


# -- budgets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axis", "cap", "fields"),
    [
        ("tokens", 1000, {"reserved_tokens": 400}),
        ("steps", 2, {}),
        ("cost_microdollars", 1000, {"reserved_cost_microdollars": 400}),
    ],
)
async def test_a_cap_holds_before_the_step_that_would_pass_it(
    world: World, axis: str, cap: int, fields: dict[str, int]
) -> None:
    submission, delivery = await working(world, **{axis: cap})
    for ordinal in range(2):
        await world.store.step_intent(delivery, step(delivery, ordinal, **fields))
    with pytest.raises(Exhausted) as caught:
        await world.store.step_intent(delivery, step(delivery, 2, **fields))
    assert (caught.value.axis, caught.value.limit) == (axis, cap)
    assert caught.value.spent + caught.value.reserved == (2 if axis == "steps" else 800)
    assert caught.value.wanted == (1 if axis == "steps" else 400)
    assert len(await world.store.steps(submission.envelope.task_id)) == 2
    word = BudgetRaised(operator="olga", budget=small_budget(**{axis: cap * 2}))
    await world.store.append([world.said(submission, word)])
    assert (await world.store.step_intent(delivery, step(delivery, 2, **fields))).outcome == ""


async def test_wall_time_is_work_and_not_waiting(world: World) -> None:
    submission, delivery = await working(world, wall_seconds=10)
    for ordinal in range(2):
        intent = await world.store.step_intent(delivery, step(delivery, ordinal))
        await done(world, delivery, intent, ended_at_us=intent.began_at_us + 5_000_000)
        world.clock.advance(3600)
        delivery, _ = await world.begin("planning", submission)
    with pytest.raises(Exhausted) as caught:
        await world.store.step_intent(delivery, step(delivery, 2))
    assert (caught.value.axis, caught.value.limit, caught.value.spent) == ("wall_seconds", 10, 10)


async def test_values_are_free(world: World) -> None:
    _, delivery = await working(world, steps=1)
    await world.store.step_intent(delivery, step(delivery, 0))
    for ordinal in range(1, 6):
        await world.store.step_intent(delivery, step(delivery, ordinal, kind="value", name="clock"))
    with pytest.raises(Exhausted):
        await world.store.step_intent(delivery, step(delivery, 6))


async def test_two_processes_cannot_overspend_together(world: World) -> None:
    submission, delivery = await working(world, tokens=1000)
    licence, _ = await world.begin("licence", submission)
    other = await world.another()
    outcomes = await asyncio.gather(
        *(world.store.step_intent(delivery, step(delivery, n, reserved_tokens=300)) for n in range(4)),
        *(other.step_intent(licence, step(licence, n, reserved_tokens=300)) for n in range(4)),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, Step) for outcome in outcomes) == 3
    assert sum(isinstance(outcome, Exhausted) for outcome in outcomes) == 5


# -- effects --------------------------------------------------------------------------------------------------------


async def test_an_effect_is_intended_once_and_its_receipt_answers(world: World) -> None:
    submission, delivery = await working(world)
    key = f"push:{submission.envelope.task_id}"
    intent = await world.store.effect_intent(delivery, key, "push", '{"ref":"x"}')
    assert (intent.receipt, intent.token) == (None, delivery.token)
    await world.store.effect_receipt(key, '{"sha":"1"}')
    await world.store.effect_receipt(key, '{"sha":"2"}')
    known = await world.store.effect_intent(delivery, key, "push", '{"ref":"y"}')
    assert (known.receipt, known.intent) == ('{"sha":"1"}', '{"ref":"x"}')
    assert await world.store.effects(submission.envelope.task_id) == [known]
    with pytest.raises(NotFound):
        await world.store.effect_receipt("push:nothing", "{}")


async def test_an_open_effect_passes_to_the_next_holder_with_its_token(world: World) -> None:
    submission, stale = await working(world)
    await world.store.effect_intent(stale, "release:x", "release", "{}")
    world.clock.advance(11)
    fresh, _ = await world.begin("planning", submission, holder="two")
    found = await world.store.effect_intent(fresh, "release:x", "release", "{}")
    assert (found.receipt, found.token) == (None, fresh.token)
    assert fresh.token > stale.token
    await world.store.effect_receipt("release:x", "{}")  # from whichever hands


async def test_an_effect_of_another_task_is_not_ours(world: World) -> None:
    _, first = await working(world)
    _, second = await working(world)
    await world.store.effect_intent(first, "release:x", "release", "{}")
    with pytest.raises(Conflict, match=first.task_id):
        await world.store.effect_intent(second, "release:x", "release", "{}")


async def test_a_task_does_not_end_while_an_act_is_uncertain(world: World) -> None:
    submission, delivery = await working(world)
    await world.store.effect_intent(delivery, "release:x", "release", "{}")
    failed = TaskFailed(reason="no", reason_code="x")
    request = Commit(delivery, emitted=world.answers(submission, "planning", failed))
    with pytest.raises(Conflict) as caught:
        await world.store.commit(request)
    assert caught.value.code == "open_effect"
    assert "release:x" in str(caught.value)
    await world.store.effect_withdraw("release:x")
    assert await world.store.effects(submission.envelope.task_id) == []
    assert (await world.store.commit(request)).status == "recorded"


async def test_what_is_in_production_is_told_before_the_task_may_be_cancelled(world: World) -> None:
    reviewed = (await world.dance(upto="reviewed"))[-1]
    task_id = reviewed.envelope.task_id
    delivery, _ = await world.begin("deploy", reviewed)
    await world.store.append([world.said(reviewed, cancelling())])
    for environment in ("staging", "production"):
        assert await world.store.unfinished_act(task_id) is None
        with pytest.raises(CancelRequested):
            await world.store.step_intent(delivery, step(delivery))
        await world.store.effect_intent(delivery, f"release:{environment}", environment, "{}")
        assert await world.store.unfinished_act(task_id) == f"release:{environment}"
        await world.store.effect_receipt(f"release:{environment}", "{}")
    assert await world.store.unfinished_act(task_id) == "release:production"
    await world.store.step_intent(delivery, step(delivery))
    told = world.answers(reviewed, "deploy", staging(), rolled_back())
    assert (await world.store.commit(Commit(delivery, emitted=told))).status == "recorded"
    assert await world.store.unfinished_act(task_id) is None


async def test_a_receipt_is_never_withdrawn(world: World) -> None:
    submission, delivery = await working(world)
    await world.store.effect_intent(delivery, "release:x", "release", "{}")
    await world.store.effect_receipt("release:x", "{}")
    await world.store.effect_withdraw("release:x")
    assert [effect.receipt for effect in await world.store.effects(submission.envelope.task_id)] == ["{}"]
    request = Commit(delivery, emitted=world.answers(submission, "planning", plan()))
    assert (await world.store.commit(request)).status == "recorded"


async def test_an_annotating_agent_has_steps_of_its_own_after_the_end(world: World) -> None:
    events = await world.dance()
    proposed = next(event for event in events if event.envelope.type == "ChangeProposed")
    delivery, _ = await world.begin("licence", proposed)
    intent = await world.store.step_intent(delivery, step(delivery))
    await done(world, delivery, intent)
    committed = await world.store.commit(Commit(delivery, emitted=world.answers(proposed, "licence", LicenceChecked())))
    assert committed.status == "recorded"


# -- bodies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 10, 64 * 1024, 64 * 1024 + 1, 3_000_000])
async def test_bodies_come_back_by_their_digest(world: World, size: int) -> None:
    raw = b"\x00\xff" * (size // 2) + b"x" * (size % 2)
    first, second = await world.store.put_body(raw), await world.store.put_body(raw)
    assert first == second
    assert await world.store.body(first) == raw


async def test_unknown_bodies_are_none(world: World) -> None:
    assert await world.store.body("sha256:" + "0" * 64) is None
    assert await world.store.body("../../etc/passwd") is None
    assert await world.store.body(ids.uuid7()) is None


async def test_a_large_body_is_a_private_file_and_whole_or_not_there(file_world: World) -> None:
    raw = b"y" * 100_000
    digest = await file_world.store.put_body(raw)
    (path,) = [path for path in (file_world.folder / "bodies").rglob("*") if path.is_file()]
    assert path.name == digest.removeprefix("sha256:")
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"z" * 100_000)
    with pytest.raises(Corrupt, match=digest):
        await file_world.store.body(digest)
