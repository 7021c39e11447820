"""Processes of a peer at the same job: started together, metered together."""

from __future__ import annotations

import json
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.environments import python_of
from bench.machine import Meter, bytes_below, latencies, resident_megabytes

HERE = Path(__file__).parent
WARM_UP = 30
"""Tasks that each process does before any is measured."""


def measure(peer: str, processes: int, tasks: int, *database: str) -> dict[str, float]:
    """So many tasks through so many processes of a peer that share one folder, or the database at an address."""
    python, script = python_of(peer), str(HERE / f"peer_{peer}.py")
    with tempfile.TemporaryDirectory(prefix=f"gavotte-{peer}-") as name, ExitStack() as stack:
        crowd = []
        for number in range(processes):
            command = [python, script, name, str(number), str(tasks // processes), *database]
            member = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            stack.callback(member.wait)
            stack.callback(member.kill)
            crowd.append(member)
            answer(member, "ready")  # one after the other: they make their tables
        meter = Meter([member.pid for member in crowd])
        for member in crowd:
            assert member.stdin is not None
            member.stdin.write("go\n")
            member.stdin.flush()
        spent = [one for member in crowd for one in answer(member)]
        done = tasks // processes * processes
        figures = meter.per(done) | latencies(spent)
        figures["megabytes"] = sum(resident_megabytes(member.pid) for member in crowd) / processes
        if not database:
            figures["stored_bytes_per_task"] = bytes_below(Path(name)) / (done + WARM_UP * processes)
        figures["processes"] = processes
        return figures


def answer(member: subprocess.Popen[str], word: str = "") -> Any:
    """The next line of the process that is the word, or JSON; SystemExit where it died."""
    assert member.stdout is not None
    for line in member.stdout:
        if line.strip() == word:
            return None
        if not word and line.startswith("["):
            return json.loads(line)
    raise SystemExit(f"a process of a peer ended with {member.wait()}")


def eventsourcing(events: int, *database: str) -> dict[str, float]:
    """What the event-sourcing library does in a second."""
    with tempfile.TemporaryDirectory(prefix="gavotte-eventsourcing-") as name:
        command = [python_of("eventsourcing"), str(HERE / "peer_eventsourcing.py"), name, str(events), *database]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found: dict[str, float] = json.loads(done.stdout)
        return found
