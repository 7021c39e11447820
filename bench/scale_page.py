"""Writes docs/scale.md from the measured points: what the model says, how far it is off, and what breaks first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench import scale
from bench.machine import median
from bench.scale import Point, Sizing

DAILY = (10**4, 10**6, 10**8)
SERVER_CORES = 16
USUAL_CONNECTIONS = 100
USUAL_PARTITIONS = 8

HEAD = """# Scale: what so many tasks a day need

Written by `python bench/scale.py` from `bench/results/scale.json`; edit those. How fast one machine is stands on
[performance](performance.md); this page carries that on to machines that nobody here has: a model, fitted to measured points and
checked against others. Take the figures as the order of magnitude, and the order in which things break as the result.

## The model, and how far it is off

{description}

Two points fix its costs: one task that is alone, and {full} open at once, which saturates the {cpus} cores. Found: {group:.1f} ms
of CPU for a group and {each:.2f} ms for each delivery in it, over agents, broker and database together, and {wait:.1f} ms of waiting.
That a group costs as much as {ratio:.0f} deliveries is why everything here takes what is there together, and waits for no more to come.

"""
DESCRIPTION = """The way of a task is a ring of five stations: who submits, and the four roles. A station takes what waits, all
of it together, and pays a fixed cost for the group and one for each in it; all stations share the cores. So many tasks go round at
once. (`bench/scale.py` is some hundred lines.)"""

SIZES = """
## Sizes

Each of a task's {handlers} handlers takes twenty minutes, of which it mostly waits for a model; the peak is {peak:g} times the average;
a process handles {concurrency} tasks side by side (`worker.concurrency`), a core is at most {busy:.0%} busy, Kafka keeps
{replicas} replicas for a week. Measured: CPU per task, {stored:.0f} kB in PostgreSQL for the five events with inbox, views and
indexes, {lease:.0f} µs to renew a lease, {megabytes:.0f} MB for an agent. Assumed: {steps} steps of {step_kb:g} kB in the journal of a task,
and for a month {core:g} dollars for a core, {memory:g} for a GB of memory, {disk:g} for a GB of disk, with thirty days kept. The models
themselves, and the CPU of tests that handlers run, come on top; both dwarf all of this.

"""
BREAKS = """
## What breaks first, and what then

In the order in which it happens; tasks per day by the same model.

