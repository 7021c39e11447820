"""Where the time of a hop goes, embedded: the stops of four agents over one burst, microseconds of one delivery."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path

from bench.dance import dance
from bench.job import HOPS
from bench.stops import STOPS, VARIABLE


def measure(tasks: int) -> dict[str, float]:
    """Microseconds per delivery at each stop; the journal of a role that takes one step, in a burst of its own."""
    plain, stepping = asyncio.run(_spent(tasks, {})), asyncio.run(_spent(tasks // 4, {"GAVOTTE_BENCH_STEPS": "1"}))
    return plain | {"journal_us": stepping["journal_us"]}


async def _spent(tasks: int, environ: dict[str, str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="gavotte-stops-") as name:
        into = Path(name)
        async with dance(into / "data", {VARIABLE: name, **environ}) as made:
            figures = await made.burst(tasks)
        found = [json.loads(path.read_text()) for path in into.glob("stops-*.json")]
    deliveries = sum(each["deliveries"] for each in found)
    spent = {f"{stop}_us": sum(each["stops_ns"][stop] for each in found) / deliveries / 1000 for stop in STOPS}
    working = sum(us for name, us in spent.items() if name != "flush_us")
    whole = figures["cpu_ms_per_task"] * 1000 / len(HOPS)
    return spent | {"between_us": whole - working, "whole_us": whole}
