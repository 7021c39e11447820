"""The effect ledger: an act on the outside world goes intent, act, receipt, under a key that a rerun finds again."""

from __future__ import annotations

from contracts.errors import Conflict, NotFound
from state_store.leases import Leases
from state_store.port import Delivery, Effect
from state_store.transaction import Transaction


async def intend(
    tx: Transaction, rules: Leases, delivery: Delivery, key: str, kind: str, intent: str, now_us: int
) -> Effect:
    """Write the intent, or answer with what is recorded under the key. Raises Fenced or Killed.

    An open intent of an earlier holder passes to this one, with its token, to be reconciled.
    """
    await rules.check(tx, delivery)
    known = await _by_key(tx, key)
    if known is None:
        d = delivery
        await tx.run("effect_insert", (key, d.task_id, d.role, kind, intent, d.token, now_us))
        return Effect(key, d.task_id, kind, intent, None, d.token)
    if known.task_id != delivery.task_id:
        raise Conflict(f"the effect {key} belongs to task {known.task_id}", hint="a key names its task")
    if known.receipt is None and known.token != delivery.token:
        await tx.run("effect_hand_over", (delivery.token, key))
        return Effect(known.key, known.task_id, known.kind, known.intent, None, delivery.token)
    return known


async def receipt(tx: Transaction, key: str, text: str, now_us: int) -> None:
    """Write the receipt, from whatever hands it comes; a second one changes nothing."""
    if await tx.run("effect_receipt", (text, now_us, key)) == 0 and await _by_key(tx, key) is None:
        raise NotFound(f"no effect was intended under {key}")


async def withdraw(tx: Transaction, key: str) -> None:
    """Drop an open intent."""
    await tx.run("effect_withdraw", (key,))


async def of_task(tx: Transaction, task_id: str) -> list[Effect]:
    """All acts of a task, oldest first."""
    return [Effect(*row) for row in await tx.rows("effects_of_task", (task_id,))]


async def unfinished(tx: Transaction, task_id: str) -> str | None:
    """The key of an act that is not certain, or of one in production that the history does not tell."""
    row = await tx.row("unfinished_act", (task_id,))
    return None if row is None else str(row[0])


async def _by_key(tx: Transaction, key: str) -> Effect | None:
    row = await tx.row("effect_by_key", (key,))
    return None if row is None else Effect(*row)
