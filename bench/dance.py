"""Ours at the job: real agent processes with do-nothing roles, and one who submits tasks and watches their ends go by.

Works on every bus and store: `environ` has the `GAVOTTE_*` variables that name them; with none it is the embedded mode.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.job import HOPS, TEXT
from bench.machine import Meter, cpu_seconds

BURST = 50
SECONDS_MAX = 180.0
WARM_UP = 20
"""Tasks that are done before any is measured."""
SETTINGS = {"GAVOTTE_WORKER__CONCURRENCY": "512"}
"""The one setting that is not the default: how many tasks a process handles side by side. Handlers that do nothing may
be many; those that run tests or ask models are 8."""
PROGRAM = Path(__file__).with_name("roles.py")


class Dance:
    """The agents, and the one who submits. `runtime` is the driver's own; `pids` are those of the agents."""

    def __init__(self, runtime: Any, agents: Sequence[subprocess.Popen[bytes]] = ()) -> None:
        self.runtime = runtime
        self.agents = agents
        self.subscription: Any = None
        self._read: dict[tuple[str, int], int] = {}

    @property
    def pids(self) -> list[int]:
        return [agent.pid for agent in self.agents]

    def submission(self, title: str = "t") -> Any:
        """A task's first event, encoded."""
        from contracts.envelope import root
        from contracts.events import TaskSubmitted
        from state_store.port import Encoded

        fields = {"repository": "r", "project_id": "p", "project_digest": "d", "base_commit": "base"}
        event = root(TaskSubmitted.model_validate({"title": title, "description": TEXT, **fields}))
        return Encoded(event, self.runtime.codec.encode_payload(event.payload))

    async def submit(self, made: Sequence[Any]) -> None:
        """The record first, then the news."""
        from agents.wiring import announce

        await announce(self.runtime, await self.runtime.store.append(made))

    async def ended(self, count: int) -> None:
        """Wait until so many more tasks have ended; SystemExit where they do not."""
        deadline = time.monotonic() + SECONDS_MAX
        while count > 0:
            records = await self._fetch(1.0)
            count -= sum(type_of(record) == "TaskFailed" for record in records)
            if time.monotonic() > deadline:
                raise SystemExit(f"{count} tasks did not end within {SECONDS_MAX:g} s")

    async def watch(self) -> None:
        """Begin to see ends; those of earlier dances in the same place are passed over."""
        from bus.port import Consumer
        from contracts.topology import topic_of

        self.subscription = await self.runtime.bus.subscribe(Consumer("bench", "bench", (topic_of("deploy"),)))
        while await self._fetch(0.1):
            pass
        await self.subscription.commit(self._read)

    async def _fetch(self, seconds: float) -> list[Any]:
        records: list[Any] = await self.subscription.fetch(1000, seconds)
        self._read |= {(record.topic, record.partition): record.offset + 1 for record in records}
        return records

    async def idle_latencies(self, count: int) -> list[float]:
        """Milliseconds of single tasks on a system that does nothing else."""
        spent = []
        for number in range(count + WARM_UP):
            made = self.submission()
            began = time.perf_counter()
            await self.submit([made])
            await self.ended(1)
            if number >= WARM_UP:
                spent.append((time.perf_counter() - began) * 1000)
        return spent

    async def burst(self, tasks: int, meter: Callable[[list[int]], Any] = Meter) -> dict[str, float]:
        """So many tasks as fast as they go: rates and costs of the agents, by a meter that is made of their pids."""
        ready = [self.submission() for _ in range(tasks)]
        costs = meter(self.pids)
        for index in range(0, tasks, BURST):
            await self.submit(ready[index : index + BURST])
        await self.ended(tasks)
        found: dict[str, float] = costs.per(tasks)
        return found

    async def resting(self, seconds: float) -> float:
        """CPU of all agents together while nothing happens, in percent of one core."""
        before = cpu_seconds(self.pids)
        await asyncio.sleep(seconds)
        return (cpu_seconds(self.pids) - before) / seconds * 100


def type_of(record: Any) -> str | None:
    """The event's type: a bus that shares no file with the store has it in the headers alone."""
    from contracts.codec import type_in

    return record.envelope.type if record.envelope is not None else type_in(record.headers)


@contextlib.asynccontextmanager
async def dance(data: Path, environ: Mapping[str, str] | None = None, *, each: int = 1) -> AsyncIterator[Dance]:
    """All started, `each` processes of a role, and all ended at the end."""
    from agents.settings import load_settings
    from agents.wiring import open_runtime

    variables = {**os.environ, **SETTINGS, **(environ or {})}
    runtime = await open_runtime(load_settings(data=data, environ=variables))
    started: list[subprocess.Popen[bytes]] = []
    made = Dance(runtime, started)
    try:
        for role in HOPS * each:
            command = [sys.executable, str(PROGRAM), role, str(data)]
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE, env=variables))  # noqa: ASYNC220  # it does not wait
        for agent in started:
            assert agent.stdout is not None
            if not await asyncio.to_thread(agent.stdout.readline):
                raise SystemExit(f"an agent ended with {agent.wait()}")
        await made.watch()
        yield made
        await made.subscription.commit(made._read)
    finally:
        for agent in started:
            agent.terminate()
        for agent in started:
            agent.wait()
        await runtime.close()
