"""The composition root: settings become store, bus, tools, model and role. Nothing is built at import time."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib.util
import logging
import math
import os
import signal
import socket
import sys
import traceback
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

from contracts import ids, redaction
from contracts.authority import Keyring
from contracts.codec import Codec, framed_id
from contracts.errors import NotFound, Retryable, Usage
from contracts.events import Payload, register
from contracts.registry import CommittedIds
from contracts.topology import CORE_AGENTS, Agent, Topology

if TYPE_CHECKING:
    from pydantic import SecretStr

    from agents.model.port import Model
    from agents.runner import Pace
    from agents.settings import Settings
    from agents.telemetry import Sender
    from agents.tools.sandbox import Limits
    from agents.tools.toolbox import Resources
    from agents.worker import Handle, ToolMaker
    from bus.port import Bus
    from contracts.confluent import SchemaRegistry
    from contracts.envelope import Event
    from embedded.file import Database
    from state_store.port import Recorded, StateStore

log = logging.getLogger(__name__)


@dataclass
class Runtime:
    """What a client of the dance holds: the command line, the console, a worker."""

    settings: Settings
    database: Database | None
    """The file that embedded parts share; None where there are none."""
    store: StateStore
    bus: Bus
    codec: Codec
    topology: Topology
    keyring: Keyring

    @functools.cached_property
    def sender(self) -> Sender | None:
        """Who tells of what this process sends, where the OTEL_* variables ask for spans and it is no agent."""
        from agents.exposure import sender_of

        return sender_of(self)

    def traced(self, event: Event) -> Event:
        """An event of a person or client, before it is recorded: with a span of its own, or that of its cause."""
        return event if self.sender is None else self.sender.context(event)

    async def close(self) -> None:
        """Let go of everything; safe to call twice."""
        if (sender := self.__dict__.pop("sender", None)) is not None:
            await asyncio.to_thread(sender.close)
        await self.bus.close()
        await self.codec.wire.close()
        await self.store.close()
        if self.database is not None:
            await self.database.close()

    async def refresh(self) -> None:
        """Take in the rows and schemas of further agents that registered meanwhile."""
        for found in await self.store.registered_agents():
            self.topology.add(found.agent)
            for schema in found.schemas:
                self.codec.schema_ids.add(schema)


@dataclass(frozen=True, slots=True)
class Role:
    """A role as a worker needs it."""

    agent: Agent
    handle: Handle
    tools: ToolMaker


async def open_runtime(settings: Settings, *, create: bool = True) -> Runtime:
    """Open bus and store; `create` makes the data folder where there is none."""
    from agents.record import file_of, store_of
    from agents.transport import bus_of

    if create:
        settings.make_folders()
    elif not settings.has_record:
        raise Usage(f"{settings.data} is no data folder yet", hint="submit a task first, or name one with --data")
    redaction.hold((*settings.secrets(), *redaction.secrets_in(os.environ)))
    topology, codec = Topology(), codec_of(settings)
    async with contextlib.AsyncExitStack() as opened:
        database = await file_of(settings)
        if database is not None:
            opened.push_async_callback(database.close)
        bus = bus_of(settings, database)
        store = await store_of(settings, database, codec, topology, bus)
        opened.push_async_callback(store.close)
        runtime = Runtime(settings, database, store, bus, codec, topology, Keyring.at(settings.operators_pub))
        await runtime.refresh()
        opened.pop_all()
    return runtime


@contextlib.asynccontextmanager
async def open_bus(settings: Settings) -> AsyncIterator[tuple[Bus, Codec]]:
    """The bus alone, for whoever reads topics where no store answers; nothing is made."""
    from agents.transport import bus_of
    from bus.embedded import SCHEMA
    from embedded.file import Database

    codec, database = codec_of(settings), None
    if settings.bus.backend == "embedded":
        if not settings.database.exists():
            raise NotFound(f"nothing was ever recorded in {settings.data}", hint="name another folder with --data DIR")
        database = await Database.open(settings.database, schema=[SCHEMA])
    bus = bus_of(settings, database)
    try:
        yield bus, codec
    finally:
        await bus.close()
        await codec.wire.close()
        if database is not None:
            await database.close()


def codec_of(settings: Settings) -> Codec:
    """The codec of one process: committed ids in what is stored; on Kafka's topics those of a registry, if there is one.

    Nobody but Gavotte reads the embedded bus, and it shares its bytes with the store.
    """
    schema_ids = CommittedIds()
    registry = registry_of(settings) if settings.bus.backend == "kafka" else None
    if registry is None:
        return Codec(schema_ids)
    from contracts.wire_ids import RegistryIds

    chosen = settings.registry
    return Codec(
        schema_ids,
        RegistryIds(registry, schema_ids, register=chosen.register_schemas, memory=settings.registry_ids),
    )


def registry_of(settings: Settings, url: str = "") -> SchemaRegistry | None:
    """The schema registry at `url`, default that of the settings, with their login; None where neither names one."""
    chosen = settings.registry
    if not (url or chosen.url):
        return None
    from contracts.confluent import SchemaRegistry

    return SchemaRegistry(
        url or chosen.url,
        user=chosen.user,
        password=_plain(chosen.password),
        token=_plain(chosen.token),
        cafile=chosen.cafile,
        timeout_seconds=chosen.timeout_seconds,
    )


def _plain(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret is not None else ""


async def announce(runtime: Runtime, recorded: Sequence[Recorded]) -> None:
    """Publish events that were appended: this is the news. The store has them, so that losing it only delays."""
    try:
        await _publish(runtime, recorded)
    except Retryable as error:
        log.warning("recorded, and the agents find it by their sweep; the news did not go out: %s", error)


async def _publish(runtime: Runtime, recorded: Sequence[Recorded]) -> None:
    from agents.emission import message_of

    untold = [event for event in recorded if not event.told]
    wanted = {found for event in untold if (found := framed_id(event.value)) is not None}
    await runtime.codec.wire.prepare(wanted)
    began_us = ids.now_us()
    await runtime.bus.publish([message_of(event, runtime.codec, runtime.topology) for event in untold])
    if runtime.sender is not None and recorded:
        runtime.sender.sent([event.envelope for event in recorded], (began_us, ids.now_us()))


def model_of(settings: Settings, role: str = "") -> Model:
    """The model that the settings name; the deploy role asks none."""
    from agents.model.scripted import NoModel, ScriptedModel

    chosen = "none" if role == "deploy" else settings.model.chosen
    if chosen == "anthropic":
        from agents.model.anthropic import AnthropicModel
        from agents.model.prices import PriceTable

        return AnthropicModel(settings, PriceTable.load(settings.model.prices))
    if chosen == "scripted":
        if settings.model.script is None:
            raise Usage("model.provider is scripted and model.script names no file", hint="docs/settings.md")
        return ScriptedModel.load(settings.model.script)
    return NoModel()


def resources_of(runtime: Runtime, role: str = "") -> Resources:
    """What the tools of this process share."""
    from agents.tools.toolbox import MindLimits, Resources
    from agents.tools.workspace import GitStore

    settings = runtime.settings
    model = model_of(settings, role)
    return Resources(
        git=GitStore(settings.git, work=settings.work),
        codec=runtime.codec,
        model=model,
        releases=settings.releases,
        keyring=runtime.keyring,
        sandbox_kind=settings.sandbox.kind,
        limits=limits_of(settings),
        four_eyes=settings.operator.four_eyes,
        minds=MindLimits(settings.model.context_tokens, settings.model.turns, settings.model.stuck_turns),
    )


def limits_of(settings: Settings) -> Limits:
    """The settings of the sandbox as it takes them."""
    from agents.tools.sandbox import Limits

    chosen = settings.sandbox
    disk_bytes = chosen.disk_mib << 20
    return Limits(
        wall_seconds=chosen.wall_seconds,
        cpu_seconds=math.ceil(chosen.wall_seconds),
        memory_bytes=chosen.memory_mib << 20,
        processes=chosen.processes,
        file_bytes=min(disk_bytes, Limits().file_bytes),
        disk_bytes=disk_bytes,
        output_bytes=chosen.output_kib << 10,
    )


def core_role(name: str, runtime: Runtime, given: Resources | None = None) -> Role:
    """One of the four roles with its tools, which share what is `given`, default what the settings say."""
    from agents.prompts import prompt_for

    agent, resources = runtime.topology.agent(name), given or resources_of(runtime, name)
    match name:
        case "planning":
            from agents import planning
            from agents.tools.planning_tools import PlanningTools

            plan = functools.partial(planning.handle, prompt=prompt_for(name), triage=prompt_for("triage"))
            return Role(agent, plan, lambda session: PlanningTools(session, resources))
        case "coding":
            from agents import coding
            from agents.tools.coding_tools import CodingTools

            code = functools.partial(coding.handle, prompt=prompt_for(name))
            return Role(agent, code, lambda session: CodingTools(session, resources))
        case "review":
            from agents import review
            from agents.tools.review_tools import ReviewTools

            judge = functools.partial(review.handle, prompt=prompt_for(name))
            return Role(agent, judge, lambda session: ReviewTools(session, resources))
        case _:
            from agents import deploy
            from agents.tools.deploy_tools import DeployTools

            return Role(agent, deploy.handle, lambda session: DeployTools(session, resources))


SEE_EXAMPLES: Final = "docs/agents.md says what it holds, examples/ has one"


def load_further(path: Path) -> ModuleType:
    """The module of a further agent: it has AGENT, EVENTS and `async handle(event, state, tools)`."""
    spec = importlib.util.spec_from_file_location(f"further_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise Usage(f"there is no agent file {path}", hint="give the path of a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever an author's file may raise
        raise Usage(f"{path} cannot be loaded: {_where(error, path)}", hint=SEE_EXAMPLES) from error
    missing = [name for name in ("AGENT", "EVENTS", "handle") if not hasattr(module, name)]
    if missing:
        raise Usage(f"{path} lacks {', '.join(missing)}", hint=SEE_EXAMPLES)
    return module


def _where(error: Exception, path: Path) -> str:
    """The error with the line of the file at which it came up."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    place = f"line {lines[-1]}: " if lines and not isinstance(error, SyntaxError) else ""
    return f"{place}{type(error).__name__}: {error}"


