"""What one agent process lets others see while it runs: spans and metrics, its health over HTTP, and its ready line."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from contracts.topology import topic_for

if TYPE_CHECKING:
    from agents.health import Health, HealthServer
    from agents.observed import Observer
    from agents.settings import Settings
    from agents.spans import Place
    from agents.telemetry import Sender, Telemetry
    from agents.wiring import Runtime
    from contracts.envelope import Envelope
    from contracts.topology import Agent

log = logging.getLogger(__name__)

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL: Final = "http/protobuf"


@dataclass
class Exposure:
    """What the runner is handed: who watches its worker, None where nobody wants to see anything, and `ready`."""

    settings: Settings
    agent: Agent
    observer: Observer | None
    health: Health | None = None
    server: HealthServer | None = None

    def ready(self) -> None:
        """The process takes records from now on; `up` waits for the line."""
        if self.health is not None:
            self.health.taking = True
        line = f"ready {self.agent.role} {os.getpid()}" + (f" {self.server.address}" if self.server else "")
        if self.settings.log.stream == "stdout" and self.settings.log.format == "json":
            log.info("%s", line)
        else:
            print(line, flush=True)  # noqa: T201  the one word of an agent on its standard output


@contextlib.asynccontextmanager
async def exposed(
    settings: Settings, runtime: Runtime, agent: Agent, holder: str, stop: asyncio.Event
) -> AsyncIterator[Exposure]:
    """Show what the settings and the OTEL_* variables ask for while the body runs; nothing is loaded for nothing."""
    port, telemetry = settings.telemetry.port, telemetry_of(runtime, agent, holder)
    try:
        async with contextlib.AsyncExitStack() as opened:
            shown = Exposure(settings, agent, telemetry)
            if port is not None and telemetry is not None:
                from agents.health import Health, HealthServer

                topics = runtime.topology.topics_for(agent.role)
                shown.health = Health(agent, topics, runtime.store, runtime.bus, telemetry.metrics, stop)
                server = HealthServer(shown.health.answer, settings.telemetry.host, port)
                shown.server = await opened.enter_async_context(server)
            yield shown
    finally:
        if telemetry is not None:
            telemetry.settle()
            await asyncio.to_thread(telemetry.close)  # it may wait for a collector


def exports_spans(environ: Mapping[str, str]) -> bool:
    """Whether the OTEL_* variables ask for spans: an endpoint is named, or `OTEL_TRACES_EXPORTER` is otlp or console."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    chosen = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if chosen and chosen not in {"otlp", "console"}:
        if chosen != "none":
            log.warning("no spans: OTEL_TRACES_EXPORTER is %r, and otlp, console and none are known", chosen)
        return False
    protocol = next((environ[name] for name in PROTOCOLS if environ.get(name)), PROTOCOL)
    if chosen != "console" and protocol != PROTOCOL:
        log.warning("no spans: OTEL_EXPORTER_OTLP_PROTOCOL is %r, and only %s is spoken here", protocol, PROTOCOL)
        return False
    return bool(chosen) or any(environ.get(name) for name in ENDPOINTS)


def telemetry_of(runtime: Runtime, agent: Agent, holder: str) -> Telemetry | None:
    """The observer that the settings and variables ask for; None where nobody wants to see anything."""
    settings = runtime.settings
    spans, metrics = exports_spans(os.environ), settings.telemetry.port is not None
    if not spans and not metrics and settings.log.format == "text":  # lines of JSON name the delivery at work
        return None
    from agents.telemetry import Metrics, Telemetry, Tracing

    place = place_of(runtime, agent.role, agent.group, holder)
    return Telemetry(place, Tracing(place, os.environ) if spans else None, Metrics(place) if metrics else None)


def sender_of(runtime: Runtime) -> Sender | None:
    """Who tells of what a command sends; None where the OTEL_* variables ask for no spans."""
    if not exports_spans(os.environ):
        return None
    from agents.telemetry import Sender

    return Sender(place_of(runtime, "cli", "", f"cli-{os.getpid()}"), os.environ)


def place_of(runtime: Runtime, role: str, group: str, client: str) -> Place:
    """What all spans and metrics of this process have in common; a command line has no group."""
    from importlib import metadata

    from agents.spans import Place

    settings = runtime.settings

    def topic_of(envelope: Envelope) -> str:
        return topic_for(envelope.type, envelope.source, runtime.topology)

    return Place(
        role=role,
        client=client,
        group=group,
        system=system_of(settings),
        provider="" if settings.model.chosen == "none" else settings.model.chosen,
        topic_of=topic_of,
        relation=settings.telemetry.relation,
        version=metadata.version("gavotte"),
        prefix=settings.bus.prefix,
    )


def system_of(settings: Settings) -> str:
    """The bus by its messaging name; the embedded one goes by ours."""
    return "gavotte" if settings.bus.backend == "embedded" else settings.bus.backend
