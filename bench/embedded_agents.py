"""Ours, embedded: four agent processes over one file."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.dance import WARM_UP, dance
from bench.machine import bytes_below, latencies, resident_megabytes

RESTING_SECONDS = 3.0


def measure(tasks: int, idle_tasks: int) -> dict[str, float]:
    """Throughput of a burst, latency of single tasks, CPU, memory and bytes; once, in a folder of its own."""
    return asyncio.run(_measure(tasks, idle_tasks))


async def _measure(tasks: int, idle_tasks: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="gavotte-bench-") as name:
        data = Path(name)
        async with dance(data) as made:
            spent = await made.idle_latencies(idle_tasks)
            figures = await made.burst(tasks) | latencies(spent)
            figures["resting_cpu_percent"] = await made.resting(RESTING_SECONDS)
            figures["megabytes"] = statistics.mean(map(resident_megabytes, made.pids))
        figures["stored_bytes_per_task"] = bytes_below(data) / (tasks + idle_tasks + WARM_UP)
        return figures


def traced(tasks: int) -> dict[str, float]:
    """The burst with spans sent to a collector, batched and limited as shipped."""
    collector = [sys.executable, str(Path(__file__).with_name("collector.py"))]
    with subprocess.Popen(collector, stdout=subprocess.PIPE, text=True) as sink:
        try:
            assert sink.stdout is not None
            address = sink.stdout.readline().strip()
            return asyncio.run(_burst(tasks, {"OTEL_EXPORTER_OTLP_ENDPOINT": address}))
        finally:
            sink.terminate()


async def _burst(tasks: int, environ: dict[str, str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="gavotte-traced-") as name:
        async with dance(Path(name), environ) as made:
            await made.burst(WARM_UP)
            return await made.burst(tasks)
