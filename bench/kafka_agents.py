"""Ours on Kafka and PostgreSQL: four real agent processes with do-nothing roles, everything else as it is shipped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.dance import Dance, dance
from bench.job import HOPS
from bench.machine import Meter, cpu_seconds, latencies, resident_megabytes
from bench.servers import Servers

ROOT = Path(__file__).resolve().parents[1]
REST_SECONDS = 3.0
FIRST = (100, 100)
"""Tasks before all others: the first two batches of each partition take the broker a twentieth of a second each."""
SETTLE_SECONDS = 1.0
"""After them, until offsets have been committed twice: they are records of partitions, too."""


class Costs:
    """What a burst took: rates and CPU of the processes themselves, and of the servers behind them."""

    def __init__(self, pids: list[int], servers: Servers) -> None:
        self._servers, self._before = servers, _cpu_of(servers)
        self._meter = Meter(pids)

    def per(self, tasks: int) -> dict[str, float]:
        found, after = self._meter.per(tasks), _cpu_of(self._servers)
        spent = {name: after[name] - self._before[name] for name in after}
        share = sum(spent.values()) / (tasks / found["tasks_per_second"]) / (os.cpu_count() or 1)
        found["others_percent"] = max(0.0, found["others_percent"] - share * 100)
        return found | {f"{name}_cpu_ms_per_task": seconds / tasks * 1000 for name, seconds in spent.items()}


def _cpu_of(servers: Servers) -> dict[str, float]:
    return {name: cpu_seconds(pids) for name, pids in servers.pids().items()}


def settings(servers: Servers, database: str) -> dict[str, str]:
    """The variables with which agents use these servers, under names of their own."""
    return {
        "GAVOTTE_BUS__BACKEND": "kafka",
        "GAVOTTE_BUS__SERVERS": servers.kafka,
        "GAVOTTE_BUS__PREFIX": f"{uuid.uuid4().hex[:8]}.",
        "GAVOTTE_STORE__BACKEND": "postgres",
        "GAVOTTE_STORE__URL": database,
    }


@contextlib.contextmanager
def tables(servers: Servers) -> Iterator[str]:
    """A schema with our tables, for as long as the context."""
    from state_store.postgres.migrations import migrate

    with servers.schema() as database:
        asyncio.run(migrate(database))
        yield database


def measure(servers: Servers, tasks: int, idle_tasks: int) -> dict[str, float]:
    """Throughput of a burst, latency of single tasks, CPU of all, memory of the agents, bytes in the database."""
    with tables(servers) as database, tempfile.TemporaryDirectory(prefix="gavotte-bench-") as name:
        return asyncio.run(_measure(servers, Path(name), settings(servers, database), (tasks, idle_tasks)))


async def _measure(servers: Servers, data: Path, environ: dict[str, str], counts: tuple[int, int]) -> dict[str, float]:
    tasks, idle_tasks = counts
    async with dance(data, environ) as made:
        await warm_up(made)
        spent = await made.idle_latencies(idle_tasks)
        costs = await made.burst(tasks, partial(Costs, servers=servers))
        return costs | latencies(spent) | {"resting_cpu_percent": await made.resting(REST_SECONDS)}


async def warm_up(made: Dance) -> None:
    """Past what only new topics and groups cost."""
    for count in FIRST:
        await made.burst(count)
    await asyncio.sleep(SETTLE_SECONDS)


def idle_agents(servers: Servers) -> dict[str, float]:
    """The four agents as anybody starts them, with all their tools, before they have anything to do."""
    with tables(servers) as database, tempfile.TemporaryDirectory(prefix="gavotte-bench-") as name:
        environ = os.environ | settings(servers, database) | {"GAVOTTE_DATA": name}
        started = [
            subprocess.Popen(
                [sys.executable, "-P", "-m", "agents", role],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environ,
                cwd=ROOT,
            )
            for role in HOPS
        ]
        try:
            for each in started:
                assert each.stdout is not None
                each.stdout.readline()
            time.sleep(REST_SECONDS)
            return {"idle_megabytes": statistics.mean(resident_megabytes(each.pid) for each in started)}
        finally:
            for each in started:
                each.terminate()
            for each in started:
                each.wait()
