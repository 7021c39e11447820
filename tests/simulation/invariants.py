"""What must hold once everything is quiet, whatever happened before: each broken promise is one line of text."""

from __future__ import annotations

import importlib.util
import sqlite3
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bus.memory import MemoryBroker
from contracts.codec import Codec, iso
from contracts.envelope import agent_source
from contracts.events import TERMINAL_TYPES
from contracts.ids import SYSTEM_TASK
from state_store.port import Recorded, StateStore
from tests.simulation.world import World

OPEN = ("started", "waiting", "retry", "parked")
JUDGE = Path(__file__).resolve().parents[3] / "shared" / "checks" / "check_history.py"
"""An independent judge of histories; absent in a user's clone."""
JUDGE_CONFIG: dict[str, Any] = {
    "submitted": ["TaskSubmitted"],
    "terminal": sorted(TERMINAL_TYPES),
    "success": ["TaskSucceeded"],
    "reopen": [],
    "effects": ["ProductionDeployed"],
    "required_on_success": ["ProductionDeployed"],
    "gates": {"ProductionDeployed": ["ReviewPassed"]},
    "hitl_gate": {"ProductionDeployed": "ApprovalGranted"},
    "after_terminal_ok": ["KillLifted"],
    "cross_task_cause_ok": ["Kill"],
    "control_prefix": "Kill",
    "kill": "KillRaised",
    "work": [],
    "usage_fields": [],
}


async def broken(
    store: StateStore, codec: Codec, connection: sqlite3.Connection, world: World, accepted: Iterable[str]
) -> list[str]:
    """Every promise that the run broke. `accepted` are the tasks whose submission was confirmed to the client."""
    events = await everything(store)
    streams: dict[str, list[Recorded]] = {}
    for event in events:
        streams.setdefault(event.envelope.task_id, []).append(event)
    found = list(world.faults)
    found += [f"task {task} was accepted and is not in the store" for task in accepted if task not in streams]
    for task, stream in streams.items():
        if task != SYSTEM_TASK:
            found += [f"task {task}: {fault}" for fault in faults_of(stream)]
    found += acted(world, events, codec)
    found += [f"chain: {fault}" for fault in await store.verify_chain()]
    found += [
        f"inbox: {row.role} has {row.status} {row.event_type} of {row.task_id} ({row.reason_code}: {row.reason})"
        for row in await store.inbox(statuses=OPEN, limit=1000)
    ]
    found += unpublished(connection)
    found += [
        f"effect {key} has no receipt" for (key,) in connection.execute("SELECT key FROM effects WHERE receipt IS NULL")
    ]
    before = views(connection)
    await store.rebuild_views()
    if views(connection) != before:
        found.append("views: rebuilt, they are not what they were")
    found += judged(events, codec, world, accepted)
    return found


async def everything(store: StateStore) -> list[Recorded]:
    """All events in global order."""
    found: list[Recorded] = []
    while batch := await store.tail(found[-1].position if found else 0, 1000):
        found += batch
    return found


def faults_of(stream: Sequence[Recorded]) -> list[str]:
    """What is wrong with one task's events."""
    found = []
    sequences = [event.sequence for event in stream]
    if sequences != list(range(1, len(stream) + 1)):
        found.append(f"sequences {sequences}")
    ends = [event.envelope.type for event in stream if event.envelope.type in TERMINAL_TYPES]
    if len(ends) != 1:
        found.append(f"ends {len(ends)} times {ends}, last event {stream[-1].envelope.type}")
    seen: set[str] = set()
    for event in stream:
        envelope = event.envelope
        root = envelope.causation_id is None
        if root and envelope.type != "TaskSubmitted":
            found.append(f"{envelope.type} has no cause")
        if not root and envelope.causation_id not in seen:
            found.append(f"{envelope.type} names the cause {envelope.causation_id}, which did not come before it")
        if envelope.correlation_id != stream[0].envelope.correlation_id:
            found.append(f"{envelope.type} has another correlation")
        seen.add(envelope.id)
    return found


