"""How ours grows: events in the store, partitions, processes of a role, long handlers, and reading a log of a million.

The large store is made once, by the agents themselves, and kept in the cache folder of the bench.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.dance import dance
from bench.environments import folder
from bench.goals import Figures, Goal, Size
from bench.machine import latencies
from bench.roles import LONG

PEERS: tuple[str, ...] = ()
GOALS = (
    Goal(
        "16",
        "tasks/s with 10^6 events, over 10^3",
        ("events_1000000", "tasks_per_second"),
        ("events_1000", "tasks_per_second"),
        0.9,
        1.0,
    ),
)
ABOUT = {
    "events_1000": "a store with a thousand events before the burst",
    "events_100000": "the same with a hundred thousand",
    "events_1000000": "the same with a million",
    "partitions_1": "one partition: one process of a role may read",
    "processes_2": "two processes of each role, eight partitions",
    "processes_4": "four of each, sixteen processes on this machine",
    "long_1": "a task waits in a long handler of the first role while the burst goes through",
    "long_100": "a hundred tasks wait so",
    "million": "reading a log of a million events: seconds of `gavotte` commands, events per second of replay and rebuild",
}
EVENTS_PER_TASK = 5
CHUNK = 10_000
FEW = 1000
"""Events of a burst before the one that is measured."""
SETTLE_SECONDS = 1.0
"""In which the first sweep of each agent is over."""


def systems_of(size: Size) -> dict[str, Callable[[], Figures]]:
    million = 1_000_000 if size.tasks >= 4000 else size.tasks * 25
    return {
        "events_1000": lambda: burst(size, fresh=1000),
        "events_100000": lambda: burst(size, kept=million // 10),
        "events_1000000": lambda: burst(size, kept=million),
        "partitions_1": lambda: burst(size, {"GAVOTTE_BUS__PARTITIONS": "1"}),
        "processes_2": lambda: burst(size, each=2),
        "processes_4": lambda: burst(size, each=4),
        "long_1": lambda: burst(size, long=1),
        "long_100": lambda: burst(size, long=100),
        "million": lambda: reading(million),
    }


@contextlib.contextmanager
def systems(size: Size) -> Iterator[dict[str, Callable[[], Figures]]]:
    """name -> one measurement; the large stores are made first, so that no round waits for them."""
    yield systems_of(size)


def burst(
    size: Size,
    environ: Mapping[str, str] | None = None,
    *,
    each: int = 1,
    long: int = 0,
    fresh: int = 0,
    kept: int = 0,
) -> Figures:
    """The job on a store with some events in it: `fresh` ones made now, or `kept` ones from the cache."""
    return asyncio.run(_burst(size, {**(environ or {})}, each, long, fresh, kept))


async def _burst(size: Size, environ: dict[str, str], each: int, long: int, fresh: int, kept: int) -> Figures:
    with contextlib.ExitStack() as stack:
        if kept:
            data = await history(kept)
        else:
            data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="growth-", dir=near())))
        if long:
            environ["GAVOTTE_WORKER__STOP_SECONDS"] = "0.5"
        async with dance(data, environ, each=each) as made:
            await asyncio.sleep(SETTLE_SECONDS)
            await made.burst(max(fresh, FEW) // EVENTS_PER_TASK)
            if long:
                await made.submit([made.submission(LONG) for _ in range(long)])
                await asyncio.sleep(1.0)
            figures = await made.burst(size.tasks // 2)
            if each == 1 and not long:
                figures |= latencies(await made.idle_latencies(size.idle_tasks // 4))
        return figures


def near() -> Path:
    """Beside the large stores: on the same disk."""
    folder().mkdir(parents=True, exist_ok=True)
    return folder()


async def history(events: int) -> Path:
    """A data folder with so many events, made by agents where it is not there yet."""
    home = folder() / f"events-{events}"
    done = home / "complete"
    if not done.exists():
        print(f"making a store of {events} events in {home}", file=sys.stderr, flush=True)
        async with dance(home / "data") as made:
            left = events // EVENTS_PER_TASK - (await made.runtime.store.statistics())["events"] // EVENTS_PER_TASK
            while left > 0:
                await made.burst(min(left, CHUNK))
                left -= CHUNK
        done.touch()
    return home / "data"


def reading(events: int) -> Figures:
    """What reads the whole log: envelopes, full decoding, rebuilding, and the commands of people."""
    return asyncio.run(_reading(events))


async def _reading(events: int) -> Figures:
    from agents.settings import load_settings
    from agents.wiring import open_runtime
    from bench import embedded_store

    data = await history(events)
    runtime = await open_runtime(load_settings(data=data))
    try:
        figures = await embedded_store.reading(runtime)
        (task, *_) = await runtime.store.tasks(_newest())
    finally:
        await runtime.close()
    for name, words in {
        "tasks": ["tasks"],
        "show": ["show", task.state.task_id],
        "at": ["at", task.state.task_id, "--event", "3"],
    }.items():
        figures[f"{name}_seconds"] = _command(data, *words)
    figures["empty_command_seconds"] = _command(data, "--version")
    return figures


def _newest() -> Any:
    from state_store.port import TaskFilter

    return TaskFilter(limit=1)


def _command(data: Path, *words: str) -> float:
    """Seconds of one `gavotte` command, start-up of the interpreter included."""
    began = time.perf_counter()
    command = [sys.executable, "-P", "-m", "console.cli.main", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "GAVOTTE_DATA": str(data)})
    return time.perf_counter() - began
