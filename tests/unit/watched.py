"""A small dance in one process for the tests of telemetry: two roles whose handlers a test gives, and a client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from agents.exposure import place_of
from agents.observed import Observer
from agents.runner import Pace, Runner
from agents.session import Outcome, Session
from agents.settings import load_settings
from agents.telemetry import Metrics, Telemetry, Tracing
from agents.wiring import Runtime, announce, open_runtime
from contracts.envelope import Event, root
from contracts.events import PlanProposed, TaskFailed, TaskSubmitted
from state_store.port import Encoded

Handle = Callable[[Event, Any, Any], Awaitable[list[Event]]]
FAST = Pace(sweep_seconds=0.3)
DEADLINE_SECONDS = 30.0
SUBMITTED = TaskSubmitted(
    title="t", repository="/r", project_id="p", project_digest="sha256:0", base_commit="0" * 40, author="patch"
)


class Kept(SpanExporter):
    """An exporter that keeps the spans."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += spans
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


@dataclass
class Dance:
    """The parts of a dance that is under way; `kept` has its spans once `settle` was called."""

    runtime: Runtime
    kept: Kept
    watchers: dict[str, Telemetry] = field(default_factory=dict)

    def watcher(self, role: str, environ: dict[str, str] | None = None) -> Telemetry:
        """The telemetry of an agent that exports into `kept`."""
        place = place_of(self.runtime, role, f"gavotte.{role}", f"{role}-1")
        self.watchers[role] = Telemetry(place, Tracing(place, environ or {}, self.kept), Metrics(place))
        return self.watchers[role]

    async def submit(self, traceparent: str = "") -> Event:
        """A submission of a client that exports no spans, or has a trace of its own."""
        event = root(SUBMITTED)
        if traceparent:
            event = Event(event.envelope._replace(traceparent=traceparent), event.payload)
        encoded = Encoded(event, self.runtime.codec.encode_payload(event.payload))
        await announce(self.runtime, await self.runtime.store.append([encoded]))
        return event

    async def ended(self, task_id: str) -> None:
        """Wait until the task is over and everybody has said so."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while (row := await self.runtime.store.task(task_id)) is None or row.state.status != "failed":
                await asyncio.sleep(0.02)

    def settle(self) -> list[ReadableSpan]:
        """All spans so far."""
        for watcher in self.watchers.values():
            watcher.settle()
            if watcher.tracing is not None:
                watcher.tracing.flush()
        return self.kept.spans

    @contextlib.asynccontextmanager
    async def runs(self, role: str, handle: Handle, observer: Observer | None) -> AsyncIterator[None]:
        """One agent at work."""
        parts, stop = self.runtime, asyncio.Event()
        runner = Runner(
            parts.topology.agent(role), handle, lambda session: session, store=parts.store, bus=parts.bus,
            codec=parts.codec, topology=parts.topology, keyring=parts.keyring, holder=f"{role}-1", pace=FAST,
            observer=observer,
        )  # fmt: skip
        running = asyncio.create_task(runner.run(stop))
        try:
            yield
        finally:
            stop.set()
            async with asyncio.timeout(DEADLINE_SECONDS):
                await running


@contextlib.asynccontextmanager
async def dance(folder: Path, **environ: str) -> AsyncIterator[Dance]:
    """Bus and store in a folder."""
    settings = load_settings(data=folder / "data", environ=environ)
    runtime = await open_runtime(settings)
    made = Dance(runtime, Kept())
    try:
        yield made
    finally:
        for watcher in made.watchers.values():
            watcher.close()
        await runtime.close()


async def plans(event: Event, _state: Any, tools: Session) -> list[Event]:
    """Planning: one call of a tool, then a plan."""

    async def run() -> Outcome:
        return Outcome("{}")

    await tools.step("tool", "survey", "{}", run)
    return [event.cause(PlanProposed(summary="s", base_commit="0" * 40))]


async def fails(event: Event, _state: Any, _tools: Any) -> list[Event]:
    """Coding: nothing can be done."""
    return [event.cause(TaskFailed(reason="no", reason_code="no"))]