async def further_role(path: Path, runtime: Runtime) -> Role:
    """A further agent from its file: its row and schemas are registered in the store, where the others read them."""
    from agents.tools.reading_tools import ReadingTools
    from contracts.schemas.generate import avro_schema

    module = load_further(path)
    agent: Agent = module.AGENT
    events: tuple[type[Payload], ...] = tuple(module.EVENTS)
    runtime.topology.add(agent)
    undeclared = set(agent.emits) - {cls.event_type() for cls in events}
    if undeclared:
        raise Usage(f"{path}: EVENTS has no class for {', '.join(sorted(undeclared))}")
    try:
        schemas = {(cls.event_type(), cls.event_version()): avro_schema(register(cls)) for cls in events}
    except TypeError as error:
        raise Usage(f"{path}: an event's field has no Avro form: {error}") from error
    await runtime.store.register_agent(agent, schemas)
    await runtime.refresh()
    resources = resources_of(runtime)
    return Role(agent, module.handle, lambda session: ReadingTools(session, resources))


async def run_agent(settings: Settings, role: str, *, instance: str = "") -> int:
    """One agent process: opens everything, works until SIGTERM or SIGINT, leaves in order. Returns the exit code.

    `instance` tells this process from others of its role; who comes back by it is given its partitions at once.
    """
    from agents.exposure import exposed
    from agents.runner import Runner
    from agents.upkeep import upkeep
    from embedded.liveness import Presence

    runtime = await open_runtime(settings)
    try:
        known = {agent.role for agent in CORE_AGENTS}
        made = core_role(role, runtime) if role in known else await further_role(Path(role), runtime)
        name = f"{made.agent.role}-{instance or socket.gethostname()}"
        holder = f"{name}-{os.getpid()}"
        await runtime.codec.wire.prepare()
        _spare_the_collector()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):  # a lost terminal ends it unawares, which is as safe
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with exposed(settings, runtime, made.agent, holder, stop) as shown:
            runner = Runner(
                made.agent,
                made.handle,
                made.tools,
                store=runtime.store,
                bus=runtime.bus,
                codec=runtime.codec,
                topology=runtime.topology,
                keyring=runtime.keyring,
                holder=holder,
                member=name if instance else holder,
                pace=pace_of(settings),
                ready=shown.ready,
                observer=shown.observer,
            )
            with Presence(settings.run, holder) as presence:
                async with upkeep(runtime.bus, settings.bus.retention_hours * 3600, presence, stop):
                    await runner.run(stop)
        return 0
    finally:
        await runtime.close()


def _spare_the_collector() -> None:
    """What is loaded by now stays, and deliveries leave hardly any cycles: collect them seldom, over less."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pace_of(settings: Settings) -> Pace:
    """The worker's settings as the runner takes them."""
    from agents.runner import Pace

    chosen = settings.worker
    return Pace(
        concurrency=chosen.concurrency,
        batch=chosen.batch,
        sweep_seconds=chosen.sweep_seconds,
        missed_after_seconds=chosen.sweep_seconds,
        stop_seconds=chosen.stop_seconds,
    )
