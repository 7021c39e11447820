"""Where the time of a hop goes on Kafka and PostgreSQL: stops of the agents, and what the two servers do for a delivery."""

from __future__ import annotations

import asyncio
import tempfile
from functools import partial
from pathlib import Path

from bench import kafka_agents, stops
from bench.dance import dance
from bench.job import HOPS
from bench.servers import Servers


def measure(servers: Servers, tasks: int) -> dict[str, float]:
    """Microseconds of processor time per delivery; the journal of a role that takes one step, in a burst of its own."""
    plain, stepping = _spent(servers, tasks, {}), _spent(servers, tasks // 4, stops.STEPPING)
    return plain | {"journal_us": stepping["journal_us"]}


def _spent(servers: Servers, tasks: int, environ: dict[str, str]) -> dict[str, float]:
    with kafka_agents.tables(servers) as database, tempfile.TemporaryDirectory(prefix="gavotte-stops-") as name:
        into, where = Path(name), kafka_agents.settings(servers, database)
        costs = asyncio.run(_burst(servers, into / "data", {stops.VARIABLE: name, **where, **environ}, tasks))
        found = stops.found(into, costs["cpu_ms_per_task"])
    del found["flush_us"]  # the server's own affair, and in what it costs
    return found | {
        f"{server}_us": costs[f"{server}_cpu_ms_per_task"] * 1000 / len(HOPS) for server in ("postgres", "broker")
    }


async def _burst(servers: Servers, data: Path, environ: dict[str, str], tasks: int) -> dict[str, float]:
    async with dance(data, environ) as made:
        await kafka_agents.warm_up(made)
        return await made.burst(tasks, partial(kafka_agents.Costs, servers=servers))
