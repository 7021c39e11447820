"""Events by their positions, for a bus in the same file: what is recorded need not be kept a second time in its log."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

from contracts.envelope import Envelope

_EVENTS_AT: Final = """SELECT event_id, type, version, task_id, correlation_id, causation_id, time_us, source, traceparent,
tracestate, tenant, trust, value, position FROM events WHERE position IN (SELECT value FROM json_each(?))"""


def events_at(connection: sqlite3.Connection, positions: Sequence[int]) -> dict[int, tuple[Envelope, bytes]]:
    """position -> envelope and value, for those that are there."""
    rows = connection.execute(_EVENTS_AT, (json.dumps(positions),))
    return {position: (Envelope._make(fields), value) for *fields, value, position in rows}
