"""What must hold of the events of a finished run, whatever was killed while it went: faults in words, each naming its task."""

from __future__ import annotations

import importlib.util
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from contracts.codec import Codec, iso
from state_store.port import Recorded

PAGE: Final = 2000
ENDS: Final = frozenset({"TaskSucceeded", "TaskFailed", "TaskCancelled"})
EFFECT: Final = "ProductionDeployed"
JUDGE: Final = Path(__file__).resolve().parents[2] / "shared" / "checks" / "check_history.py"
"""An independent judge of histories; absent in a user's clone."""
JUDGE_CONFIG: Final = {
    "submitted": ["TaskSubmitted"],
    "terminal": sorted(ENDS),
    "success": ["TaskSucceeded"],
    "effects": [EFFECT],
    "required_on_success": [EFFECT],
    "gates": {EFFECT: ["ReviewPassed"]},
    "hitl_gate": {},
    "control_prefix": "Kill",
    "work": [],
    "usage_fields": [],
}


async def history(tail: Callable[[int, int], Any], codec: Codec) -> list[dict[str, Any]]:
    """All events of a store in the order of its log, as plain fields; `tail` is that of the store."""
    found: list[Recorded] = []
    while page := await tail(found[-1].position if found else 0, PAGE):
        found += page
    return [fields(recorded, codec) for recorded in found]


def fields(recorded: Recorded, codec: Codec) -> dict[str, Any]:
    """An event for judges."""
    envelope = recorded.envelope
    return {
        "event_id": envelope.id,
        "task_id": envelope.task_id,
        "type": envelope.type,
        "source": envelope.source,
        "correlation_id": envelope.correlation_id,
        "causation_id": envelope.causation_id,
        "sequence": recorded.sequence,
        "position": recorded.position,
        "ts": iso(envelope.time_us),
        "payload": codec.decode_plain(recorded.value)[2],
    }


def faults(events: Sequence[dict[str, Any]], accepted: Iterable[str]) -> list[str]:
    """Lost tasks, further ends, effects recorded twice, broken lineage and gaps; empty where all is well.

    `accepted` are the ids of the tasks whose submission was answered.
    """
    tasks: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        tasks[event["task_id"]].append(event)
    accepted = set(accepted)
    found = [f"task {task}: accepted, and not in the record" for task in sorted(accepted - set(tasks))]
    found += [f"task {task}: recorded, and nobody submitted it" for task in sorted(set(tasks) - accepted)]
    found += [f"event {name}: recorded {count} times" for name, count in _again(event["event_id"] for event in events)]
    for task, stream in tasks.items():
        found += [f"task {task}: {what}" for what in _stream_faults(stream)]
    return found


def _stream_faults(stream: Sequence[dict[str, Any]]) -> Iterable[str]:
    sequences = [event["sequence"] for event in stream]
    if sequences != list(range(1, len(stream) + 1)):
        yield f"its sequences are {sequences}"
    ends = [event["type"] for event in stream if event["type"] in ENDS]
    if len(ends) != 1:
        yield f"it has the ends {ends}, its last event is {stream[-1]['type']}"
    elif ends == ["TaskSucceeded"] and not any(event["type"] == EFFECT for event in stream):
        yield f"it succeeded without {EFFECT}"
    for (type_, cause), count in _again((event["type"], event["causation_id"]) for event in stream):
        yield f"{type_} was recorded {count} times for the event {cause}"
    effects = sum(event["type"] == EFFECT for event in stream)
    if effects > 1:
        yield f"{EFFECT} was recorded {effects} times"
    before: set[str] = set()
    for event in stream:
        if before and event["causation_id"] not in before:
            yield f"event {event['sequence']} ({event['type']}) was caused by {event['causation_id']}, unknown before it"
        if event["correlation_id"] != stream[0]["correlation_id"]:
            yield f"event {event['sequence']} ({event['type']}) has another correlation id"
        before.add(event["event_id"])


def _again(names: Iterable[Any]) -> list[tuple[Any, int]]:
    return [(name, count) for name, count in Counter(names).items() if count > 1]


def judged(events: Sequence[dict[str, Any]], accepted: Iterable[str]) -> list[str]:
    """What the independent judge finds, where it is at hand."""
    if not JUDGE.exists():
        return []
    spec = importlib.util.spec_from_file_location("check_history", JUDGE)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{JUDGE} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.check(list(events), JUDGE_CONFIG, list(accepted))
    return [f"{code}: task {task}: {detail}" for code, task, detail in found]
