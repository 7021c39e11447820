"""Kill, lift and cancel while a command runs in its sandbox."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.commands import SPLIT, Person, repository, until

GREEN = "from money import split\n\n\ndef test_even() -> None:\n    assert split(900, 3) == [300, 300, 300]\n"


@pytest.fixture
def ann(tmp_path: Path) -> Person:
    return Person(tmp_path / "ann")


def sleepers(seconds: str) -> list[int]:
    """The processes that sleep so long, in whatever sandbox."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[:2] == [b"sleep", seconds.encode()]:
                found.append(int(folder.name))
    return found


def at_work(ann: Person, seconds: str) -> str:
    """A task whose command sleeps; agents must be running."""
    path = ann.home / "repo"
    if not path.exists():
        repository(path, {"money.py": SPLIT, "test_money.py": GREEN})
    task: str = ann.told("submit", "--repo", str(path), "--command", f"sleep {seconds}")["task_id"]
    until(lambda: sleepers(seconds))
    return task


@pytest.mark.parametrize("scope", [("--all",), ("--role", "coding"), ("--task",)])
def test_a_kill_stops_what_runs_and_a_lift_lets_it_go_on(ann: Person, scope: tuple[str, ...]) -> None:
    seconds = f"3.00{len(scope)}{len(scope[0])}1"
    with ann.starts("up"):
        task = at_work(ann, seconds)
        words = (*scope, task) if scope == ("--task",) else scope
        assert ann.says("kill", *words).returncode == 0
        until(lambda: not sleepers(seconds))
        until(lambda: "has parked PlanProposed" in ann.says("why", task).stdout)
        assert "gavotte lift" in ann.says("why", task).stdout
    with ann.starts("up"):
        until(lambda: "has parked PlanProposed" in ann.says("why", task).stdout)
        assert not sleepers(seconds)
        assert ann.says("lift", *words).returncode == 0
        ended = ann.waits_for(task, "failed")  # a command that changes nothing is no change
    assert "changed nothing" in ended["outcome"]
    steps = ann.told("steps", task)
    assert [step["name"] for step in steps].count("survey") == 1


def test_what_is_killed_can_be_cancelled_without_beginning_anew(ann: Person) -> None:
    with ann.starts("up"):
        task = at_work(ann, "3600.001")
        assert ann.says("kill", "--all").returncode == 0
        until(lambda: not sleepers("3600.001"))
        assert ann.says("cancel", task).returncode == 0
        ann.waits_for(task, "cancelled")
        assert ann.says("cancel", task).returncode == 1
        assert ann.says("lift", "--all").returncode == 0
    assert [event["type"] for event in ann.lines("log", task)][-2:] == ["TaskCancelRequested", "TaskCancelled"]
    assert not sleepers("3600.001")


def test_a_cancellation_does_not_wait_for_a_long_command(ann: Person) -> None:
    with ann.starts("up"):
        task = at_work(ann, "3600.002")
        assert ann.says("cancel", task, "--reason", "a typing error").returncode == 0
        ended = ann.waits_for(task, "cancelled")
        assert ended["outcome"] == "a typing error"
        until(lambda: not sleepers("3600.002"))
