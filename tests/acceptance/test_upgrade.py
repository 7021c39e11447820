"""A rolling upgrade: the next release, with a second version of an event, runs beside this one on the same data."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.commands import FIX, PATIENCE_SECONDS, ROOT, Person, repository, until
from tests.acceptance.crew import ROLES

ROOMS = ("agents", "bus", "console", "contracts", "dlq_tools", "embedded", "evals", "state_store")
EVENT = "ChangeProposed"
NEW_FIELD = "confidence"
TASKS_MAX = 24


def next_release(folder: Path) -> Path:
    """The tree of a release in which an event has a version 2 with one field more, made as a developer makes it."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__", "demo_sample"))
    events = folder / "contracts" / "events.py"
    text = events.read_text()
    found = re.search(rf"class {EVENT}\(Payload\):.*?(?=\n\n\nclass )", text, re.DOTALL)
    assert found is not None
    docstring, rest = found[0].split("\n\n", 1)
    former = f'{docstring.replace(EVENT, EVENT + "V1", 1)}\n\n    TYPE = "{EVENT}"\n{rest}'
    newer = f"{docstring}\n\n    VERSION = 2\n{rest}\n    {NEW_FIELD}: str = 'high'"
    text = text.replace(found[0], f"{former}\n\n\n{newer}")
    text = re.sub(rf"^    {EVENT},$", f"    {EVENT}V1,\n    {EVENT},", text, count=1, flags=re.MULTILINE)
    events.write_text(text)
    codec = folder / "contracts" / "codec.py"
    upcaster = f'{{("{EVENT}", 1): lambda fields: fields | {{"{NEW_FIELD}": "not said"}}}}'
    codec.write_text(re.sub(r"^(UPCASTERS: .* = )\{\}$", rf"\g<1>{upcaster}", codec.read_text(), flags=re.MULTILINE))
    made = subprocess.run(
        [sys.executable, "-P", "-m", "contracts.schemas.generate"],
        env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert made.stdout == f"{EVENT}/v2.avsc\n", made.stdout + made.stderr
    return folder


class Fleet:
    """Agents of two releases over one data folder."""

    def __init__(self, person: Person, release: Path) -> None:
        self.old = person
        self.new = Person(person.home, {})
        self.new.environ["PYTHONPATH"] = str(release)
        self.running: dict[tuple[str, str], subprocess.Popen[bytes]] = {}

    def start(self, which: str, role: str) -> None:
        person = self.old if which == "old" else self.new
        log = person.home / f"{which}-{role}.log"
        with log.open("ab") as out:
            self.running[which, role] = subprocess.Popen(
                [sys.executable, "-P", "-m", "agents", role],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=person.home, env=person.environ,
            )  # fmt: skip
        until(lambda: f"ready {role}" in log.read_text())

    def stop(self, which: str, role: str) -> None:
        process = self.running.pop((which, role))
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0, (self.old.home / f"{which}-{role}.log").read_text()

    def end(self) -> None:
        """Nothing of it is left."""
        for process in self.running.values():
            process.kill()
            process.wait()

    def upgrade(self, role: str) -> None:
        """First the new one, then the old one leaves: nothing stands still."""
        self.start("new", role)
        self.stop("old", role)

    def submit(self, number: int) -> str:
        """A patch in its own repository; nobody is asked before production."""
        person = self.new if ("new", "planning") in self.running else self.old
        repo = repository(person.home / f"repo{number}")
        person.told("project", "add", str(repo), "--approval", "never")
        given = ("--repo", str(repo), "--author", "patch", "--patch", "-")
        return str(person.told("submit", *given, stdin=FIX)["task_id"])

    def versions(self, task_id: str) -> list[int]:
        """The versions of the event in question that a task's record holds, once the task has ended well."""
        self.new.waits_for(task_id, "succeeded")
        return [row["version"] for row in self.new.lines("log", task_id) if row["type"] == EVENT]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    found = Fleet(Person(tmp_path / "ann"), next_release(tmp_path / "next"))
    with contextlib.ExitStack() as stack:
        stack.callback(found.end)
        yield found


def folded(person: Person, task_id: str) -> Any:
    """The state of a task after its last event."""
    return person.told("at", task_id, "--event", str(len(person.lines("log", task_id))))


def test_two_releases_work_side_by_side_and_old_history_still_folds(fleet: Fleet) -> None:
    for role in ROLES:
        fleet.start("old", role)
    before = fleet.submit(0)
    assert fleet.versions(before) == [1]
    history = folded(fleet.old, before)

    for role in ("planning", "review", "deploy"):  # who reads is upgraded before who writes
        fleet.upgrade(role)
    assert fleet.versions(fleet.submit(1)) == [1], "the old writer is heard by new readers"

    fleet.start("new", "coding")  # both write now, each for its share of the tasks
    seen: set[int] = set()
    for number in range(2, TASKS_MAX):
        seen.update(fleet.versions(fleet.submit(number)))
        if seen == {1, 2}:
            break
    assert seen == {1, 2}, "both releases wrote"
    fleet.stop("old", "coding")
    last = fleet.submit(TASKS_MAX)
    assert fleet.versions(last) == [2]

    payloads = [row["payload"] for row in fleet.new.lines("log", before) if row["type"] == EVENT]
    assert [payload[NEW_FIELD] for payload in payloads] == ["not said"], "what was written before is read as version 2"
    [travelled] = [
        row for row in fleet.new.lines("log", "--from-bus", "coding", "--task", last) if row["type"] == EVENT
    ]
    assert (travelled["version"], travelled["payload"][NEW_FIELD]) == (2, "high")
    assert folded(fleet.new, before) == history
    assert fleet.new.says("rebuild").returncode == 0
    assert fleet.new.told("show", before)["status"] == "succeeded"
    assert fleet.new.says("audit", "verify").returncode == 0
    assert fleet.new.says("contracts", "check", "--against", str(ROOT / "contracts" / "schemas")).returncode == 0
    assert all(row["open"] is False for row in fleet.new.told("dlq", "list", "--all"))

    shown = fleet.old.lines("log", last)  # who was not upgraded yet sees that there is something newer
    [newer] = [row for row in shown if row["type"] == EVENT]
    assert newer["payload"] is None
    assert "schema id" in newer["problem"]
    assert json.dumps(shown)
