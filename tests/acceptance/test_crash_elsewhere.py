"""Deaths beside the path: of commands, of agents that leave in order, and in long work. Given again, all ends well."""

from __future__ import annotations

import contextlib
import signal
from functools import partial
from pathlib import Path

import pytest

from contracts.crashpoints import NAMES, VARIABLE
from tests.acceptance import test_crash_sweep as sweep
from tests.acceptance.commands import Person, repository
from tests.acceptance.crew import Crew, judge

FIX = b"--- a/notes.txt\n+++ b/notes.txt\n@@ -1 +1 @@\n-a\n+b\n"
LATIN = b"--- /dev/null\n+++ b/latin.txt\n@@ -0,0 +1 @@\n+caf\xe9\n"
"""Bytes that an event cannot hold, as a row of their own."""
LARGE = b"--- /dev/null\n+++ b/large.txt\n@@ -0,0 +1,3000 @@\n" + b"".join(b"+%064d\n" % line for line in range(3000))
"""Too large for an event, and for a row."""
SLOW = "sh -c 'sleep 4; echo b > notes.txt'"
"""Longer than a lease lasts without renewal, so that whoever runs it comes by."""
COMMANDS = {
    "put_project": ("project", "add", "repo", "--approval", "never"),
    "put_body": ("submit", "--repo", "repo", "--patch", "-", "--idempotency-key", "small"),
    "body_file": ("submit", "--repo", "repo", "--patch", "-", "--idempotency-key", "large"),
    "append": ("submit", "--repo", "repo", "--patch", "-", "--idempotency-key", "other"),
    "rebuild_views": ("rebuild",),
}
AGENTS = ("forgive", "renew", "clean_partitions")
ELSEWHERE = {
    "register_agent": "a start given again, as test_fifth_agent's",
    "reopen": "of the repair bench",
    "effect_withdraw": "of nobody yet",
    "prune_journal": "of upkeep: tests/contract/store/test_store_retention.py",
}


def test_no_write_is_forgotten() -> None:
    tried = {write.partition(".")[2] for write in sweep.PATH} | {*COMMANDS, *AGENTS, *ELSEWHERE}
    assert {name.split(".")[1] for name in NAMES} == tried


@pytest.fixture
def ann(tmp_path: Path) -> Person:
    person = Person(tmp_path / "ann")
    person.environ |= {"GAVOTTE_WORKER__SWEEP_SECONDS": "1"}
    repository(person.home / "repo", {"test_a.py": "def test_one() -> None:\n    pass\n", "notes.txt": "a\n"})
    return person


def test_commands_that_die_can_be_given_again(ann: Person) -> None:
    for write, words in COMMANDS.items():
        patch = FIX + {"put_body": LATIN, "body_file": LARGE}.get(write, b"")
        for side in ("before", "after"):
            ann.environ |= {VARIABLE: f"store.{write}.{side}"}
            assert ann.says(*words, stdin=patch).returncode == -signal.SIGKILL, (write, side)
        del ann.environ[VARIABLE]
        done = ann.says(*words, stdin=patch)
        assert done.returncode == 0, (write, done.stderr)
    assert len(ann.told("tasks")) == 3
    assert [event["type"] for event in ann.lines("log", "--all")] == ["TaskSubmitted"] * 3
    assert ann.says("audit", "verify").returncode == 0


def works(ann: Person, crew: Crew, role: str) -> bool:
    """Whether this very process has a task of the role in its hands."""
    with contextlib.closing(ann.reads()) as connection:
        rows = connection.execute("SELECT holder FROM leases WHERE role = ?", (role,)).fetchall()
    return any(holder.endswith(f"-{crew.running[role].pid}") for (holder,) in rows)


def listens(crew: Crew, role: str) -> bool:
    """Whether the newest process of the role has its partitions."""
    return crew.log(role).count("gained partitions") == crew.deaths[role] + 1


def have_died(crew: Crew, times: dict[str, int]) -> bool:
    return all(crew.deaths[role] == count for role, count in times.items())


def test_agents_that_die_in_long_work_or_while_they_leave_are_of_no_consequence(ann: Person) -> None:
    ann.environ |= {"GAVOTTE_WORKER__STOP_SECONDS": "0.1"}
    assert ann.says(*COMMANDS["put_project"]).returncode == 0
    task = ann.told("submit", "--repo", "repo", "--author", "command", "--command", SLOW)["task_id"]
    points = {
        role: [f"store.{write}.{side}" for write in writes for side in ("before", "after")]
        for role, writes in {"coding": ("renew", "forgive"), "planning": ("clean_partitions",)}.items()
    }
    with Crew(ann, points) as crew:
        crew.until(lambda: crew.deaths["coding"] == 2)  # while the command ran
        for _ in range(2):
            died = crew.deaths.copy()
            crew.until(lambda: works(ann, crew, "coding") and listens(crew, "planning"))
            for role in points:
                crew.running[role].terminate()
            crew.until(partial(have_died, crew, {role: died[role] + 1 for role in points}))
        crew.until(lambda: ann.status(task) == "succeeded")
        assert crew.deaths == {"coding": 4, "planning": 2}
    judge(ann, [task])
