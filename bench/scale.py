"""A small model of the distributed mode: how much of what so many tasks a day need, and what breaks first.

    python bench/scale.py            writes docs/scale.md from results/scale.json, which scale_points.py measures

The pipeline is a ring of five stations: the one who submits, and the four roles. A station takes what waits, all of it
together (at most `GROUP`), and works on it: a fixed cost and one for each, in CPU time of agents, broker and database
together, and a wait that takes no CPU (network, flush). All stations share the cores. So many tasks go round.

Two measured points fix the costs: one task that is alone, and as many as saturate the machine. The points between them
are predicted, and compared with what was measured there.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.machine import median  # noqa: E402  # the folder is no package: the root must be on the path first

RESULT = Path(__file__).with_name("results") / "scale.json"
STATIONS = 5
GROUP = 96
DONE = 3000
"""Tasks that the simulation sees end."""
DAY_SECONDS = 86_400
MILLISECOND = 1e-3

# -- the pipeline -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Costs:
    """In seconds: of a group and of each in it on a core, and of a group beside it; `cores` is what there is."""

    group: float
    each: float
    wait: float
    cores: float


@dataclass
class Station:
    """Who waits, who is at work, and how much CPU and waiting that work still takes."""

    queue: int = 0
    group: int = 0
    cpu: float = 0.0
    wait: float = 0.0


def tasks_per_second(costs: Costs, window: int) -> float:
    """How fast tasks go round when so many are open at any time."""
    stations = [Station() for _ in range(STATIONS)]
    stations[0].queue = window
    ended, clock = 0, 0.0
    while ended < DONE:
        for station in stations:
            if station.group == 0 and station.queue:
                station.group = min(station.queue, GROUP)
                station.queue -= station.group
                station.cpu, station.wait = costs.group + costs.each * station.group, costs.wait
        working = sum(station.cpu > 0 for station in stations)
        speed = min(1.0, costs.cores / working) if working else 1.0
        step = min(one.cpu / speed if one.cpu > 0 else one.wait for one in stations if one.group)
        clock += step
        for number, station in enumerate(stations):
            if station.group == 0:
                continue
            if station.cpu > 0:
                station.cpu = max(0.0, station.cpu - step * speed)
                station.cpu = 0.0 if station.cpu < 1e-12 else station.cpu
            else:
                station.wait -= step
            if station.cpu == 0 and station.wait <= 1e-12:
                stations[(number + 1) % STATIONS].queue += station.group
                ended += station.group if number == STATIONS - 1 else 0
                station.group = 0
    return ended / clock


@dataclass(frozen=True)
class Point:
    """What was measured with so many tasks open: medians of the rounds."""

    window: int
    rate: float
    cpu_ms: Mapping[str, float]
    """By part: agents, driver, postgres, broker; milliseconds per task."""
    others: float
    """The share of the machine that was busy with something else."""


def points(result: Mapping[str, Any]) -> list[Point]:
    """All of them, in the order of their windows."""
    names = {"agents": "cpu_ms_per_task", "driver": "driver_cpu_ms_per_task"}
    names |= {part: f"{part}_cpu_ms_per_task" for part in ("postgres", "broker")}
    found = []
    for window in sorted(map(int, result["repeats"][0]["windows"])):
        each = [one["windows"][str(window)] for one in result["repeats"]]

        def middle(name: str, each: list[dict[str, float]] = each) -> float:
            return median(one[name] for one in each)

        cpu = {part: middle(name) for part, name in names.items()}
        found.append(Point(window, middle("tasks_per_second"), cpu, middle("others_percent") / 100))
    return found


def fitted(measured: list[Point], cpus: int) -> Costs:
    """The costs from the first point and the last."""
    alone, full = measured[0], measured[-1]
    took = 1 / alone.rate / STATIONS
    visit = min(sum(alone.cpu_ms.values()) * MILLISECOND / STATIONS, took)  # some of it goes on beside the task
    wait = took - visit
    cores = cpus * (1 - full.others)
    low, high = 0.0, visit
    for _ in range(40):
        each = (low + high) / 2
        costs = Costs(visit - each, each, wait, cores)
        low, high = (each, high) if tasks_per_second(costs, full.window) > full.rate else (low, each)
    return costs


# -- sizes --------------------------------------------------------------------------------------------------------------

HANDLER_SECONDS: Final = 1200
HANDLERS: Final = 4
"""Of a task: each takes twenty minutes."""
PEAK: Final = 3.0
"""The busiest minutes over the average."""
BUSY: Final = 0.6
"""How much of a core may be in use at the peak."""
CONCURRENCY: Final = 64
"""`worker.concurrency` for handlers that mostly wait for a model."""
CONNECTIONS: Final = 4
RENEW_SECONDS: Final = 2
EVENTS: Final = 5
WIRE_BYTES: Final = 2300
RETENTION_SECONDS: Final = 7 * DAY_SECONDS
REPLICAS: Final = 3
STEPS: Final = 40
STEP_BYTES: Final = 4000
"""What a task with a model adds to the journal: an assumption, not a measurement."""
CORE_DOLLARS: Final = 30.0
GIGABYTE_DOLLARS: Final = 0.1
MEMORY_DOLLARS: Final = 3.0
"""Of a core, of a gigabyte of disk and of one of memory, for a month: prices change, the proportions less."""


@dataclass(frozen=True)
class Sizing:
    """What so many tasks a day need, at their peak."""

    tasks_per_day: int
    tasks_per_second: float
    open_handlers: int
    agents_per_role: int
    partitions: int
    connections: int
    agent_cores: float
    broker_cores: float
    postgres_cores: float
    lease_cores: float
    events_per_second: float
    postgres_gigabytes_per_day: float
    kafka_gigabytes: float
    dollars_per_month: float


def sizing(tasks_per_day: int, full: Point, stored_bytes: float, lease_us: float, megabytes: float) -> Sizing:
    """From costs per task; `full` is the point that saturates, where groups are large."""
    rate = tasks_per_day / DAY_SECONDS * PEAK
    per_role = rate * HANDLER_SECONDS
    agents = max(1, math.ceil(per_role / CONCURRENCY))
    cpu = {part: rate * milliseconds * MILLISECOND / BUSY for part, milliseconds in full.cpu_ms.items()}
    leases = per_role * HANDLERS / RENEW_SECONDS * lease_us * 1e-6 / BUSY
    steps = rate * STEPS * 2 * full.cpu_ms["postgres"] * MILLISECOND / STATIONS / BUSY
    postgres = cpu["postgres"] + steps
    daily = tasks_per_day * (stored_bytes + STEPS * STEP_BYTES) / 1e9
    kafka = tasks_per_day / DAY_SECONDS * EVENTS * WIRE_BYTES * RETENTION_SECONDS * REPLICAS / 1e9
    cores = cpu["agents"] + cpu["broker"] * REPLICAS + postgres + leases
    memory = agents * HANDLERS * megabytes / 1000
    dollars = cores * CORE_DOLLARS + memory * MEMORY_DOLLARS + (kafka + daily * 30) * GIGABYTE_DOLLARS
    return Sizing(
        tasks_per_day=tasks_per_day,
        tasks_per_second=rate,
        open_handlers=math.ceil(per_role * HANDLERS),
        agents_per_role=agents,
        partitions=max(8, 1 << math.ceil(math.log2(agents * 2))),
        connections=agents * HANDLERS * CONNECTIONS,
        agent_cores=cpu["agents"],
        broker_cores=cpu["broker"] * REPLICAS,
        postgres_cores=postgres,
        lease_cores=leases,
        events_per_second=rate * EVENTS,
        postgres_gigabytes_per_day=daily,
        kafka_gigabytes=kafka,
        dollars_per_month=dollars,
    )


def main() -> int:
    from bench.scale_page import page

    (ROOT / "docs" / "scale.md").write_text(page(json.loads(RESULT.read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
