"""Every write of the store is a place where the process can be made to die, and is on the list."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts import crashpoints

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("agents", "bus", "console", "contracts", "dlq_tools", "embedded", "evals", "state_store")


@pytest.fixture
def seen() -> Iterator[list[str]]:
    names: list[str] = []
    crashpoints.observe(names.append)
    yield names
    crashpoints.observe(None)


def test_the_list_is_what_the_code_has() -> None:
    code = "".join(path.read_text() for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    placed = set(re.findall(r'\bcrashpoint\("([\w.]+)"\)', code))
    writes = set(re.findall(r'_(?:write|pass)\(\s*"(\w+)"', (ROOT / "state_store" / "store.py").read_text()))
    assert writes == set(crashpoints.STORE_WRITES)
    assert placed == set(crashpoints.OTHERS)


def test_every_write_of_the_store_goes_through_one_door() -> None:
    text = (ROOT / "state_store" / "sqlite.py").read_text()
    assert text.count("_database.write(") == 1


def test_points_are_announced(seen: list[str]) -> None:
    crashpoints.crashpoint("store.commit.before")
    crashpoints.crashpoint("store.commit.after")
    assert seen == ["store.commit.before", "store.commit.after"]


DIES = """
from contracts.crashpoints import crashpoint
for turn in range(3):
    print(turn, flush=True)
    crashpoint("store.commit.before")
    crashpoint("store.commit.after")
"""


@pytest.mark.parametrize(
    ("chosen", "turns"), [("store.commit.before", 1), ("store.commit.after:2", 2), ("store.start.after", 3), ("", 3)]
)
def test_the_process_dies_where_it_is_told(chosen: str, turns: int) -> None:
    done = run(chosen)
    assert done.stdout.split() == [str(turn) for turn in range(turns)]
    assert done.returncode == (0 if turns == 3 else -signal.SIGKILL)


def test_a_point_that_does_not_exist_is_said() -> None:
    done = run("store.comit.before")
    assert done.returncode == 1
    assert "store.comit.before" in done.stderr


def run(chosen: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", DIES],
        env={**os.environ, crashpoints.VARIABLE: chosen, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
