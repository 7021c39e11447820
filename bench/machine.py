"""What the kernel says of processes and of the machine, and small statistics over repeats."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes so far; those that are gone count nothing."""
    total = 0.0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
    return total


def busy_seconds() -> float:
    """CPU time that the whole machine has spent on anything so far."""
    user, nice, system, _, _, irq, soft, *_ = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:])
    return (user + nice + system + irq + soft) / TICKS_PER_SECOND


class Meter:
    """CPU and wall time of processes over a while, and the share of the machine that others took meanwhile."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.pids = list(pids)
        self._cpu, self._own, self._busy = cpu_seconds(self.pids), time.process_time(), busy_seconds()
        self._began = time.perf_counter()

    def per(self, count: int) -> dict[str, float]:
        """Rates and costs for so many tasks since the beginning."""
        seconds = time.perf_counter() - self._began
        cpu, own = cpu_seconds(self.pids) - self._cpu, time.process_time() - self._own
        foreign = max(0.0, busy_seconds() - self._busy - cpu - own) / seconds / (os.cpu_count() or 1)
        return {
            "tasks_per_second": count / seconds,
            "cpu_ms_per_task": cpu / count * 1000,
            "driver_cpu_ms_per_task": own / count * 1000,
            "others_percent": foreign * 100,
        }


def resident_megabytes(pid: int) -> float:
    """Resident memory of a process, in units of 10^6 bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def bytes_below(folder: Path) -> int:
    """Size of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which this percentage lies, by nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]


def latencies(milliseconds: Sequence[float]) -> dict[str, float]:
    """The three percentiles of idle tasks."""
    return {f"idle_p{percent}_ms": percentile(milliseconds, percent) for percent in (50, 95, 99)}


def median(values: Iterable[float]) -> float:
    """The middle of the repeats."""
    return statistics.median(values)


def description() -> dict[str, str]:
    """The machine and versions that the figures belong to."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return {
        "processor": model,
        "cpus": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "load_average": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }
