"""Streams: append-only, gapless, one end per task; submissions, decisions and what came too late."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from contracts import ids
from contracts.errors import Conflict, Illegal, NotFound, Usage
from contracts.events import TaskCancelled, TaskEscalated, TaskFailed, TaskResumed
from state_store.port import Commit, TaskFilter
from tests.contract.store.world import (
    LicenceChecked,
    World,
    asking,
    cancelling,
    denying,
    granting,
    moment,
)


async def test_a_dance_is_recorded_with_unbroken_lineage(world: World) -> None:
    events = await world.dance()
    stored = await world.store.stream(events[0].envelope.task_id)
    assert stored == events
    assert [event.sequence for event in stored] == list(range(1, len(stored) + 1))
    assert len({event.envelope.correlation_id for event in stored[:5]}) == 1
    known = {stored[0].envelope.id}
    for event in stored[1:]:
        assert event.envelope.causation_id in known or event.envelope.role == "operator"
        known.add(event.envelope.id)
    row = await world.store.task(events[0].envelope.task_id)
    assert row is not None
    assert (row.state.step, row.state.status) == ("succeeded", "succeeded")
    assert row.correlation_id == stored[0].envelope.correlation_id


async def test_tail_skips_nothing_and_pages(world: World) -> None:
    first, second = await world.dance(upto="planned"), await world.dance(upto="proposed")
    everything = await world.store.tail(0)
    assert [event.position for event in everything] == [1, 2, 3, 4, 5]
    assert everything == first + second
    assert await world.store.tail(2, limit=2) == everything[2:4]
    envelopes = [(event.position, event.envelope) for event in everything]
    assert await world.store.envelopes(0) == envelopes
    assert await world.store.envelopes(2, limit=2) == envelopes[2:4]


async def test_one_event_by_its_id(world: World) -> None:
    event = await world.submit()
    assert await world.store.event(event.envelope.id) == event
    assert await world.store.event(ids.uuid7()) is None


async def test_the_same_event_is_appended_once(world: World) -> None:
    submission = world.submission()
    (first,) = await world.store.append([submission])
    (second,) = await world.store.append([submission])
    assert first == second
    assert len(await world.store.tail(0)) == 1


async def test_an_id_with_other_content_is_refused(world: World) -> None:
    submission = world.submission()
    await world.store.append([submission])
    other = submission._replace(value=world.submission(title="another").value)
    with pytest.raises(Conflict, match="other content"):
        await world.store.append([other])


async def test_append_is_all_or_nothing(world: World) -> None:
    good, bad = world.submission(), world.submission()
    cancel = world.word(ids.uuid7(), cancelling())
    with pytest.raises(Illegal, match="does not exist"):
        await world.store.append([good, bad, cancel])
    assert await world.store.tail(0) == []


async def test_a_submission_repeated_under_one_key_is_the_first(world: World) -> None:
    task_id = ids.task_id_for("default", "nightly")
    (first,) = await world.store.append([world.submission(task_id=task_id)])
    (again,) = await world.store.append([world.submission(task_id=task_id)])
    assert again == first
    with pytest.raises(Conflict, match=first.envelope.id):
        await world.store.append([world.submission(task_id=task_id, title="Another thing")])
    assert len(await world.store.stream(task_id)) == 1


async def test_two_operators_decide_at_once_and_one_is_told_who(world: World) -> None:
    *_, request = await world.dance(upto="awaiting_approval")
    other = await world.another()
    outcomes = await asyncio.gather(
        world.store.append([world.said(request, granting(request))], expected_sequence=request.sequence),
        other.append([world.said(request, denying(request))], expected_sequence=request.sequence),
        return_exceptions=True,
    )
    lost = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    (won,) = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert len(lost) == 1
    assert isinstance(lost[0], Conflict)
    winner = "olga" if won[0].envelope.type == "ApprovalGranted" else "dora"
    assert winner in str(lost[0])
    assert won[0].envelope.id in str(lost[0])


async def test_a_decision_after_expiry_is_refused_though_no_timer_fired(world: World) -> None:
    *_, request = await world.dance(upto="awaiting_approval")
    world.clock.advance(2 * 3600)
    with pytest.raises(Illegal, match="expired"):
        await world.store.append([world.said(request, granting(request))])
    row = await world.store.task(request.envelope.task_id)
    assert row is not None
    assert row.state.approval is not None
    assert row.state.approval.decision == "open"


async def test_a_late_decision_from_the_bus_is_refused_too(world: World) -> None:
    """The same rule where a worker is the first to hear of it."""
    *_, request = await world.dance(upto="awaiting_approval")
    late = world.said(request, granting(request))
    in_time = await world.claim("deploy", late)
    assert (in_time.status, in_time.known) == ("free", False)
    delivery = await world.delivery("deploy", late)
    world.clock.advance(2 * 3600)
    assert (await world.claim("deploy", late)).status == "closed"
    committed = await world.store.commit(Commit(delivery, consumed=late))
    assert committed.status == "superseded"
    assert "expired" in committed.detail
    assert (await world.store.stream(request.envelope.task_id))[-1] == request


async def test_a_decision_names_what_it_was_made_on(world: World) -> None:
    *_, request = await world.dance(upto="awaiting_approval")
    await world.store.append([world.said(request, cancelling())])  # a mark, no move: does not matter
    (granted,) = await world.store.append([world.said(request, granting(request))], expected_sequence=request.sequence)
    with pytest.raises(Conflict, match="ApprovalGranted"):
        await world.store.append([world.said(granted, cancelling())], expected_sequence=request.sequence)
    with pytest.raises(Conflict, match="has only"):
        await world.store.append([world.said(granted, cancelling())], expected_sequence=99)


async def test_words_about_unknown_tasks_are_refused(world: World) -> None:
    task_id = ids.uuid7()
    with pytest.raises(Illegal, match=task_id):
        await world.store.append([world.word(task_id, TaskResumed(operator="olga"))])


async def test_illegal_moves_are_refused(world: World) -> None:
    *_, last = await world.dance()
    for word in (cancelling(), TaskResumed(operator="olga")):
        with pytest.raises(Illegal):
            await world.store.append([world.said(last, word)])


async def test_corrections_must_be_of_their_kind(world: World) -> None:
    submission = await world.submit()
    escalated = TaskEscalated(role="planning", reason="unclear", reason_code="unclear")
    committed = await world.handle("planning", submission, escalated, status="parked", reason_code="unclear")
    word = TaskResumed(operator="olga", corrections={"revisions_max": "many"})
    with pytest.raises(Illegal, match="whole number"):
        await world.store.append([world.said(committed.events[-1], word)])


@pytest.mark.parametrize(
    ("statement", "refusal"),
    [
        ("UPDATE events SET type = 'TaskSucceeded'", "append-only"),
        ("UPDATE events SET value = x'00' WHERE position = 1", "append-only"),
        ("DELETE FROM events", "append-only"),
        ("INSERT OR REPLACE INTO events SELECT * FROM events WHERE position = 1", "append-only"),
        (
            (
                "INSERT OR REPLACE INTO events SELECT 1, 'x', task_id, 3, type, version, source, correlation_id, NULL,"
                " time_us, '', '', '', trust, 0, '', '', value FROM events WHERE position = 1"
            ),
            "append-only",
        ),
        (
            (
                "INSERT INTO events SELECT NULL, 'x', task_id, 9, type, version, source, correlation_id, NULL,"
                " time_us, '', '', '', trust, 0, '', '', value FROM events WHERE position = 1"
            ),
            "not the next",
        ),
    ],
)
async def test_the_database_itself_refuses_to_forget(file_world: World, statement: str, refusal: str) -> None:
    world = file_world
    events = await world.dance(upto="planned")
    with pytest.raises(sqlite3.IntegrityError, match=refusal):
        await world.sql(statement)
    assert await world.store.stream(events[0].envelope.task_id) == events


@pytest.mark.parametrize("verb", ["INSERT", "INSERT OR REPLACE"])
async def test_the_database_itself_allows_one_end(file_world: World, verb: str) -> None:
    world = file_world
    events = await world.dance()
    second_end = (
        f"{verb} INTO events SELECT NULL, 'x', task_id, sequence + 1, 'TaskFailed', version, source, correlation_id,"
        " NULL, time_us, '', '', '', trust, 0, '', '', value FROM events WHERE type = 'TaskSucceeded'"
    )
    with pytest.raises(sqlite3.IntegrityError):
        await world.sql(second_end)
    assert await world.store.stream(events[0].envelope.task_id) == events


async def test_a_task_ends_once(world: World) -> None:
    *_, granted = await world.dance(upto="approved")
    stale = await world.delivery("deploy", granted)
    await world.handle("deploy", granted, TaskFailed(reason="no", reason_code="x"))
    again = world.answers(granted, "deploy", TaskCancelled(), slot="other")
    committed = await world.store.commit(Commit(stale)._replace(emitted=again))
    assert committed.status == "repeated"
    assert [event.envelope.type for event in committed.events] == ["TaskFailed"]


async def test_late_annotations_are_recorded_after_the_end(world: World) -> None:
    events = await world.dance()
    proposed = next(event for event in events if event.envelope.type == "ChangeProposed")
    claim = await world.claim("licence", proposed)
    assert claim.status == "free"
    committed = await world.handle("licence", proposed, LicenceChecked(note="fine"))
    assert committed.status == "recorded"
    row = await world.store.task(proposed.envelope.task_id)
    assert row is not None
    assert (row.state.step, row.state.sequence) == ("succeeded", len(events) + 1)
    assert await world.store.verify_chain() == []


async def test_tasks_are_listed_and_found(world: World) -> None:
    done = (await world.dance())[0].envelope.task_id
    open_ = (await world.submit(title="Rename a thing")).envelope.task_id
    everything = await world.store.tasks(TaskFilter())
    assert [row.state.task_id for row in everything] == [open_, done]
    assert [row.state.task_id for row in await world.store.tasks(TaskFilter(statuses=("succeeded",)))] == [done]
    assert [row.state.task_id for row in await world.store.tasks(TaskFilter(text="rename"))] == [open_]
    assert await world.store.tasks(TaskFilter(retrying=True)) == []
    assert await world.store.find_task(open_[-6:].upper()) == open_
    assert await world.store.find_task(done) == done
    with pytest.raises(NotFound):
        await world.store.find_task("zzz")
    with pytest.raises(NotFound):
        await world.store.find_task("ffffffffff")
    with pytest.raises(Usage, match=open_):
        await world.store.find_task("-7")  # every uuid7 has this part


async def test_a_wrong_digest_is_no_approval(world: World) -> None:
    *_, staged = await world.dance(upto="staged")
    committed = await world.handle("deploy", staged, asking(moment(world.clock.now_us + 10**9)))
    assert committed.status == "recorded"
    request = committed.events[0]
    word = granting(request).model_copy(update={"digest": "sha256:other"})
    with pytest.raises(Illegal, match="sha256:other"):
        await world.store.append([world.said(request, word)])


async def test_who_waits_for_news_is_told_by_whoever_appends(world: World) -> None:
    other = await world.another()
    assert await world.store.news(0, timeout_seconds=0) == 0
    for position in range(1, 4):
        waiting = asyncio.create_task(world.store.news(position - 1, timeout_seconds=60))
        await asyncio.sleep(0)
        (recorded,) = await other.append([world.submission()])
        assert await waiting == recorded.position == position
    assert await world.store.news(0) == 3, "what is there already is no news to wait for"
    assert await world.store.news(3, timeout_seconds=0.05) == 3
