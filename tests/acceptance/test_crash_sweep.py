"""Agents that die at every stop of the path: the task ends once, each act happened once, no recorded step runs again.

`GAVOTTE_CRASH_POINTS=all` tries every point for every role. `GAVOTTE_SOAK_SECONDS` and `GAVOTTE_SOAK_SEED` make the
random kills last longer and fall elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from contracts.crashpoints import VARIABLE
from tests.acceptance.commands import FIX, Person, repository
from tests.acceptance.crew import ROLES, Crew, judge, released

PATH = (
    "store.mark_partitions",
    "store.start",
    "store.step_intent",
    "store.effect_intent",
    "store.effect_receipt",
    "store.step_outcome",
    "worker.commit",
    "store.commit",
    "worker.publish",
    "store.published",
    "worker.acknowledge",
    "store.sweep_mark",
)
"""The writes of an ordinary task, in the order in which a delivery comes by."""
ACTS = frozenset({"store.effect_intent", "store.effect_receipt"})
"""Of the deploy role alone."""
RISKY = frozenset({"store.commit", "worker.publish", "worker.acknowledge"})
"""Tried for every role on every run, as are the acts of deploy; the others for one role each."""
OTHERWISE = {
    "store.start": "planning",
    "worker.commit": "planning",
    "store.step_intent": "coding",
    "store.sweep_mark": "coding",
    "store.mark_partitions": "review",
    "store.published": "review",
    "store.step_outcome": "deploy",
}
EVERYWHERE = os.environ.get("GAVOTTE_CRASH_POINTS") == "all"
"""Every write for every role: some minutes longer."""
BEFORE_OUTCOME = frozenset(
    {"store.step_intent.after", "store.step_outcome.before"}
    | {f"{act}.{side}" for act in ACTS for side in ("before", "after")}
)
"""Where a step was begun and its outcome is not recorded: only there may it be tried again."""
SPREAD = 3
"""Tasks over which the deaths of a role are spread: a delivery that ends its process too often is taken for poison."""
SOAK_SECONDS = float(os.environ.get("GAVOTTE_SOAK_SECONDS", "8"))
SOAK_SEED = int(os.environ.get("GAVOTTE_SOAK_SEED", "1"))
AT_A_TIME = 3
KILL_PROBABILITY = 0.05
"""At each of some 20 looks a second."""
CALM_SECONDS = 120.0
"""So long at most until the next thing happens, on a busy machine too: a retry comes after half a minute."""


def points_of(role: str) -> list[str]:
    """Where this role dies, once at each point, spread so that every task meets early and late ones."""

    def meets(write: str) -> bool:
        if write in ACTS:
            return role == "deploy"
        return EVERYWHERE or write in RISKY or OTHERWISE[write] == role

    points = [f"{write}.{side}" for write in PATH if meets(write) for side in ("before", "after")]
    return [point for first in range(SPREAD) for point in points[first::SPREAD]]


@pytest.fixture
def ann(tmp_path: Path) -> Person:
    person = Person(tmp_path / "ann")
    person.environ |= {"GAVOTTE_WORKER__SWEEP_SECONDS": "1"}
    repository(person.home / "repo")
    added = person.says("project", "add", str(person.home / "repo"), "--approval", "never")
    assert added.returncode == 0, added.stderr
    return person


def submit(ann: Person, title: str) -> str:
    task: str = ann.told("submit", "--repo", "repo", "--patch", "-", "--title", title, stdin=FIX)["task_id"]
    return task


def has_ended_well(ann: Person, task: str) -> bool:
    now = ann.status(task)
    assert now in {"running", "succeeded"}, f"{task} is {now}: {ann.says('why', task).stdout}"
    return now == "succeeded"


def has_ended_well_or_goes_on(ann: Person, task: str) -> bool:
    """The same where kills are so dense that a delivery may be taken for poison: a person lets it go on."""
    if ann.status(task) != "escalated":
        return has_ended_well(ann, task)
    assert "times in vain" in ann.says("why", task).stdout
    assert ann.says("resume", task).returncode == 0
    return False


def tries(ann: Person) -> Counter[str]:
    """How many steps of each role were tried again, over all tasks; all have their outcome."""
    with contextlib.closing(ann.reads()) as connection:
        assert connection.execute("SELECT count(*) FROM steps WHERE abandoned OR outcome != 'ok'").fetchone() == (0,)
        rows = connection.execute("SELECT role, sum(attempt - 1) FROM steps GROUP BY role")
        return Counter({role: int(again) for role, again in rows})


def unharmed(ann: Person, tasks: list[str]) -> None:
    """Each task ended once and was released once, and every record agrees with every other."""
    ledger: list[dict[str, Any]] = []
    for task in tasks:
        for environment in ("staging", "production"):
            lines = [line for line in released(ann, environment) if line["task_id"] == task]
            assert [line["effect"] for line in lines] == ["release", "confirm"], (task, environment)
        ledger.append({"task_id": task, "effect": "ProductionDeployed", "effect_id": lines[0]["effect_id"]})
    judge(ann, tasks, ledger)
    assert ann.says("audit", "verify").returncode == 0


@pytest.mark.timeout(900)
def test_agents_that_die_at_every_stop_are_of_no_consequence(ann: Person) -> None:
    wanted = {role: points_of(role) for role in ROLES}
    tasks: list[str] = []
    with Crew(ann, {role: list(points) for role, points in wanted.items()}) as crew:

        def another_has_died(before: int) -> bool:
            if not tasks or has_ended_well(ann, tasks[-1]):
                tasks.append(submit(ann, f"task {len(tasks)}"))
            return crew.deaths.total() > before

        while crew.deaths != {role: len(points) for role, points in wanted.items()}:
            crew.until(partial(another_has_died, crew.deaths.total()), CALM_SECONDS)
        for task in tasks:
            crew.until(partial(has_ended_well, ann, task), CALM_SECONDS)
    unharmed(ann, tasks)
    again = tries(ann)
    for role, points in wanted.items():
        assert again[role] <= len(BEFORE_OUTCOME.intersection(points)), (role, again)


def test_a_client_that_dies_after_its_submission_was_recorded_loses_nothing(ann: Person) -> None:
    words = ("submit", "--repo", "repo", "--patch", "-", "--title", "gone", "--idempotency-key", "once")
    ann.environ |= {VARIABLE: "store.append.after"}
    assert ann.says(*words, stdin=FIX).returncode == -signal.SIGKILL
    del ann.environ[VARIABLE]
    with Crew(ann) as crew:
        [task] = {event["task_id"] for event in ann.lines("log", "--all")}
        crew.until(partial(has_ended_well, ann, task))  # nobody told the bus: the sweep found it
        assert ann.told(*words, stdin=FIX)["task_id"] == task
    unharmed(ann, [task])


@pytest.mark.timeout(SOAK_SECONDS + 5 * CALM_SECONDS)
def test_agents_killed_at_random_lose_nothing(ann: Person) -> None:
    rng = random.Random(SOAK_SEED)
    tasks: list[str] = []
    with Crew(ann) as crew:
        end = time.monotonic() + SOAK_SECONDS

        def over() -> bool:
            going = [task for task in tasks if not has_ended_well_or_goes_on(ann, task)]
            if len(going) < AT_A_TIME:
                tasks.append(submit(ann, f"task {len(tasks)}"))
            if rng.random() < KILL_PROBABILITY:
                crew.kill(rng.choice(ROLES))
            return time.monotonic() > end and crew.deaths.total() > 0

        crew.until(over, SOAK_SECONDS + CALM_SECONDS)
        for task in tasks:
            crew.until(partial(has_ended_well_or_goes_on, ann, task), CALM_SECONDS)
        print(f"{len(tasks)} tasks, killed: {dict(crew.deaths)}")
    unharmed(ann, tasks)