def acted(world: World, events: Sequence[Recorded], codec: Codec) -> list[str]:
    """The world against the history: each act once, and what was released is told."""
    found = [f"{' '.join(act)} happened {count} times" for act, count in world.acts.items() if count != 1]
    told = {e.envelope.task_id for e in events if e.envelope.type == "ProductionDeployed"}
    done = {act[1] for act in world.acts if act[0] == "release" and act[2] == "production"}
    found += [f"task {task} is in production and its history does not say so" for task in sorted(done - told)]
    found += [f"task {task} says that it is in production and it is not" for task in sorted(told - done)]
    del codec
    return found


def unpublished(connection: sqlite3.Connection) -> list[str]:
    """Deliveries that are done and whose events never reached the bus."""
    rows = connection.execute(
        "SELECT role, event_type, task_id FROM deliveries WHERE published = 0 AND emitted_from IS NOT NULL"
    )
    return [f"what {role} emitted on {type_} of {task} was never published" for role, type_, task in rows]


async def on_the_bus(store: StateStore, connection: sqlite3.Connection, broker: MemoryBroker) -> list[str]:
    """The bus against the store: what agents recorded was published, and nothing else; each letter has its dead row."""
    events = await everything(store)
    stored = {event.envelope.id: event.envelope for event in events}
    records = [record for (topic, _), log in broker.logs.items() if not topic.endswith(".dlq") for record in log]
    told = {dict(record.headers)["ce_id"].decode() for record in records}
    found = [
        f"the bus tells of event {event_id}, which is not in the store" for event_id in sorted(told - stored.keys())
    ]
    found += [
        f"{envelope.type} of {envelope.task_id} was never published"
        for event_id, envelope in stored.items()
        if event_id not in told and envelope.source.startswith(agent_source(""))
    ]
    dead = {(role, event_id) for role, event_id in connection.execute("SELECT role, event_id FROM deliveries")}
    for (topic, _), log in broker.logs.items():
        group = topic.removesuffix(".dlq").rpartition(".gavotte.")[2]
        if topic.endswith(".dlq"):
            letters = {dict(record.headers)["ce_id"].decode() for record in log}
            found += [
                f"{topic} has a letter of {one}, which has no delivery" for one in letters if (group, one) not in dead
            ]
    return found


def views(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    return connection.execute("SELECT * FROM tasks ORDER BY task_id").fetchall()


def judged(events: Sequence[Recorded], codec: Codec, world: World, accepted: Iterable[str]) -> list[str]:
    """What the independent judge says, where it is at hand."""
    check = judge()
    if check is None:
        return []
    ledger = [
        {"task_id": act[1], "effect": "ProductionDeployed", "effect_id": act[3]}
        for act, count in world.acts.items()
        for _ in range(count)
        if act[0] == "release" and act[2] == "production"
    ]
    lines = [as_line(event, codec) for event in events]
    blamed = check(lines, JUDGE_CONFIG, list(accepted), ledger)
    return [f"judge {code}: task {task}: {detail}" for code, task, detail in blamed]


def as_line(event: Recorded, codec: Codec) -> dict[str, Any]:
    """An event as `gavotte log --json` prints it, as far as the judge looks."""
    envelope = event.envelope
    payload: dict[str, Any] = {}
    if envelope.type == "ProductionDeployed":
        payload = {"effect_key": codec.decode_plain(event.value)[2]["effect_key"]}
    return {
        "event_id": envelope.id,
        "task_id": envelope.task_id,
        "type": envelope.type,
        "correlation_id": envelope.correlation_id,
        "causation_id": envelope.causation_id,
        "position": event.position,
        "ts": iso(envelope.time_us),
        "payload": payload,
    }


@cache
def judge() -> Any:
    """The judge's `check`, or None."""
    if not JUDGE.exists():
        return None
    spec = importlib.util.spec_from_file_location("check_history", JUDGE)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.check
