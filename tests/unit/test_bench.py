"""The bench: its page is what its result files say, its sums are right, and its smallest job runs. No timing is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import embedded_systems, report, stops
from bench.goals import SMALLEST, Goal, rows
from console.cli import bench
from docs import generate

ROOT = Path(__file__).resolve().parents[2]
MORE = Goal("1", "more is better", ("ours", "rate"), ("theirs", "rate"), 2, 4)
LESS = Goal("2", "less is better", ("ours", "cost"), ("theirs", "cost"), 0.5, 0.1, most=True)
ALONE = Goal("3", "no peer", ("ours", "cost"), None, 1, 0.5, most=True)
ROUNDS = {
    "ours": [{"rate": 30.0, "cost": 1.0}, {"rate": 20.0, "cost": 2.0}, {"rate": 50.0, "cost": 0.8}],
    "theirs": [{"rate": 10.0, "cost": 4.0}, {"rate": 10.0, "cost": 5.0}, {"rate": 10.0, "cost": 4.0}],
}


def test_the_page_is_what_the_result_files_say() -> None:
    page = ROOT / "docs" / "performance.md"
    assert generate.rendered(page.read_text()) == page.read_text(), "make docs"


def test_ratios_are_taken_round_by_round() -> None:
    more, less, alone = rows(ROUNDS, (MORE, LESS, ALONE))
    assert (more["ratio"], more["lowest"], more["highest"], more["verdict"]) == (3, 2, 5, "floor")
    assert (less["ratio"], less["verdict"]) == (0.25, "floor")
    assert (alone["ratio"], alone["theirs"], alone["verdict"]) == (1.0, None, "floor")


def test_what_was_not_measured_has_no_row() -> None:
    assert rows({"ours": ROUNDS["ours"]}, (MORE,)) == []


def test_every_stop_and_system_is_explained() -> None:
    assert set(report.STOPS["embedded"]) == {*stops.STOPS, "between", "whole"}
    assert set(report.STOPS["kafka"]) == {*stops.STOPS, "between", "whole", "postgres", "broker"} - {"flush"}
    with embedded_systems.systems(SMALLEST) as known:
        assert set(known) - {"stops"} == set(embedded_systems.ABOUT)
    named = {side[0] for goal in embedded_systems.GOALS for side in (goal.ours, goal.theirs) if side}
    assert named <= set(known)


def test_the_smallest_job_runs() -> None:
    command = [sys.executable, str(bench.PROGRAM), "--mode", "embedded", "--smallest", "--json"]
    done = subprocess.run(
        [*command, "--only", "embedded,bare_log,store"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    (ours,), (bare,) = said["rounds"]["embedded"], said["rounds"]["bare_log"]
    assert ours["tasks_per_second"] > 0
    assert bare["tasks_per_second"] > 0
    assert {"5", "10", "15"} <= {row["row"] for row in said["rows"]}


@pytest.mark.parametrize("mode", report.modes())
def test_a_result_file_says_how_it_was_made(mode: str) -> None:
    said = report.found(mode)
    assert said is not None
    assert said["command"].startswith("python bench/run.py")
    assert {"processor", "cpus", "python"} <= said["machine"].keys()
