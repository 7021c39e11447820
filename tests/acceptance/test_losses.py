"""Wake-ups switched off, or half of all news lost: tasks are delayed, none is lost, for the sweep finds them."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path

import pytest

from bus.losses import RECORDS, VARIABLE, WAKEUPS, is_lost
from tests.acceptance.commands import FIX, Person, repository
from tests.acceptance.crew import Crew, judge


@pytest.fixture
def ann(tmp_path: Path) -> Person:
    person = Person(tmp_path / "ann")
    person.environ |= {"GAVOTTE_WORKER__SWEEP_SECONDS": "1"}
    repository(person.home / "repo")
    return person


def on_the_bus(ann: Person) -> set[str]:
    """The ids of all events that the bus was ever given; it names them by their positions in the store."""
    with contextlib.closing(ann.reads()) as connection:
        rows = connection.execute("SELECT event_id FROM bus_log LEFT JOIN events ON stored = position").fetchall()
    return {event_id for (event_id,) in rows}


@pytest.mark.parametrize("lost", [WAKEUPS, RECORDS])
def test_what_is_lost_delays_and_loses_nothing(ann: Person, lost: str) -> None:
    ann.environ |= {VARIABLE: lost}
    tasks = [
        ann.told("submit", "--repo", "repo", "--patch", "-", "--title", f"task {number}", stdin=FIX)["task_id"]
        for number in range(2)
    ]
    with Crew(ann) as crew:
        for task in tasks:
            crew.until(partial(_is, ann, task, "waiting"))
        for task in tasks:
            assert ann.says("approve", task, "--yes").returncode == 0
        for task in tasks:
            crew.until(partial(_is, ann, task, "succeeded"))
        assert crew.deaths.total() == 0
        if lost == WAKEUPS:
            assert list(ann.data.rglob("*.wake")) == []
    recorded = {event["event_id"] for event in ann.lines("log", "--all")}
    missing = {event for event in recorded if is_lost(event.encode())} if lost == RECORDS else set()
    assert on_the_bus(ann) == recorded - missing
    judge(ann, tasks)


def _is(ann: Person, task: str, wanted: str) -> bool:
    return ann.status(task) == wanted
