"""A fifth agent joins by one command while four run and a task is under way: it is heard, and nobody else notices."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.commands import FIX, ROOT, Person, alive, ready_pids, repository, until
from tests.acceptance.crew import ROLES, judge

SCAN = ROOT / "examples" / "licence_scan.py"
COPYING = """--- /dev/null
+++ b/COPYING
@@ -0,0 +1 @@
+GNU General Public License
"""


@pytest.fixture
def ann(tmp_path: Path) -> Person:
    person = Person(tmp_path / "ann")
    repository(person.home / "repo")
    return person


def test_a_fifth_agent_joins_a_running_dance(ann: Person) -> None:
    with ann.starts("up"):
        until(lambda: len(ready_pids(ann.heard())) == len(ROLES))
        four = ready_pids(ann.heard())
        task = ann.told("submit", "--repo", "repo", "--patch", "-", stdin=FIX + COPYING)["task_id"]
        assert ann.status(task) == "running"
        with ann.starts("agent", str(SCAN)):
            until(lambda: "licences" in ready_pids(ann.heard()))
            ann.waits_for(task, "waiting")
            until(lambda: [event for event in ann.lines("log", task) if event["type"] == "LicencesScanned"])
            assert ann.says("approve", task, "--yes").returncode == 0
            ann.waits_for(task, "succeeded")
            assert {name: pid for name, pid in ready_pids(ann.heard()).items() if name != "licences"} == four
            assert ann.heard().count("\nready ") == len(ROLES) + 1
            assert all(alive(pid) for pid in four.values())
    events = ann.lines("log", task)
    [scanned] = [event for event in events if event["type"] == "LicencesScanned"]
    [change] = [event for event in events if event["type"] == "ChangeProposed"]
    assert scanned["causation_id"] == change["event_id"]
    assert scanned["source"] == "urn:gavotte:agent:licences"
    assert scanned["payload"] == {
        "head_commit": change["payload"]["head_commit"],
        "files": ["COPYING", "money.py"],
        "copyleft": ["COPYING"],
    }
    judge(ann, [task])
    assert ann.says("audit", "verify").returncode == 0
    assert ann.says("rebuild").returncode == 0
    assert ann.status(task) == "succeeded"
