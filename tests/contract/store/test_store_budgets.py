"""Budgets hold on four axes, whoever works: many at once, processes that are killed, deadlines cut to what is left."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import Exhausted
from contracts.events import BudgetRaised
from state_store.port import Delivery, Recorded, Spent, Step
from state_store.store import Store
from tests.acceptance.commands import until
from tests.contract.store import processes
from tests.contract.store.test_store_processes import ended, process, reopened
from tests.contract.store.world import Place, World, small_budget, step

SECOND = 1_000_000
WORKERS = 50


@dataclass(frozen=True)
class Axis:
    """A cap of which 99 % are used, and what each further step wants at most and then uses: three of them fit."""

    cap: int
    wants: dict[str, int]
    uses: dict[str, int]
    used: dict[str, int]
    seconds: int = 0


AXES = {
    "tokens": Axis(100_000, {"reserved_tokens": 300}, {"tokens_in": 250, "tokens_out": 50}, {"tokens_in": 99_000}),
    "steps": Axis(100, {}, {}, {}),
    "wall_seconds": Axis(1000, {}, {}, {}, seconds=4),  # 4 + 4 + the last 2
    "cost_microdollars": Axis(
        100_000, {"reserved_cost_microdollars": 300}, {"cost_microdollars": 300}, {"cost_microdollars": 99_000}
    ),
}


@pytest.mark.parametrize("axis", AXES)
async def test_fifty_workers_at_99_percent_of_a_cap_never_pass_it(world: World, axis: str) -> None:
    of = AXES[axis]
    submission, deliveries = await at_99_percent(world, axis)
    stores = [world.store, *[await world.another() for _ in range(3)]]
    outcomes = await asyncio.gather(
        *(work(world, stores[n % 4], deliveries[n % 2], n + 1, of) for n in range(WORKERS)), return_exceptions=True
    )
    assert sum(isinstance(outcome, Step) for outcome in outcomes) == (3 if axis != "steps" else 1)
    refused = [outcome for outcome in outcomes if not isinstance(outcome, Step)]
    assert {error.axis for error in refused if isinstance(error, Exhausted)} == {axis}, refused
    assert all(
        error.limit == of.cap and error.spent + error.reserved + error.wanted > of.cap
        for error in refused
        if isinstance(error, Exhausted)
    ), refused
    spent = await spent_on(world, submission)
    assert of.cap * 0.99 < getattr(spent, axis) <= of.cap
    assert getattr(spent, f"held_{axis}") == 0


async def at_99_percent(world: World, axis: str) -> tuple[Recorded, list[Delivery]]:
    """A task at which two roles work, and what they have done so far."""
    of = AXES[axis]
    submission = await world.submit(budget=small_budget(**{"steps": 1000, axis: of.cap}))
    deliveries = [(await world.begin(role, submission))[0] for role in ("planning", "licence")]
    first = await world.store.step_intent(deliveries[0], step(deliveries[0], **of.wants))
    ended_at_us = first.began_at_us + (990 * SECOND if of.seconds else 0)
    await world.store.step_outcome(deliveries[0], replace(first, outcome="ok", ended_at_us=ended_at_us, **of.used))  # type: ignore[arg-type]  # fields of Step
    if axis == "steps":
        await world.sql("UPDATE steps SET attempt = 99 WHERE task_id = ?", submission.envelope.task_id)
    return submission, deliveries


async def work(world: World, store: Store, delivery: Delivery, ordinal: int, of: Axis) -> Step:
    """One worker: reserve the worst case, and use all of it."""
    began = world.clock()
    wanted: dict[str, Any] = of.wants | {"began_at_us": began}
    if of.seconds:
        wanted["deadline_us"] = began + of.seconds * SECOND
    granted = await store.step_intent(delivery, step(delivery, ordinal, **wanted))
    ended_at_us = granted.deadline_us or granted.began_at_us
    await store.step_outcome(delivery, replace(granted, outcome="ok", ended_at_us=ended_at_us, **of.uses))  # type: ignore[arg-type]  # fields of Step
    return granted


async def spent_on(world: World, submission: Recorded) -> Spent:
    row = await world.store.task(submission.envelope.task_id)
    assert row is not None
    return row.spent


async def test_what_was_not_needed_comes_back(world: World) -> None:
    submission = await world.submit(budget=small_budget(tokens=1000, cost_microdollars=1000, wall_seconds=100))
    delivery, _ = await world.begin("planning", submission)
    for ordinal in range(5):
        began = world.clock()
        wants = {"reserved_tokens": 600, "reserved_cost_microdollars": 700, "deadline_us": began + 60 * SECOND}
        intent = await world.store.step_intent(delivery, step(delivery, ordinal, began_at_us=began, **wants))
        assert intent.deadline_us == began + 60 * SECOND
        with pytest.raises(Exhausted, match=r"600 are held for calls without an outcome"):
            await world.store.step_intent(delivery, step(delivery, 9, began_at_us=began, reserved_tokens=601))
        used = {"tokens_in": 50, "cost_microdollars": 20, "ended_at_us": began + 3 * SECOND}
        await world.store.step_outcome(delivery, replace(intent, outcome="ok", **used))  # type: ignore[arg-type]  # fields of Step
    spent = await spent_on(world, submission)
    assert spent == Spent(tokens=250, steps=5, wall_seconds=15.0, cost_microdollars=100)


async def test_a_deadline_comes_no_later_than_the_wall_clock_has(world: World) -> None:
    submission = await world.submit(budget=small_budget(wall_seconds=100))
    delivery, _ = await world.begin("planning", submission)
    began = world.clock()
    asked = step(delivery, began_at_us=began, deadline_us=began + 70 * SECOND)
    assert (await world.store.step_intent(delivery, asked)).deadline_us == asked.deadline_us
    second = replace(asked, ordinal=1, began_at_us=began, deadline_us=began + 70 * SECOND)
    assert (await world.store.step_intent(delivery, second)).deadline_us == began + 30 * SECOND
    with pytest.raises(Exhausted) as caught:
        await world.store.step_intent(delivery, replace(second, ordinal=2))
    told = caught.value
    assert (told.axis, told.limit, told.spent, told.reserved, told.wanted) == ("wall_seconds", 100, 0, 100, 1)
    word = BudgetRaised(operator="olga", budget=small_budget(wall_seconds=110))
    await world.store.append([world.said(submission, word)])
    third = await world.store.step_intent(delivery, replace(second, ordinal=2))
    assert third.deadline_us - third.began_at_us == 10 * SECOND


async def test_time_in_which_nobody_worked_is_not_charged(world: World) -> None:
    """A machine slept, or its clock was put forward: no step is charged past its deadline, nor twice."""
    submission = await world.submit(budget=small_budget(wall_seconds=100))
    delivery, _ = await world.begin("planning", submission)
    began = world.clock()
    intent = await world.store.step_intent(delivery, step(delivery, began_at_us=began, deadline_us=began + 60 * SECOND))
    days_later = began + 12 * 86_400 * SECOND
    await world.store.step_outcome(delivery, replace(intent, outcome="error", error="cut", ended_at_us=days_later))
    assert (await spent_on(world, submission)).wall_seconds == 60
    await world.store.step_outcome(delivery, replace(intent, outcome="ok", ended_at_us=days_later + SECOND))
    assert (await spent_on(world, submission)).wall_seconds == 60
    reading = await world.store.step_intent(delivery, step(delivery, 1, kind="value", began_at_us=days_later))
    await world.store.step_outcome(delivery, replace(reading, outcome="ok", ended_at_us=days_later * 2))
    assert (await spent_on(world, submission)).wall_seconds == 60


async def test_the_dead_are_charged_as_reserved_but_for_time_that_did_not_pass(world: World) -> None:
    submission = await world.submit(budget=small_budget(tokens=1000, wall_seconds=60))
    delivery, _ = await world.begin("planning", submission)
    began = world.clock()
    wants = {"reserved_tokens": 400, "reserved_cost_microdollars": 70}
    asked = step(delivery, began_at_us=began, deadline_us=began + 60 * SECOND, **wants)
    await world.store.step_intent(delivery, asked)
    world.dead.add("one")
    spent = await spent_on(world, submission)
    assert (spent.held_tokens, spent.held_steps, spent.held_wall_seconds, spent.held_cost_microdollars) == (
        400,
        1,
        60.0,
        70,
    )
    again, _ = await world.begin("planning", submission, holder="two")
    later = began + 5 * SECOND
    rerun = replace(asked, began_at_us=later, deadline_us=later + 60 * SECOND)
    intent = await world.store.step_intent(again, rerun)
    assert (intent.attempt, intent.estimated, intent.deadline_us) == (2, True, later + 55 * SECOND)
    await world.store.step_outcome(again, replace(intent, outcome="ok", tokens_in=10, ended_at_us=later + SECOND))
    assert await spent_on(world, submission) == Spent(410, 2, 6.0, 70)
    with pytest.raises(Exhausted, match="410 of 1000 are spent, 0 are held"):
        await world.store.step_intent(again, replace(rerun, ordinal=1, reserved_tokens=600))


@pytest.mark.parametrize("kind", ["file", "postgres"])
async def test_kill_9_among_fifty_workers_at_99_percent_and_nobody_overspends(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Five processes with ten workers each, at the four caps at once; one process is killed with calls under way."""
    place = Place.of(request.getfixturevalue("postgres")) if kind == "postgres" else None
    async with reopened(place, tmp_path, wiped=True) as world:
        tasks = {axis: await nearly_spent(world, axis) for axis in processes.AXES}
    victim = await process(place, "hold", tmp_path, "victim")
    others = [await process(place, "spend", tmp_path, name) for name in ("one", "two", "three", "four")]
    try:
        await asyncio.to_thread(until, lambda: processes.held(tmp_path, "victim") == HELD * len(tasks))
    finally:
        victim.kill()
    assert (await ended(victim))[0] == -9
    for other in others:
        assert await ended(other) == (0, "")
    async with reopened(place, tmp_path) as world:
        for axis, task in tasks.items():
            spent = await spent_on(world, task)
            assert (getattr(spent, axis), getattr(spent, f"held_{axis}")) == (CAP, HELD), axis
            assert processes.spent_by(tmp_path, axis) == CAP - CAP * 99 // 100 - HELD
            assert processes.notes(tmp_path).count(f"two is refused {axis} at {axis}") == processes.WORKERS
        world.dead.add("victim")
        for axis, task in tasks.items():
            await taken_over(world, axis, task)


