"""What a command and an agent load at their start: what they need, and none of the heavy packages beside it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.commands import FIX, PATIENCE_SECONDS, Person, repository
from tests.test_house import HEAVY, ROLES

TRACING = [sys.executable, "-X", "importtime", "-P", "-m"]
PAINTING = {"rich", "typer"}


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person(tmp_path / "ann")


def loaded(trace: bytes) -> set[str]:
    """The top-level modules in what `-X importtime` wrote."""
    lines = [line for line in trace.decode().splitlines() if line.startswith("import time:")]
    assert len(lines) > 100
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def trace_of(person: Person, *words: str) -> set[str]:
    done = subprocess.run(
        [*TRACING, "console.cli.main", *words], capture_output=True, check=False, env=person.environ, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return loaded(done.stderr)


def test_commands_load_what_they_need(person: Person) -> None:
    repo = repository(person.home / "repo")
    person.told("submit", "--repo", str(repo), "--patch", "-", stdin=FIX)
    assert trace_of(person, "--help") & HEAVY == set()
    assert trace_of(person, "tasks") & (HEAVY | {"rich"}) == {"aiosqlite"}
    assert trace_of(person, "log", "--all", "--json") & (HEAVY | {"rich"}) == {"aiosqlite", "fastavro"}
    assert trace_of(person, "config", "show") & (HEAVY | {"rich"}) == set()


@pytest.mark.parametrize("role", ROLES)
def test_an_agent_loads_what_it_needs(person: Person, role: str) -> None:
    trace = person.home / "trace"
    with trace.open("wb") as out:
        process = subprocess.Popen(
            [*TRACING, "agents", role], env=person.environ, cwd="/", stdout=subprocess.PIPE, stderr=out
        )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"ready ")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    assert loaded(trace.read_bytes()) & (HEAVY | PAINTING) == {"aiosqlite"}
