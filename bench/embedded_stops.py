"""Where the time of a hop goes, embedded: the stops of four agents over one burst, microseconds of one delivery."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from bench import stops
from bench.dance import dance


def measure(tasks: int) -> dict[str, float]:
    """Microseconds per delivery at each stop; the journal of a role that takes one step, in a burst of its own."""
    plain, stepping = asyncio.run(_spent(tasks, {})), asyncio.run(_spent(tasks // 4, stops.STEPPING))
    return plain | {"journal_us": stepping["journal_us"]}


async def _spent(tasks: int, environ: dict[str, str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="gavotte-stops-") as name:
        into = Path(name)
        async with dance(into / "data", {stops.VARIABLE: name, **environ}) as made:
            figures = await made.burst(tasks)
        return stops.found(into, figures["cpu_ms_per_task"])
