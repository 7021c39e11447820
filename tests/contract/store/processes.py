"""What the processes of the store's tests do: annotate every task, or handle every submission like a worker."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from contracts import ids
from contracts.errors import Exhausted
from embedded.liveness import Presence, is_alive
from state_store.port import Commit, Delivery, Step
from tests.contract.store.world import LicenceChecked, Place, World, opened, opened_on_server, plan, step

ADDRESSES = "TEST_POSTGRES"
"""The variable that names a database as the owner and as the superuser, where the store is not a file."""


@asynccontextmanager
async def found(folder: Path, **more: Any) -> AsyncIterator[World]:
    """The store that is there already."""
    addresses = os.environ.get(ADDRESSES, "").split()
    if addresses:
        async with opened_on_server(Place(*addresses), folder, wiped=False, **more) as world:
            yield world
    else:
        async with opened("file", folder, **more) as world:
            yield world


async def annotate(folder: Path, name: str) -> None:
    """Say one thing about every submission there is."""
    async with found(folder) as world:
        for event in await world.store.tail(0):
            if event.envelope.type == "TaskSubmitted":
                committed = await world.handle(name, event, LicenceChecked(note=name))
                assert committed.status == "recorded", committed


async def handle_all(folder: Path, name: str) -> None:
    """Plan every submission with one step and one act, as a worker that was told by the sweep."""
    run = folder / "run"
    with Presence(run, name):
        async with found(folder, is_alive=partial(is_alive, run), now_us=ids.now_us()) as world:
            for event in await world.store.tail(0):
                if event.envelope.type == "TaskSubmitted":
                    await handle_one(world, folder, name, event.envelope.id)


async def handle_one(world: World, folder: Path, name: str, event_id: str) -> None:
    event = await world.store.event(event_id)
    assert event is not None
    claim = await world.claim("planning", event)
    if claim.status == "done":
        if claim.unpublished:
            await world.store.published("planning", [event_id])
        return
    assert claim.status == "free", claim
    delivery = Delivery("planning", event_id, event.envelope.task_id, event_id, claim.basis, holder=name)
    started = await world.store.start(delivery, None)
    delivery = delivery._replace(token=started.token)
    intent = await world.store.step_intent(delivery, step(delivery))
    if intent.outcome != "ok":
        note(folder, "ran")
        await world.store.step_outcome(delivery, replace(intent, outcome="ok", result="1"))
    effect = await world.store.effect_intent(delivery, f"act:{delivery.task_id}", "act", "{}")
    if effect.receipt is None:
        note(folder, "acted")
        await world.store.effect_receipt(effect.key, '{"done":true}')
    committed = await world.store.commit(Commit(delivery, emitted=world.answers(event, "planning", plan())))
    assert committed.status == "recorded", committed
    await world.store.published("planning", [event_id])


def note(folder: Path, word: str) -> None:
    with (folder / "acts").open("a") as file:
        file.write(f"{word}\n")


AXES = ("tokens", "steps", "wall_seconds", "cost_microdollars")
WORKERS = 10
"""Of one process, at each of the four tasks."""


def wants_one(axis: str, began_at_us: int) -> dict[str, int]:
    """An intent that wants one unit of an axis."""
    wants = {
        "tokens": {"reserved_tokens": 1},
        "wall_seconds": {"deadline_us": began_at_us + 1_000_000},
        "cost_microdollars": {"reserved_cost_microdollars": 1},
    }
    return {"began_at_us": began_at_us} | wants.get(axis, {})


def uses_one(intent: Step) -> Step:
    """The outcome that used all of it."""
    done = replace(intent, outcome="ok", ended_at_us=intent.deadline_us or intent.began_at_us)
    return replace(done, tokens_in=intent.reserved_tokens, cost_microdollars=intent.reserved_cost_microdollars)


async def hold(folder: Path, name: str) -> None:
    """Ten workers at each task begin a call that never ends."""

    async def begin(axis: str, delivery: Delivery, ordinal: int) -> None:
        await world.store.step_intent(delivery, step(delivery, ordinal, **wants_one(axis, ids.now_us())))
        note(folder, f"{name} holds {axis}")

    async with at_work(folder, name) as (world, deliveries):
        await asyncio.gather(
            *(begin(axis, delivery, n) for axis, delivery in deliveries.items() for n in range(WORKERS))
        )
        await asyncio.Event().wait()


async def spend(folder: Path, name: str) -> None:
    """Ten workers at each task make calls until its budget is spent."""

    async def work(axis: str, delivery: Delivery, first: int) -> None:
        for ordinal in range(first, 1000, WORKERS):
            try:
                asked = step(delivery, ordinal, **wants_one(axis, ids.now_us()))
                intent = await world.store.step_intent(delivery, asked)
            except Exhausted as error:
                note(folder, f"{name} is refused {error.axis} at {axis}")
                return
            note(folder, f"{name} spent {axis}")
            await world.store.step_outcome(delivery, uses_one(intent))

    async with at_work(folder, name) as (world, deliveries):
        async with asyncio.timeout(60):
            while held(folder, "victim") < WORKERS * len(AXES):  # another process says so, in a file
                await asyncio.sleep(0.02)
        await asyncio.gather(
            *(work(axis, delivery, n) for axis, delivery in deliveries.items() for n in range(WORKERS))
        )


@asynccontextmanager
async def at_work(folder: Path, name: str) -> AsyncIterator[tuple[World, dict[str, Delivery]]]:
    """At four tasks, of each of which another axis of the budget is small, in a role of its own."""
    run = folder / "run"
    with Presence(run, name):
        async with found(folder, is_alive=partial(is_alive, run), now_us=ids.now_us()) as world:
            events = [event for event in await world.store.tail(0) if event.envelope.type == "TaskSubmitted"]
            deliveries = [(await world.begin(name, event, holder=name))[0] for event in events]
            yield world, dict(zip(AXES, deliveries, strict=True))


def held(folder: Path, name: str) -> int:
    """How many calls a process has begun that never end."""
    return sum(line.startswith(f"{name} holds") for line in notes(folder))


def spent_by(folder: Path, axis: str) -> int:
    """What all processes have used of an axis."""
    return sum(line.endswith(f" spent {axis}") for line in notes(folder))


def notes(folder: Path) -> list[str]:
    path = folder / "acts"
    return path.read_text().splitlines() if path.exists() else []
