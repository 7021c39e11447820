"""Four agent processes that a test starts, kills and starts again, and what must hold of a data folder afterwards."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from contracts.crashpoints import VARIABLE
from tests.acceptance.commands import PATIENCE_SECONDS, Person, until

ROLES = ("planning", "coding", "review", "deploy")
JUDGE = Path(__file__).resolve().parents[3] / "shared" / "checks" / "check_history.py"
"""An independent judge of histories; absent in a user's clone."""
JUDGE_CONFIG = {
    "submitted": ["TaskSubmitted"],
    "terminal": ["TaskSucceeded", "TaskFailed", "TaskCancelled"],
    "success": ["TaskSucceeded"],
    "effects": ["ProductionDeployed"],
    "required_on_success": ["ProductionDeployed"],
    "gates": {"ProductionDeployed": ["ReviewPassed"]},
    "hitl_gate": {"ProductionDeployed": "ApprovalGranted"},
    "control_prefix": "Kill",
    "after_terminal_ok": ["Licence"],
    "work": [],
    "usage_fields": [],
}


class Crew:
    """Agents as processes of their own, started without a supervisor; all are gone at the end of the `with`.

    `points` are the crash points at which each role still has to die, one after the other: every start arms the next.
    """

    def __init__(
        self, person: Person, points: dict[str, list[str]] | None = None, roles: Iterable[str] = ROLES
    ) -> None:
        self.person = person
        self.roles = tuple(roles)
        self.points = points or {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.deaths: Counter[str] = Counter()

    def start(self, role: str) -> None:
        """Start one agent; a file's path is a further one."""
        points = self.points.get(role)
        environ = {VARIABLE: points.pop(0)} if points else {}
        with (self.person.home / f"{role.replace(os.sep, '_')}.log").open("ab") as log:
            self.running[role] = subprocess.Popen(
                [sys.executable, "-P", "-m", "agents", role],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.person.home,
                env=self.person.environ | environ,
            )  # fmt: skip

    def kill(self, role: str) -> None:
        """SIGKILL; `tend` starts it again."""
        self.running[role].kill()
        self.running[role].wait()

    def tend(self) -> None:
        """Start again who died of SIGKILL; any other end is a fault."""
        for role, process in list(self.running.items()):
            code = process.poll()
            if code is not None:
                assert code == -signal.SIGKILL, f"{role} ended with {code}: {self.log(role)}"
                self.deaths[role] += 1
                self.start(role)

    def until(self, condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
        """What the condition gives once it holds; whoever dies meanwhile is started again."""

        def tended() -> Any:
            self.tend()
            return condition()

        return until(tended, seconds)

    def log(self, role: str) -> str:
        return (self.person.home / f"{role.replace(os.sep, '_')}.log").read_text()[-4000:]

    def __enter__(self) -> Self:
        for role in self.roles:
            self.start(role)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def judge(person: Person, accepted: Iterable[str], ledger: Iterable[dict[str, Any]] | None = None) -> None:
    """Lineage, sequences, one end each, nothing lost; by our own look, and the judge's where it is at hand."""
    events = person.lines("log", "--all")
    tasks: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        tasks.setdefault(event["task_id"], []).append(event)
    for task in accepted:
        stream = tasks[task]
        assert [event["sequence"] for event in stream] == list(range(1, len(stream) + 1))
        ids = [event["event_id"] for event in stream]
        for index, event in enumerate(stream[1:], 1):
            assert event["causation_id"] in ids[:index], event
            assert event["correlation_id"] == stream[0]["correlation_id"], event
        assert sum(event["type"] in JUDGE_CONFIG["terminal"] for event in stream) == 1, stream[-1]
    if JUDGE.exists():
        spec = importlib.util.spec_from_file_location("check_history", JUDGE)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert module.check(events, JUDGE_CONFIG, list(accepted), None if ledger is None else list(ledger)) == []


def released(person: Person, environment: str) -> list[dict[str, Any]]:
    """What the release target itself wrote down of an environment, in all projects."""
    files = sorted((person.data / "releases").glob(f"*/{environment}.releases/ledger.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]
