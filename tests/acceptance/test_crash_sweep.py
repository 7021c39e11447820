"""Agents that die at each stop of the path, for real: the task still ends once, and each effect happened once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.acceptance.commands import FIX, Person, repository, until

POINTS = (
    ("planning", "store.start.after"),
    ("planning", "store.step_outcome.before"),
    ("coding", "store.step_outcome.after"),
    ("coding", "worker.commit.before"),
    ("review", "worker.commit.after"),
    ("review", "worker.publish.after"),
    ("deploy", "store.effect_intent.after"),
    ("deploy", "store.effect_receipt.before"),
    ("deploy", "store.effect_receipt.after"),
    ("deploy", "worker.publish.before"),
    ("deploy", "worker.acknowledge.before"),
)
ROLES = ("planning", "coding", "review", "deploy")


def agent(person: Person, role: str, **more: str) -> subprocess.Popen[bytes]:
    """One agent process of its own."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "agents", role],
        env=person.environ | more,
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(("role", "point"), POINTS)
def test_a_death_at_this_point_changes_nothing(tmp_path: Path, role: str, point: str) -> None:
    person = Person(tmp_path / "home")
    person.environ |= {"GAVOTTE_WORKER__SWEEP_SECONDS": "1"}
    at = repository(tmp_path / "money")
    person.says("project", "add", str(at), "--approval", "never")
    task = person.told("submit", "--repo", str(at), "--author", "patch", "--patch", "-", stdin=FIX)["task_id"]
    others = [agent(person, other) for other in ROLES if other != role]
    try:
        victim = agent(person, role, GAVOTTE_CRASHPOINT=point)
        others.append(victim)
        until(lambda: victim.poll() is not None)
        assert victim.returncode == -signal.SIGKILL
        others.append(agent(person, role))
        person.waits_for(task, "succeeded")
    finally:
        for process in others:
            process.terminate()
        for process in others:
            process.wait()
    events = person.lines("log", task)
    known = {event["event_id"] for event in events}
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert all(event["causation_id"] in known for event in events[1:])
    types = Counter(event["type"] for event in events)
    assert max(types.values()) == 1, types
    assert types["TaskSucceeded"] == 1
    released = sorted((person.data / "releases").rglob("ledger.jsonl"))
    assert len(released) == 2
    for ledger in released:
        effects = [json.loads(line)["effect_id"] for line in ledger.read_text().splitlines() if '"release"' in line]
        assert len(effects) == len(set(effects)) == 1, ledger.read_text()
    steps = [(s["role"], s["ordinal"], s["cause_id"]) for s in person.told("steps", task) if s["outcome"] == "ok"]
    assert len(steps) == len(set(steps))
    assert person.says("audit", "verify").returncode == 0
