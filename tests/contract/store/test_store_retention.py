"""Retention: what old steps said goes, what was done stays; nothing goes that something still names or needs."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from contracts.events import INLINE_BYTES_MAX, Body
from contracts.ids import now_us
from state_store.bodies import Bodies, digest_of
from state_store.port import Commit, Recorded, TaskFilter
from tests.contract.store.world import (
    World,
    asking,
    change,
    granting,
    moment,
    opened,
    passed,
    plan,
    production,
    staging,
    step,
    succeeded,
)

LARGE = INLINE_BYTES_MAX + 1
FAR_US = 10**17


async def played(world: World, result: str = '{"said": "much"}', *, upto: str = "succeeded") -> Recorded:
    """A task that has come so far, with one step in its journal."""
    submission = await world.submit()
    delivery, _ = await world.begin("planning", submission)
    asked = step(delivery, arguments='{"asked": "something"}')
    await world.store.step_intent(delivery, asked)
    await world.store.step_outcome(
        delivery, replace(asked, outcome="ok", result=result, tokens_in=7, cost_microdollars=5)
    )
    await world.store.commit(Commit(delivery, emitted=world.answers(submission, "planning", plan())))
    if upto == "planned":
        return submission
    planned = (await world.store.stream(submission.envelope.task_id))[-1]
    await rest(world, planned)
    return submission


async def rest(world: World, planned: Recorded) -> None:
    """From the plan to the end, without steps."""
    task_id = planned.envelope.task_id
    expires = moment(world.clock.now_us + 3600 * 1_000_000)
    await world.handle("coding", planned, change())
    await world.handle("review", (await world.store.stream(task_id))[-1], passed())
    await world.handle("deploy", (await world.store.stream(task_id))[-1], staging(), asking(expires))
    await world.store.append([world.word(task_id, granting((await world.store.stream(task_id))[-1]))])
    await world.handle("deploy", (await world.store.stream(task_id))[-1], production(), succeeded())


async def test_old_steps_of_ended_tasks_keep_their_lines_and_lose_their_words(world: World) -> None:
    task_id = (await played(world)).envelope.task_id
    (before,) = await world.store.steps(task_id)
    spent = (await world.store.tasks(TaskFilter()))[0].spent
    assert (await world.store.prune_journal(world.clock.now_us - 3600 * 1_000_000)).steps == 0, "it ended just now"
    world.clock.advance(3600)
    would = await world.store.prune_journal(world.clock.now_us, dry_run=True)
    assert (would.tasks, would.steps) == (1, 1)
    assert await world.store.steps(task_id) == [before], "a dry run changes nothing"
    assert await world.store.prune_journal(world.clock.now_us) == would
    (after,) = await world.store.steps(task_id)
    assert after == replace(before, arguments="", result="")
    assert (await world.store.tasks(TaskFilter()))[0].spent == spent
    assert (await world.store.prune_journal(world.clock.now_us)).steps == 0, "nothing is left to go"
    assert await world.store.verify_chain() == []


async def test_tasks_that_may_still_move_are_left_whole(world: World) -> None:
    open_task = (await played(world, upto="planned")).envelope.task_id
    ended = await played(world)
    licence = await world.delivery("licence", ended)
    await world.store.commit(Commit(licence, status="dead", reason="broke", reason_code="broken"))
    before = [await world.store.steps(task_id) for task_id in (open_task, ended.envelope.task_id)]
    assert (await world.store.prune_journal(FAR_US)).steps == 0, "one runs, one may be redriven"
    assert [await world.store.steps(task_id) for task_id in (open_task, ended.envelope.task_id)] == before


def files(world: World) -> set[str]:
    return {f"sha256:{path.name}" for path in (world.folder / "bodies").glob("??/*")}


def aged(world: World) -> None:
    """All bodies look as if they had been stored in 1970."""
    for path in (world.folder / "bodies").glob("??/*"):
        os.utime(path, (1, 1))


async def test_large_bodies_go_when_nothing_names_them(tmp_path: Path) -> None:
    async with opened("file", tmp_path, now_us=now_us()) as world:  # files have the time of the machine
        await try_large_bodies(world)


async def try_large_bodies(world: World) -> None:
    of_step = json.dumps("s" * LARGE)
    submission = await played(world, of_step)
    event_body = b"e" * LARGE
    inner = await world.store.put_body(b"i" * LARGE)
    outer = await world.store.put_body(f"a large body that names {inner}".encode() + b"o" * LARGE)
    small = await world.store.put_body(f"a small body that names {outer}".encode())
    in_event = await world.store.put_body(event_body)
    nobody = await world.store.put_body(b"n" * LARGE)
    await world.store.append([world.submission(patch=Body(digest=in_event, size_bytes=LARGE))])
    kept = {inner, outer, in_event}
    assert files(world) == kept | {nobody, digest_of(of_step.encode())}
    assert small not in files(world)

    assert (await world.store.prune_journal(world.clock.now_us - 10**9)).bodies == 0, "they were stored just now"
    aged(world)
    again = await world.store.put_body(b"n" * LARGE)
    assert again == nobody
    gone = await world.store.prune_journal(world.clock.now_us + 1)
    assert (gone.steps, gone.bodies, gone.body_bytes) == (1, 1, len(of_step))
    assert files(world) == kept | {nobody}, "what was stored again counts from then on"
    assert await world.store.steps(submission.envelope.task_id) != []
    assert (await world.store.prune_journal(now_us() + 10**9)).bodies == 1
    assert files(world) == kept
    assert await world.store.body(outer) is not None


async def test_a_body_that_is_stored_while_others_go_stays(file_world: World) -> None:
    world = file_world
    digest = await world.store.put_body(b"x" * LARGE)
    aged(world)
    before_us = now_us() - 10**9
    found = world.store._bodies.files_before(before_us)
    assert list(found) == [digest]
    other = await world.another()
    await other.put_body(b"x" * LARGE)  # between the look and the removal
    assert world.store._bodies.remove_file(digest, before_us) == 0
    assert files(world) == {digest}


def test_the_folder_of_bodies_holds_no_other_files(tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "note.txt").write_text("mine")
    assert Bodies(tmp_path).files_before(FAR_US) == {}
