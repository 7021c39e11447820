"""A thousand schedules of trouble keep every promise, and each planted fault is found by them.

Schedules run in processes of their own: the order of sets belongs to a seed, and all cores are used.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.variants import VARIANTS

RUN = Path(__file__).with_name("run.py")
SCHEDULES = 1000
SEEDS_PER_FAULT = 60


def start(*arguments: object) -> subprocess.Popen[str]:
    """One process that runs schedules."""
    command = [sys.executable, str(RUN), *map(str, arguments)]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def said(process: subprocess.Popen[str]) -> str:
    return process.communicate()[0]


@pytest.mark.timeout(900)
def test_schedules_of_trouble_keep_every_promise() -> None:
    cores = len(os.sched_getaffinity(0))
    share = -(-SCHEDULES // cores)
    processes = [start("--from", number * share, "--count", share) for number in range(cores)]
    outputs = [said(process) for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(outputs)


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = (said(start("--from", 3, "--count", 4, "--trace")) for _ in range(2))
    traces = [re.findall(r"^\d+ ([0-9a-f]{16}/[0-9a-f]{8}) ", output, re.MULTILINE) for output in (first, second)]
    assert len(traces[0]) == 4, first
    assert traces[0] == traces[1]
    assert len(set(traces[0])) == 4


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", VARIANTS)
def test_a_planted_fault_is_found(name: str) -> None:
    process = start("--variant", name, "--count", SEEDS_PER_FAULT, "--stop")
    output = said(process)
    assert process.returncode == 1, f"{name} went unseen for {SEEDS_PER_FAULT} seeds"
    assert re.search(rf"again: python tests/simulation/run.py --seed \d+ --variant {name}", output), output
