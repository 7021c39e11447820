"""Identifiers: time-ordered uuid7 for what is new, hashes of their parts for what must come out the same on a rerun."""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from typing import Final

NAMESPACE = uuid.UUID("5f0c5c9e-6f0a-5a5e-9d2b-7c1d4f2b8a10")
SYSTEM_TASK = "00000000-0000-0000-0000-000000000000"
"""The stream of events that belong to no task: kills of a role or of everything."""

_NAMESPACE_BYTES: Final = NAMESPACE.bytes
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""A digit with the first two bits that RFC 9562 asks for."""
_CANONICAL: Final = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


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
    return _canonical(value.to_bytes(16, "big").hex())


def derived(*parts: str | int) -> str:
    """The uuid5 of the parts: the same parts give the same id on any machine."""
    name = "\x1f".join(map(str, parts)).encode()
    raw = bytearray(hashlib.sha1(_NAMESPACE_BYTES + name, usedforsecurity=False).digest()[:16])
    raw[6] = raw[6] & 0x0F | 0x50  # version 5
    raw[8] = raw[8] & 0x3F | 0x80  # the variant of RFC 9562
    return _canonical(raw.hex())


def derived_of(task_id: str, *parts: str | int) -> str:
    """The same for what belongs to a task: the id begins as the task's own, and the rest is a hash of all parts.

    So what belongs together lies together in an index, and where tasks have uuid7, what is new lies at its end (RFC
    9562, version 8).
    """
    name = "\x1f".join((task_id, *map(str, parts))).encode()
    digits = hashlib.sha256(_NAMESPACE_BYTES + name).hexdigest()
    return f"{task_id[:13]}-8{digits[:3]}-{_VARIANT[digits[3]]}{digits[4:7]}-{digits[7:19]}"


def event_id(task_id: str, cause_id: str, producer: str, index: int) -> str:
    """The id of the `index`-th event that `producer` emits for `cause_id`."""
    return derived_of(task_id, "event", cause_id, producer, index)


def task_id_for(tenant: str, idempotency_key: str) -> str:
    """One task per tenant and idempotency key."""
    return derived("task", tenant, idempotency_key)


def is_uuid(text: str) -> bool:
    """Whether the text is a uuid in canonical lower case."""
    return _CANONICAL.fullmatch(text) is not None


def _canonical(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
