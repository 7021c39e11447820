"""The watcher over real processes: it names who is missing, changes nothing, and nobody needs it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from console.supervise import living_roles
from tests.acceptance.commands import FIX, Person, repository, until
from tests.acceptance.crew import ROLES, Crew, judge


@pytest.fixture
def ann(tmp_path: Path) -> Person:
    person = Person(tmp_path / "ann")
    person.environ |= {"GAVOTTE_WORKER__SWEEP_SECONDS": "1"}
    repository(person.home / "repo")
    return person


def submit(ann: Person) -> str:
    task: str = ann.told("submit", "--repo", "repo", "--patch", "-", stdin=FIX)["task_id"]
    return task


def contents(ann: Person) -> str:
    """Everything that the store and the bus hold."""
    with contextlib.closing(ann.reads()) as connection:
        return "\n".join(connection.iterdump())


def test_an_alarm_names_the_role_that_is_missing_and_is_over_once_it_runs(ann: Person) -> None:
    assert ann.says("alarms").returncode == 3
    task = submit(ann)
    looked = ann.says("alarms", "--json")
    [alarm] = json.loads(looked.stdout)
    assert looked.returncode == 1
    assert (alarm["kind"], alarm["task_id"], alarm["role"]) == ("unattended", task, "planning")
    why = ann.told("why", task)
    assert (why["turn"], why["awaits"]) == ("planning", ["PlanProposed", "PlanRejected"])
    assert "No planning agent is running on this machine." in why["sentences"]
    with ann.starts("alarms", "--follow", "--every", "0.2", "--json"):
        until(lambda: '"raised"' in ann.heard())
        with Crew(ann, roles=("planning",)):
            until(lambda: living_roles(ann.data / "run") == {"planning"})
            until(lambda: '"over"' in ann.heard())
            until(lambda: '"coding"' in ann.heard())
    told = [json.loads(line) for line in ann.heard().splitlines()]
    assert [(each["what"], each["role"]) for each in told] == [
        ("raised", "planning"),
        ("over", "planning"),
        ("raised", "coding"),
    ]


def test_up_says_who_is_missing_unless_it_is_told_not_to(ann: Person) -> None:
    submit(ann)
    with ann.starts("up", "--roles", "review,deploy"):
        until(lambda: "warning: unattended:" in ann.heard())
    assert "no planning agent is running" in ann.heard()


def test_looking_changes_nothing(ann: Person) -> None:
    task = submit(ann)
    before = contents(ann)
    for words in (("alarms",), ("alarms", "--json"), ("why", task), ("tasks",), ("show", task)):
        assert ann.says(*words).returncode in {0, 1}, words
    assert contents(ann) == before


@pytest.mark.parametrize("watched", [True, False])
def test_with_the_watcher_and_without_it_every_task_ends(ann: Person, *, watched: bool) -> None:
    task = submit(ann)
    with ann.starts("up", "--alarms" if watched else "--no-alarms"):
        ann.waits_for(task, "waiting")
        assert ann.says("approve", task, "--yes").returncode == 0
        ann.waits_for(task, "succeeded")
    assert "warning" not in ann.heard()
    assert "stopped" in ann.heard()
    judge(ann, [task])
    assert {event["source"].rpartition(":")[2] for event in ann.lines("log", task)} >= set(ROLES)
