"""The watcher: whose turn it is, and which of all that stands still is an alarm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from agents.watch import GRACE_US, STALLED_US, alarms_of, look, turn_of
from console.alarms import command, fields, sentence
from contracts.topology import AWAITED, HOUR
from state_store.appliers import Approval, Pause
from state_store.fold import TaskState
from state_store.port import InboxRow, Kill, Spent, TaskFilter, TaskRow

NOW_US = 1_800_000_000_000_000
LIVING = ("planning-my-host-1", "coding-2", "review-my-host-3", "deploy-my-host-4", "coding-second-5")
ROW = InboxRow(
    role="coding",
    event_id="e1",
    event_type="PlanProposed",
    task_id="t1",
    status="retry",
    attempt=1,
    starts=1,
    due_us=NOW_US + 30_000_000,
    reason="the disk is full",
    reason_code="unavailable",
    published=False,
    holder="coding-2",
    updated_at_us=NOW_US,
)
KILL = Kill(seq=1, event_id="k1", scope="role", target="coding", reason="", lifted=False)


def stands(step: str, seconds: float, **more: object) -> TaskState:
    return TaskState(task_id="t1", step=step, since_us=NOW_US - int(seconds * 1_000_000)).model_copy(update=more)


def kinds(
    state: TaskState,
    rows: Sequence[InboxRow] = (),
    kills: Sequence[Kill] = (),
    living: Sequence[str] | None = LIVING,
) -> list[str]:
    return [alarm.kind for alarm in alarms_of(turn_of(state), rows, kills, living, NOW_US)]


@pytest.mark.parametrize("row", AWAITED, ids=lambda row: row.step)
def test_every_step_has_a_turn_with_an_end(row: object) -> None:
    step, owner = row.step, row.owner  # type: ignore[attr-defined]  # a row of the table
    approval = Approval(request_id="r", digest="d", expires_at_us=NOW_US + 1)
    turn = turn_of(stands(step, 5, approval=approval))
    assert (turn.role, turn.person) == (owner, step == "awaiting_approval")
    assert turn.who == ("a person" if turn.person else owner)
    assert turn.awaits
    assert turn.until_us is not None
    assert turn.until_us > NOW_US


def test_a_task_that_goes_its_way_raises_none() -> None:
    started = replace(ROW, status="started", updated_at_us=NOW_US - HOUR * 100_000)
    assert kinds(stands("planned", 5)) == []
    assert kinds(stands("planned", 500), [started]) == []
    assert kinds(stands("awaiting_approval", HOUR)) == []


def test_a_deadline_that_nobody_heeds_is_overdue() -> None:
    late = HOUR + GRACE_US / 1_000_000
    started = replace(ROW, status="started")
    assert kinds(stands("planned", late - 1), [started]) == []
    assert kinds(stands("planned", late + 1), [started]) == ["overdue"]


def test_a_turn_without_a_living_process_of_the_role_is_unattended() -> None:
    others = [name for name in LIVING if not name.startswith("coding")]
    assert kinds(stands("planned", 1), living=others) == ["unattended"]
    assert kinds(stands("planned", 1), living=None) == []
    assert kinds(stands("awaiting_approval", 1), living=[]) == []


def test_a_turn_that_nobody_takes_is_stalled() -> None:
    long = STALLED_US / 1_000_000 + 1
    waits = replace(ROW, status="waiting")
    left = replace(ROW, status="started", holder="coding-dead", updated_at_us=NOW_US - STALLED_US - 1)
    assert kinds(stands("planned", long - 2)) == []
    assert kinds(stands("planned", long)) == ["stalled"]
    assert kinds(stands("planned", long), [waits]) == ["stalled"]
    assert kinds(stands("planned", long), [left]) == ["stalled"]
    assert kinds(stands("planned", long), [left], living=None) == []


def test_what_failed_is_named_with_its_next_attempt() -> None:
    [alarm] = alarms_of(turn_of(stands("planned", 500)), [ROW], [], LIVING, NOW_US)
    assert (alarm.kind, alarm.attempt, alarm.due_us, alarm.reason) == ("retrying", 1, ROW.due_us, ROW.reason)
    assert "tries it again (attempt 2) at " in sentence(alarm, NOW_US)
    assert sentence(alarm, NOW_US).endswith(": the disk is full")
    assert kinds(stands("planned", 500), [replace(ROW, status="dead")]) == ["letter"]


def test_what_was_parked_is_an_alarm_only_where_nobody_is_asked() -> None:
    parked = replace(ROW, status="parked")
    pause = Pause(kind="escalated", role="coding", reason="?")
    assert kinds(stands("planned", 5), [parked]) == ["parked"]
    assert kinds(stands("planned", 5, pause=pause), [parked]) == []


def test_what_a_kill_holds_is_no_alarm_but_a_letter_is_one() -> None:
    dead = replace(ROW, status="dead", event_id="e2")
    assert kinds(stands("planned", 500), [ROW, dead], [KILL], []) == ["letter"]
    assert kinds(stands("planned", 5), [ROW], [replace(KILL, lifted=True)]) == ["retrying"]


class Shelf:
    """A store that can be read and has nothing else."""

    def __init__(self, states: Sequence[TaskState], rows: Sequence[InboxRow]) -> None:
        self.states, self.rows = states, rows

    async def tasks(self, wanted: TaskFilter) -> list[TaskRow]:
        return [TaskRow(state, Spent(), "c", 0) for state in self.states if state.status in wanted.statuses]

    async def inbox(
        self, *, task_id: str | None = None, statuses: Sequence[str] = (), limit: int = 200
    ) -> list[InboxRow]:
        del task_id, limit
        return [row for row in self.rows if row.status in statuses]

    async def kills(self) -> list[Kill]:
        return []


async def test_a_look_needs_nothing_but_three_questions() -> None:
    ended = [
        replace(ROW, task_id="t0", role="licences", status="dead"),
        replace(ROW, task_id="t0", role="review", status="dead"),
    ]
    shelf = Shelf([stands("planned", 5), stands("succeeded", 5)], [ROW, *ended])
    seen = await look(shelf, LIVING, NOW_US)
    assert [turn.role for turn in seen.turns] == ["coding"]
    assert sorted((alarm.kind, alarm.role) for alarm in seen.alarms) == [("letter", "licences"), ("retrying", "coding")]
    assert len({alarm.key for alarm in seen.alarms}) == 2


def test_each_kind_has_words_and_a_way_forward() -> None:
    late = stands("planned", 2 * HOUR)
    found = alarms_of(turn_of(late), [ROW, replace(ROW, status="dead", event_id="e2")], [], [], NOW_US)
    found += alarms_of(turn_of(stands("planned", 500)), [], [], LIVING, NOW_US)
    found += alarms_of(None, [replace(ROW, status="parked")], [], LIVING, NOW_US)
    assert {alarm.kind for alarm in found} == {"overdue", "unattended", "retrying", "letter", "stalled", "parked"}
    for alarm in found:
        assert command(alarm).startswith("gavotte ")
        assert fields(alarm, NOW_US)["sentence"] == sentence(alarm, NOW_US)
