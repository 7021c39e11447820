"""Identifiers: time-ordered uuid7 for what is new, uuid5 for what must come out the same on a rerun."""

from __future__ import annotations

import os
import time
import uuid

NAMESPACE = uuid.UUID("5f0c5c9e-6f0a-5a5e-9d2b-7c1d4f2b8a10")
SYSTEM_TASK = "00000000-0000-0000-0000-000000000000"
"""The stream of events that belong to no task: kills of a role or of everything."""


def now_us() -> int:
    """Microseconds since the epoch, UTC, by this machine's clock."""
    return time.time_ns() // 1000


def uuid7(time_us: int | None = None) -> str:
    """A random id that sorts by creation time (RFC 9562, version 7)."""
    milliseconds = (now_us() if time_us is None else time_us) // 1000
    tail = int.from_bytes(os.urandom(10), "big")
    value = (
        (milliseconds & ((1 << 48) - 1)) << 80
        | 0x7 << 76
        | (tail >> 68 & 0xFFF) << 64
        | 0b10 << 62
        | tail & (1 << 62) - 1
    )
    return str(uuid.UUID(int=value))


def derived(*parts: str | int) -> str:
    """The uuid5 of the parts: the same parts give the same id on any machine."""
    return str(uuid.uuid5(NAMESPACE, "\x1f".join(str(part) for part in parts)))


def event_id(task_id: str, cause_id: str, producer: str, index: int) -> str:
    """The id of the `index`-th event that `producer` emits for `cause_id`."""
    return derived("event", task_id, cause_id, producer, index)


def task_id_for(tenant: str, idempotency_key: str) -> str:
    """One task per tenant and idempotency key."""
    return derived("task", tenant, idempotency_key)


def is_uuid(text: str) -> bool:
    """Whether the text is a uuid in canonical lower case."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
