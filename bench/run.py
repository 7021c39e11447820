"""`python bench/run.py`: do-nothing tasks through four real agent processes, beside the bare SQLite log in the same run.

Ours keeps every promise as shipped (WAL, synchronous FULL, inbox, fold, hash chain, views). Both are measured in turn,
several times; medians and ratios are printed, or everything as JSON with `--json`. Absolute figures belong to one
machine at one hour: only the ratios of one run mean anything.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench import reference_sqlite  # noqa: E402  # the folder is no package: the root must be on the path first
from bench.machine import bytes_below, cpu_seconds, percentile, resident_megabytes  # noqa: E402
from contracts.envelope import Event, root  # noqa: E402
from contracts.events import (  # noqa: E402
    Body,
    ChangeProposed,
    PlanProposed,
    ProductionDeployed,
    ReviewPassed,
    StagingDeployed,
    TaskSubmitted,
    TaskSucceeded,
)

TEXT = "x" * 1500
ROLES = ("planning", "coding", "review", "deploy")
BURST = 50
SECONDS_MAX = 120.0


async def planning(event: Event, _state: Any, _tools: Any) -> list[Event]:
    return [event.cause(PlanProposed(summary=TEXT, base_commit="base"))]


async def coding(event: Event, _state: Any, _tools: Any) -> list[Event]:
    diff = Body(digest="sha256:0", size_bytes=0)
    change = ChangeProposed(
        revision=1, base_commit="base", head_commit="head", branch="b", digest="d", diff=diff, summary=TEXT
    )
    return [event.cause(change)]


async def review(event: Event, _state: Any, _tools: Any) -> list[Event]:
    return [event.cause(ReviewPassed(revision=1, head_commit="head", digest="d", summary=TEXT))]


async def deploy(event: Event, _state: Any, _tools: Any) -> list[Event]:
    return [
        event.cause(StagingDeployed(digest="d", commit="head", path="p", effect_key="k", health=TEXT)),
        event.cause(ProductionDeployed(digest="d", commit="head", path="p", effect_key="k")),
        event.cause(TaskSucceeded(digest="d", commit="head")),
    ]


async def agent(role: str, data: Path, member: str = "") -> None:
    """One of the four processes: the real runner around a role that does nothing; `member` as in `Runner`."""
    from agents.runner import Runner
    from agents.settings import load_settings
    from agents.wiring import open_runtime, pace_of
    from embedded.liveness import Presence

    runtime = await open_runtime(load_settings(data=data))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    holder = f"{role}-{os.getpid()}"
    handle = {"planning": planning, "coding": coding, "review": review, "deploy": deploy}[role]
    runner = Runner(
        runtime.topology.agent(role),
        handle,
        lambda _session: None,
        store=runtime.store,
        bus=runtime.bus,
        codec=runtime.codec,
        topology=runtime.topology,
        keyring=runtime.keyring,
        holder=holder,
        member=member,
        pace=dataclasses.replace(pace_of(runtime.settings), concurrency=256),
        ready=lambda: print("ready", flush=True),
    )
    with Presence(runtime.settings.run, holder):
        await runner.run(stop)
    await runtime.close()


async def measure(tasks: int, idle_tasks: int) -> dict[str, float]:
    """Ours, once, in a data folder of its own."""
    with tempfile.TemporaryDirectory(prefix="gavotte-bench-") as name:
        data = Path(name)
        from agents.settings import load_settings
        from agents.wiring import open_runtime

        runtime = await open_runtime(load_settings(data=data))
        workers = [
            subprocess.Popen([sys.executable, __file__, "--agent", role, name], stdout=subprocess.PIPE)  # noqa: ASYNC220
            for role in ROLES
        ]
        try:
            for worker in workers:
                assert worker.stdout is not None
                await asyncio.to_thread(worker.stdout.readline)
            return await drive(runtime, [worker.pid for worker in workers], tasks, idle_tasks, data)
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.wait()  # they are ending, and nothing else runs
            await runtime.close()


async def drive(runtime: Any, pids: list[int], tasks: int, idle_tasks: int, data: Path) -> dict[str, float]:
    """Single tasks on an idle system, then a burst, then nothing, then the replay."""
    from agents.wiring import announce
    from state_store.port import Encoded

    def submission() -> Encoded:
        fields = {"repository": "r", "project_id": "p", "project_digest": "d", "base_commit": "base"}
        event = root(TaskSubmitted.model_validate({"title": "t", "description": TEXT, **fields}))
        return Encoded(event, runtime.codec.encode_payload(event.payload))

    async def done() -> int:
        query = "SELECT count(*) FROM tasks WHERE status = 'succeeded'"
        return int(await runtime.database.read(lambda conn: conn.execute(query).fetchone()[0]))

    async def finished(count: int, pause_seconds: float) -> None:
        deadline = time.monotonic() + SECONDS_MAX
        while await done() < count:
            if time.monotonic() > deadline:
                raise SystemExit(f"only {await done()} of {count} tasks ended within {SECONDS_MAX:g} s")
            await asyncio.sleep(pause_seconds)

    latencies = []
    for number in range(idle_tasks + 20):
        encoded, began = submission(), time.perf_counter()
        await announce(runtime, await runtime.store.append([encoded]))
        await finished(number + 1, 0.0005)
        if number >= 20:
            latencies.append((time.perf_counter() - began) * 1000)
    before = await done()
    ready = [submission() for _ in range(tasks)]
    cpu, began = cpu_seconds(pids), time.perf_counter()
    for index in range(0, tasks, BURST):
        await announce(runtime, await runtime.store.append(ready[index : index + BURST]))
    await finished(before + tasks, 0.02)
    seconds, used = time.perf_counter() - began, cpu_seconds(pids) - cpu
    cpu = cpu_seconds(pids)
    await asyncio.sleep(3)
    idle = (cpu_seconds(pids) - cpu) / 3 * 100
    memory = statistics.mean(resident_megabytes(pid) for pid in pids)
    began = time.perf_counter()
    events = (await runtime.store.statistics())["events"]
    await runtime.store.rebuild_views()
    return {
        "tasks_per_second": tasks / seconds,
        "cpu_ms_per_task": used / tasks * 1000,
        "idle_p50_ms": percentile(latencies, 50),
        "idle_p99_ms": percentile(latencies, 99),
        "idle_cpu_percent": idle,
        "agent_megabytes": memory,
        "stored_bytes_per_task": bytes_below(data) / (before + tasks),
        "rebuild_events_per_second": events / (time.perf_counter() - began),
    }


def main() -> int:
    """Interleaved rounds of ours and the reference; exit 0 when both were measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--idle-tasks", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    ours, reference = [], []
    for number in range(chosen.rounds):
        print(f"round {number + 1} of {chosen.rounds}", file=sys.stderr)
        ours.append(asyncio.run(measure(chosen.tasks, chosen.idle_tasks)))
        reference.append(reference_sqlite.measure(chosen.tasks, chosen.idle_tasks))
    median = {name: statistics.median(one[name] for one in ours) for name in ours[0]}
    bare = {name: statistics.median(one[name] for one in reference) for name in reference[0]}
    ratios = {name: value / bare[name] for name, value in median.items() if bare.get(name)}
    if chosen.json:
        print(json.dumps({"ours": ours, "bare_sqlite_log": reference, "median": median, "ratio": ratios}, indent=1))
        return 0
    print(f"{'':28}{'gavotte':>12}{'bare log':>12}{'ratio':>8}")
    for name, value in median.items():
        other = f"{bare[name]:12.2f}{ratios[name]:8.2f}" if name in ratios else ""
        print(f"{name.replace('_', ' '):28}{value:12.2f}{other}")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--agent"]:
        asyncio.run(agent(sys.argv[2], Path(sys.argv[3]), *sys.argv[4:]))
        sys.exit(0)
    sys.exit(main())
