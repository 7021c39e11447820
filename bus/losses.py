"""What a test may switch off for a whole process: wake-ups, or half of all that is published. It delays, loses nothing.

`GAVOTTE_LOSE=wakeups` or `GAVOTTE_LOSE=records`. The same records are lost in every process and every time they are
published, by their event's id, so that the sweep alone can find them. Letters are never lost: they have no sweep.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from typing import Final

from bus.dead_letters import SUFFIX
from bus.port import Message

VARIABLE: Final = "GAVOTTE_LOSE"
WAKEUPS: Final = "wakeups"
RECORDS: Final = "records"

_lost = os.environ.get(VARIABLE, "")
if _lost not in {"", WAKEUPS, RECORDS}:
    raise SystemExit(f"{VARIABLE}={_lost}: {WAKEUPS} or {RECORDS} can be lost")


def loses_wakeups() -> bool:
    """Whether this process neither wakes nor is woken."""
    return _lost == WAKEUPS


def loses_records() -> bool:
    """Whether half of what this process publishes is lost."""
    return _lost == RECORDS


def kept(messages: Sequence[Message]) -> Sequence[Message]:
    """What of these does reach the bus: all, but for the switch above."""
    if not loses_records():
        return messages
    return [m for m in messages if m.topic.endswith(SUFFIX) or not is_lost(dict(m.headers).get("ce_id", b""))]


def is_lost(event_id: bytes) -> bool:
    """Half of all events, always the same half."""
    return bool(zlib.crc32(event_id) & 1)
