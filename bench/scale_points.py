"""What the model of `scale.py` is fitted to and checked against: `python bench/scale_points.py` writes results/scale.json.

A closed loop on Kafka and PostgreSQL: so many tasks are open at any time, and for each that ends another is submitted.
Beside it, what leases cost that are renewed while handlers take their time.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.dance import BURST, Dance, dance, type_of  # noqa: E402  # the folder is no package
from bench.kafka_agents import Costs, idle_agents, settings, tables, warm_up  # noqa: E402  # likewise
from bench.machine import description, median  # noqa: E402  # likewise
from bench.servers import Servers  # noqa: E402  # likewise

RESULT = Path(__file__).with_name("results") / "scale.json"
WINDOWS = {1: 100, 8: 600, 64: 2000, 512: 4000}
"""Open tasks -> how many are done in all."""
ROUNDS = 3
LEASES = 1000
RENEWALS = 20


async def closed_loop(made: Dance, window: int, tasks: int, servers: Servers) -> dict[str, float]:
    """Rates and costs of so many tasks, `window` of them open at any time."""
    ready = [made.submission() for _ in range(tasks)]
    costs = Costs(made.pids, servers)
    for index in range(0, window, BURST):
        await made.submit(ready[index : min(index + BURST, window)])
    submitted, left = window, tasks
    while left > 0:
        ended = sum(type_of(record) == "TaskFailed" for record in await made.subscription.fetch(1000, 1.0))
        left -= ended
        following = ready[submitted : submitted + ended]
        submitted += len(following)
        if following:
            await made.submit(following)
    return costs.per(tasks)


async def lease_us(made: Dance) -> float:
    """Microseconds that renewing one lease takes the server, of a holder with many."""
    from state_store.port import Delivery

    store, holder = made.runtime.store, "bench-renewal"
    submitted = [made.submission() for _ in range(LEASES)]
    await store.append(submitted)
    deliveries = [Delivery("licence", e.event.id, e.event.task_id, e.event.id, 1, holder=holder) for e in submitted]
    await asyncio.gather(*(store.start(delivery, None) for delivery in deliveries))
    spent = []
    for _ in range(RENEWALS):
        began = time.perf_counter()
        await store.renew(holder, "licence")
        spent.append(time.perf_counter() - began)
    return median(spent) / LEASES * 1e6


async def stored_bytes(made: Dance) -> float:
    """Bytes of all tables with their indexes, per task that ended."""
    async with made.runtime.store._connections.borrow() as connection:  # no part of the port says it
        sizes = "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c WHERE relkind = 'r' AND relnamespace = "
        size = await connection.raw.fetchval(sizes + "current_schema()::regnamespace")
        tasks = await connection.raw.fetchval("SELECT count(*) FROM tasks")
    return float(size) / float(tasks)


async def _round(servers: Servers, data: Path, environ: dict[str, str]) -> dict[str, Any]:
    async with dance(data, environ) as made:
        await warm_up(made)
        found: dict[str, Any] = {"windows": {}}
        for window, tasks in WINDOWS.items():
            print(f"{window} open", file=sys.stderr, flush=True)
            found["windows"][str(window)] = await closed_loop(made, window, tasks, servers)
        found["stored_bytes_per_task"] = await stored_bytes(made)
        found["lease_us"] = await lease_us(made)
        return found


def measure() -> dict[str, Any]:
    """All rounds, on servers of their own."""
    servers, repeats = Servers(), []
    try:
        for _ in range(ROUNDS):
            with tables(servers) as database, tempfile.TemporaryDirectory(prefix="gavotte-bench-") as name:
                repeats.append(asyncio.run(_round(servers, Path(name), settings(servers, database))))
        idle = idle_agents(servers)
    finally:
        servers.close()
    return {"machine": description(), "repeats": repeats, **idle}


if __name__ == "__main__":
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(measure(), indent=1) + "\n")
