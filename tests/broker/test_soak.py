"""Tasks flow while agents are killed and the broker restarts, and then the books are right; a wrong book is found.

`GAVOTTE_SOAK_TASKS` and `GAVOTTE_SOAK_SEED` make it longer and strike elsewhere.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import history
from deploy.local.postgres import Postgres
from tests.acceptance.commands import alive, until

ROOT = Path(__file__).resolve().parents[2]
TASKS = int(os.environ.get("GAVOTTE_SOAK_TASKS", "40"))
SEED = os.environ.get("GAVOTTE_SOAK_SEED", "1")
SOAK = [sys.executable, str(ROOT / "bench" / "soak.py")]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A home without settings; the folders of a soak lie in it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GAVOTTE_")}
    return clean | {"XDG_CONFIG_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}


@pytest.mark.timeout(600 + TASKS)
@pytest.mark.usefixtures("kafka")  # whether this machine can have one; the soak restarts a broker of its own
def test_nothing_is_lost_or_done_twice(postgres: Postgres, environ: dict[str, str]) -> None:
    plan = ("--tasks", str(TASKS), "--rate", "10", "--kill-seconds", "3", "--broker-restarts", "1", "--seed", SEED)
    done = subprocess.run(
        [*SOAK, *plan, "--json"],
        env=environ | postgres.environment(),
        capture_output=True,
        text=True,
        timeout=200 + TASKS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ended"] == {"succeeded": TASKS}
    assert report["restarts"] == {"broker": 1}
    assert report["faults"] == []


def test_an_interrupted_soak_leaves_nothing(environ: dict[str, str], tmp_path: Path) -> None:
    plan = ("--bus", "embedded", "--store", "sqlite", "--tasks", "100000", "--kill-seconds", "1")
    soak = subprocess.Popen([*SOAK, *plan], env=environ, stderr=subprocess.PIPE, text=True)
    assert soak.stderr is not None
    assert "submitted" in soak.stderr.readline()
    pids = [int(line) for line in children(soak.pid)]
    assert len(pids) >= 4
    soak.send_signal(signal.SIGINT)
    rest = soak.communicate(timeout=60)[1]
    assert soak.returncode == 130, rest
    until(lambda: not any(alive(pid) for pid in pids))
    assert list(tmp_path.glob("gavotte-soak-*")) == []


def test_agents_do_not_outlive_a_soak_that_is_killed(environ: dict[str, str]) -> None:
    plan = ("--bus", "embedded", "--store", "sqlite", "--tasks", "100000")
    soak = subprocess.Popen([*SOAK, *plan], env=environ, stderr=subprocess.PIPE, text=True)
    assert soak.stderr is not None
    assert "submitted" in soak.stderr.readline()
    pids = [int(line) for line in children(soak.pid)]
    soak.kill()
    soak.communicate(timeout=60)
    until(lambda: not any(alive(pid) for pid in pids))


def children(pid: int) -> Iterator[str]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from (task / "children").read_text().split()


def test_a_server_that_is_not_ours_is_not_restarted(environ: dict[str, str]) -> None:
    done = subprocess.run(
        [*SOAK, "--broker-restarts", "1"],
        env=environ | {"GAVOTTE_BUS__SERVERS": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "only a server that is started here can be restarted" in done.stderr


# -- the books -----------------------------------------------------------------------------------------------------------

STORY = ("TaskSubmitted", "PlanProposed", "ChangeProposed", "ReviewPassed", "ProductionDeployed", "TaskSucceeded")


def story() -> list[dict[str, Any]]:
    """The events of two tasks, as they should be."""
    found: list[dict[str, Any]] = []
    for task in ("a", "b"):
        for number, type_ in enumerate(STORY, 1):
            cause = None if number == 1 else f"{task}{min(number - 1, 4)}"
            event = {"event_id": f"{task}{number}", "task_id": task, "type": type_, "sequence": number}
            found.append(event | {"causation_id": cause, "correlation_id": task, "position": len(found) + 1})
    return found


def lost(events: list[dict[str, Any]]) -> None:
    del events[6:]


def without_end(events: list[dict[str, Any]]) -> None:
    del events[11]


def two_ends(events: list[dict[str, Any]]) -> None:
    events.append(events[11] | {"event_id": "b7", "sequence": 7, "causation_id": "b5"})


def with_a_gap(events: list[dict[str, Any]]) -> None:
    events[11]["sequence"] = 7


def deployed_twice(events: list[dict[str, Any]]) -> None:
    events[11]["sequence"] = 7
    events.insert(11, events[10] | {"event_id": "b6'", "sequence": 6, "causation_id": "b3"})


def answered_twice(events: list[dict[str, Any]]) -> None:
    events[11]["sequence"] = 7
    events.insert(11, events[7] | {"event_id": "b6'", "sequence": 6})


def an_orphan(events: list[dict[str, Any]]) -> None:
    events[8]["causation_id"] = "a1"


def of_another_tale(events: list[dict[str, Any]]) -> None:
    events[8]["correlation_id"] = "a"


def written_twice(events: list[dict[str, Any]]) -> None:
    events.append(events[11])


def never_submitted(events: list[dict[str, Any]]) -> None:
    events += [event | {"event_id": event["event_id"] * 2, "task_id": "c"} for event in events[:1]]


PLANTED = (
    (lost, "task b: accepted, and not in the record"),
    (without_end, "task b: it has the ends [], its last event is ProductionDeployed"),
    (two_ends, "task b: it has the ends ['TaskSucceeded', 'TaskSucceeded'], its last event is TaskSucceeded"),
    (with_a_gap, "task b: its sequences are [1, 2, 3, 4, 5, 7]"),
    (deployed_twice, "task b: ProductionDeployed was recorded 2 times"),
    (answered_twice, "task b: PlanProposed was recorded 2 times for the event b1"),
    (an_orphan, "task b: event 3 (ChangeProposed) was caused by a1, unknown before it"),
    (of_another_tale, "task b: event 3 (ChangeProposed) has another correlation id"),
    (written_twice, "event b6: recorded 2 times"),
    (never_submitted, "task c: recorded, and nobody submitted it"),
)


def test_right_books_have_no_fault() -> None:
    assert history.faults(story(), ["a", "b"]) == []
    assert history.judged(story(), ["a", "b"]) == []


@pytest.mark.parametrize(("plant", "said"), PLANTED)
def test_what_is_wrong_in_the_books_is_found(plant: Callable[[list[dict[str, Any]]], None], said: str) -> None:
    events = copy.deepcopy(story())
    plant(events)
    assert said in history.faults(events, ["a", "b"])
    assert history.judged(events, ["a", "b"]) or not history.JUDGE.exists() or plant is never_submitted