| at tasks per day | what | then |
|-|-|-|
"""
TAIL = """
What the model leaves out: replicas of the database and the network between machines (they add to the waiting, not to the CPU), vacuum,
and that keys do not spread evenly: with few tasks per partition the fullest one is the slowest.
"""


def page(result: Mapping[str, Any]) -> str:
    """The whole page."""
    measured = scale.points(result)
    cpus = int(result["machine"]["cpus"])
    stored = median(one["stored_bytes_per_task"] for one in result["repeats"])
    lease_us = median(one["lease_us"] for one in result["repeats"])
    costs = scale.fitted(measured, cpus)
    head = HEAD.format(
        description=DESCRIPTION,
        full=measured[-1].window,
        cpus=cpus,
        group=costs.group * 1000,
        each=costs.each * 1000,
        wait=costs.wait * 1000,
        ratio=costs.group / costs.each,
    )
    sizes = SIZES.format(
        handlers=scale.HANDLERS,
        peak=scale.PEAK,
        concurrency=scale.CONCURRENCY,
        busy=scale.BUSY,
        replicas=scale.REPLICAS,
        stored=stored / 1000,
        lease=lease_us,
        megabytes=result["idle_megabytes"],
        steps=scale.STEPS,
        step_kb=scale.STEP_BYTES / 1000,
        core=scale.CORE_DOLLARS,
        memory=scale.MEMORY_DOLLARS,
        disk=scale.GIGABYTE_DOLLARS,
    )

    def sized(tasks_per_day: int) -> Sizing:
        return scale.sizing(tasks_per_day, measured[-1], stored, lease_us, result["idle_megabytes"])

    return (
        head
        + _check(measured, costs)
        + sizes
        + _table([sized(daily) for daily in DAILY])
        + BREAKS
        + _breaks(sized, measured[-1])
        + TAIL
    )


def _check(measured: Sequence[Point], costs: scale.Costs) -> str:
    lines = ["| tasks open | measured, tasks/s | model | |", "|-:|-:|-:|-|"]
    for point in measured:
        said = scale.tasks_per_second(costs, point.window)
        off = "fitted" if point in (measured[0], measured[-1]) else f"predicted, {said / point.rate - 1:+.0%}"
        lines.append(f"| {point.window} | {point.rate:.0f} | {said:.0f} | {off} |")
    return "\n".join(lines) + "\n"


def _table(sizes: Sequence[Sizing]) -> str:
    rows: list[tuple[str, Callable[[Sizing], str]]] = [
        ("tasks per day", lambda one: f"{one.tasks_per_day:,}"),
        ("tasks per second at the peak", lambda one: _short(one.tasks_per_second)),
        ("handlers open at once", lambda one: _short(one.open_handlers)),
        ("agent processes per role", lambda one: _short(one.agents_per_role)),
        ("partitions of each topic", lambda one: _short(one.partitions)),
        ("connections to PostgreSQL", lambda one: _short(one.connections)),
        ("cores: agents, beside what handlers do", lambda one: _short(one.agent_cores)),
        ("cores: brokers", lambda one: _short(one.broker_cores)),
        ("cores: PostgreSQL, deliveries and journal", lambda one: _short(one.postgres_cores)),
        ("cores: PostgreSQL, leases", lambda one: _short(one.lease_cores)),
        ("events per second", lambda one: _short(one.events_per_second)),
        ("PostgreSQL grows by, GB per day", lambda one: _short(one.postgres_gigabytes_per_day)),
        ("Kafka holds, GB", lambda one: _short(one.kafka_gigabytes)),
        ("dollars per month", lambda one: _short(one.dollars_per_month)),
    ]
    lines = []
    for number, (name, shown) in enumerate(rows):
        lines.append(f"| {name} | " + " | ".join(map(shown, sizes)) + " |")
        if number == 0:
            lines.append("|-|" + "-:|" * len(sizes))
    return "\n".join(lines) + "\n"


def _breaks(sized: Callable[[int], Sizing], full: Point) -> str:
    log_rate = 1000 / (full.cpu_ms["postgres"] / scale.STATIONS)
    rows = [
        (
            lambda one: one.agents_per_role * scale.HANDLERS * scale.CONNECTIONS > USUAL_CONNECTIONS,
            f"PostgreSQL as installed has {USUAL_CONNECTIONS} connections, a process opens up to {scale.CONNECTIONS}",
            (
                "`store.connections = 2` and a larger `max_connections`; fewer processes with more tasks side by side. A pooler saves "
                "nothing: it must work by session, since statements are prepared"
            ),
        ),
        (
            lambda one: one.agents_per_role > USUAL_PARTITIONS,
            f"{USUAL_PARTITIONS} partitions feed at most {USUAL_PARTITIONS} processes of a role",
            (
                "`bus.partitions` before the topics are made, since keys keep their partition; later a new `bus.prefix`, and the sweep "
                "brings over what is open. More tasks side by side in a process are cheaper than more processes"
            ),
        ),
        (
            lambda one: one.postgres_gigabytes_per_day * 30 > 1000,
            "a month of records is more than a terabyte",
            (
                "`gavotte prune` empties the journals of ended tasks; ended streams can be copied with their proof (`gavotte audit "
                "export`), and kept elsewhere; to drop them here takes tables partitioned by time, which is not built. Kafka's side ends by itself after "
                "`bus.retention_hours`, or moves to tiered storage"
            ),
        ),
        (
            lambda one: one.postgres_cores + one.lease_cores > SERVER_CORES,
            f"the leases of open handlers, renewed every {scale.RENEW_SECONDS} s, and all else, fill a server of {SERVER_CORES} cores",
            (
                "split the tasks: each share has a database and a `bus.prefix` of its own, and tasks never meet, so that nothing else "
                "changes. What it takes on our side to go further on one server: one lease for a process instead of one for a task"
            ),
        ),
        (
            lambda one: one.events_per_second > log_rate,
            f"one process at a time appends to the log, which is what one core of the server does: {_short(log_rate)} events a second",
            "the same split: each database has a log of its own",
        ),
        (
            lambda one: one.partitions * 6 > 200_000,
            "topics and partitions are more than one Kafka cluster carries",
            "a cluster for each share, too",
        ),
    ]
    found = [(_first(sized, broken), what, then) for broken, what, then in rows]
    return "".join(f"| {_short(at)} | {what} | {then} |\n" for at, what, then in sorted(found))


def _first(sized: Callable[[int], Sizing], broken: Callable[[Sizing], bool]) -> int:
    """The tasks per day, in steps of a tenth, at which it breaks."""
    daily = 1000.0
    while not broken(sized(int(daily))) and daily < 1e12:
        daily *= 1.1
    return int(daily)


def _short(value: float) -> str:
    """Two digits that count: nobody can tell more."""
    if value < 0.1:
        return "under 0.1"
    if value < 10:
        return f"{value:.1f}".removesuffix(".0")
    digits = len(str(int(value))) - 2
    return f"{round(value, -digits):,.0f}"