CAP = 2000
HELD = processes.WORKERS


async def nearly_spent(world: World, axis: str) -> Recorded:
    """A task with 99 % of one cap used and plenty of the others."""
    plenty = dict.fromkeys(processes.AXES, 10**6)
    submission = await world.submit(title=axis, budget=small_budget(**plenty | {axis: CAP}))
    delivery, _ = await world.begin("planning", submission)
    used = CAP * 99 // 100
    intent = await world.store.step_intent(delivery, step(delivery))
    ended_at_us = intent.began_at_us + (used * SECOND if axis == "wall_seconds" else 0)
    uses = {"tokens_in": used} if axis == "tokens" else {"cost_microdollars": used}
    await world.store.step_outcome(delivery, replace(intent, outcome="ok", ended_at_us=ended_at_us, **uses))  # type: ignore[arg-type]  # fields of Step
    if axis == "steps":
        await world.sql("UPDATE steps SET attempt = ? WHERE task_id = ?", used, submission.envelope.task_id)
    return submission


async def taken_over(world: World, axis: str, task: Recorded) -> None:
    """Whoever comes after the dead process: nothing is held any more, and of its time comes back what did not pass."""
    heir, started = await world.begin("victim", task, holder="heir")
    assert [left.outcome for left in started.steps] == [""] * HELD
    with pytest.raises(Exhausted):
        await world.store.step_intent(heir, step(heir, HELD, **processes.wants_one(axis, world.clock())))
    more = small_budget(**dict.fromkeys(processes.AXES, 10**6))
    await world.store.append([world.said(task, BudgetRaised(operator="olga", budget=more))])
    for left in started.steps:
        wants = processes.wants_one(axis, left.began_at_us + SECOND // 4)
        again = await world.store.step_intent(heir, replace(left, **wants))  # type: ignore[arg-type]  # fields of Step
        assert (again.attempt, again.estimated) == (2, True)
        await world.store.step_outcome(heir, processes.uses_one(again))
    spent = await spent_on(world, task)
    lost = HELD / 4 if axis == "wall_seconds" else HELD
    assert (getattr(spent, axis), getattr(spent, f"held_{axis}")) == (CAP - HELD + lost + HELD, 0), axis
