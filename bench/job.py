"""The job that every system does: a task of four hops over events of 2 kB, each hop a step that decides nothing.

Peers get the event as the plain dictionary below. Ours carries the same amount in its own events: a text in the payload,
and what stands in the envelope besides. No import of ours or of anybody's: each peer runs in an environment of its own.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from typing import Any

HOPS = ("planning", "coding", "review", "deploy")
TEXT = ("The client must retry idempotent calls with jittered back-off, and say so in its log. " * 18)[:1500]

AVRO = {
    "type": "record",
    "name": "Event",
    "fields": [
        {"name": "event_id", "type": "string"},
        {"name": "event_type", "type": "string"},
        {"name": "version", "type": "int"},
        {"name": "correlation_id", "type": "string"},
        {"name": "causation_id", "type": ["null", "string"]},
        {"name": "task_id", "type": "string"},
        {"name": "time_us", "type": "long"},
        {"name": "headers", "type": {"type": "map", "values": "string"}},
        {
            "name": "payload",
            "type": {
                "type": "record",
                "name": "Payload",
                "fields": [
                    {"name": "title", "type": "string"},
                    {"name": "description", "type": "string"},
                    {
                        "name": "files",
                        "type": {
                            "type": "array",
                            "items": {
                                "type": "record",
                                "name": "File",
                                "fields": [
                                    {"name": "path", "type": "string"},
                                    {"name": "sha256", "type": "string"},
                                    {"name": "lines", "type": "int"},
                                ],
                            },
                        },
                    },
                    {"name": "notes", "type": {"type": "array", "items": "string"}},
                ],
            },
        },
    ],
}


def first_event(number: int) -> dict[str, Any]:
    """The submission of a task: nested, about 1.8 kB in Avro and 2.2 kB in JSON."""
    files = [
        {
            "path": f"src/pkg/module_{index}.py",
            "sha256": hashlib.sha256(b"%d" % index).hexdigest(),
            "lines": 100 + index,
        }
        for index in range(6)
    ]
    return {
        "event_id": str(uuid.UUID(int=number + 1)),
        "event_type": "task.submitted",
        "version": 1,
        "correlation_id": str(uuid.UUID(int=number + 10**9)),
        "causation_id": None,
        "task_id": f"task-{number:08d}",
        "time_us": time.time_ns() // 1000,
        "headers": {
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "tenant": "default",
        },
        "payload": {
            "title": "Add a retry policy to the payment client",
            "description": TEXT[:700],
            "files": files,
            "notes": ["check the time-out budget of the caller " * 2] * 4,
        },
    }


def next_event(event: dict[str, Any], hop: str) -> dict[str, Any]:
    """What a hop answers: a child of the event with the same payload."""
    return event | {
        "event_id": str(uuid.uuid4()),
        "causation_id": event["event_id"],
        "event_type": f"{hop}.done",
        "time_us": time.time_ns() // 1000,
    }
