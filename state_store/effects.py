"""The effect ledger: an act on the outside world goes intent, act, receipt, under a key that a rerun finds again."""

from __future__ import annotations

import sqlite3

from contracts.errors import Conflict, NotFound
from state_store.leases import Leases
from state_store.port import Delivery, Effect
from state_store.queries import SQL


def intend(
    conn: sqlite3.Connection, rules: Leases, delivery: Delivery, key: str, kind: str, intent: str, now_us: int
) -> Effect:
    """Write the intent, or answer with what is recorded under the key. Raises Fenced or Killed.

    An open intent of an earlier holder passes to this one, with its token, to be reconciled.
    """
    rules.check(conn, delivery)
    known = _by_key(conn, key)
    if known is None:
        d = delivery
        conn.execute(SQL["effect_insert"], (key, d.task_id, d.role, kind, intent, d.token, now_us))
        return Effect(key, d.task_id, kind, intent, None, d.token)
    if known.task_id != delivery.task_id:
        raise Conflict(f"the effect {key} belongs to task {known.task_id}", hint="a key names its task")
    if known.receipt is None and known.token != delivery.token:
        conn.execute(SQL["effect_hand_over"], (delivery.token, key))
        return Effect(known.key, known.task_id, known.kind, known.intent, None, delivery.token)
    return known


def receipt(conn: sqlite3.Connection, key: str, text: str, now_us: int) -> None:
    """Write the receipt, from whatever hands it comes; a second one changes nothing."""
    if conn.execute(SQL["effect_receipt"], (text, now_us, key)).rowcount == 0 and _by_key(conn, key) is None:
        raise NotFound(f"no effect was intended under {key}")


def withdraw(conn: sqlite3.Connection, key: str) -> None:
    """Drop an open intent."""
    conn.execute(SQL["effect_withdraw"], (key,))


def of_task(conn: sqlite3.Connection, task_id: str) -> list[Effect]:
    """All acts of a task, oldest first."""
    return [Effect(*row) for row in conn.execute(SQL["effects_of_task"], (task_id,))]


def _by_key(conn: sqlite3.Connection, key: str) -> Effect | None:
    row = conn.execute(SQL["effect_by_key"], (key,)).fetchone()
    return None if row is None else Effect(*row)
