"""The step journal: intent before each model and tool call, outcome after it, answers for a rerun, and the budget.

One record serves five ends: a rerun does not pay again, the log of calls, the cassette of a replay, the cost ledger
and the why of a decision.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Final, NamedTuple

from contracts.errors import CancelRequested, Exhausted, NotFound
from contracts.events import INLINE_BYTES_MAX, Budget
from state_store.bodies import Bodies
from state_store.fold import owner
from state_store.leases import Leases
from state_store.port import Delivery, Spent, Step
from state_store.streams import Streams
from state_store.transaction import Transaction

MICROSECONDS: Final = 1_000_000
LEAST_WALL_US: Final = MICROSECONDS
"""With less than this left of the wall clock nothing is begun."""
_STEP_COLUMNS: Final = 27
"""Of the journal's queries; behind them stand the digests of arguments and result that lie in bodies."""


class Stored(NamedTuple):
    """A text of a step: in its row, or in a body where it is large."""

    text: str | None
    body: str | None


class Journal:
    """Steps of all deliveries. Methods run inside one transaction."""

    def __init__(self, streams: Streams, bodies: Bodies, rules: Leases) -> None:
        self.streams = streams
        self.bodies = bodies
        self.rules = rules

    async def of_task(self, tx: Transaction, task_id: str) -> tuple[Step, ...]:
        """All steps of a task in the order in which they were begun, abandoned ones too."""
        return tuple([await self._step(tx, row) for row in await tx.rows("steps_of_task", (task_id,))])

    async def of_delivery(self, tx: Transaction, task_id: str, cause_id: str, role: str) -> tuple[Step, ...]:
        """The journal that answers a rerun."""
        rows = await tx.rows("steps_of_delivery", (task_id, cause_id, role))
        return tuple([await self._step(tx, row) for row in rows])

    async def intend(self, tx: Transaction, delivery: Delivery, step: Step, arguments: Stored) -> Step:
        """Write an intent or answer it from the record. Raises Fenced, Killed, CancelRequested or Exhausted."""
        await self.rules.check(tx, delivery)
        known = await self._by_key(tx, step)
        if known is not None and _asks_the_same(known, step) and known.outcome == "ok":
            return known
        budget = await self._may_go_on(tx, delivery)
        step = replace(step, began_at_us=step.began_at_us or tx.now_us())
        if step.kind != "value":
            step = within(budget, await spent_of(tx, step.task_id), step, known)
        values = asdict(step) | {"arguments": arguments.text, "arguments_body": arguments.body}
        if known is not None and _asks_the_same(known, step):
            await tx.run("step_again", values)
        else:
            if known is not None:
                key = (step.task_id, step.cause_id, step.role, step.ordinal)
                await tx.run("steps_abandon", (step.began_at_us, *key))
            await tx.run("step_insert", values)
        written = await self._by_key(tx, step)
        assert written is not None  # noqa: S101  # one of the two statements wrote it
        return written

    async def settle(self, tx: Transaction, delivery: Delivery, step: Step, result: Stored) -> None:
        """Write an outcome, from whatever hands it comes. What went well stands; a failure that another try has
        overtaken says nothing any more, and was charged when that try began. Raises NotFound for a step that was
        never intended.
        """
        key = (step.task_id, step.cause_id, step.role, step.ordinal, step.arguments_digest)
        row = await tx.row("step_awaiting", key)
        if row is None:
            raise NotFound(f"no intent was written for step {step.ordinal} of {step.role} on task {step.task_id}")
        step_id, outcome, attempt = row
        overtaken = step.attempt < attempt and step.outcome == "error"
        if outcome in {"ok", step.outcome} or overtaken:
            return
        values = asdict(step) | {"result": result.text, "result_body": result.body, "step_id": step_id}
        values["ended_at_us"] = step.ended_at_us or tx.now_us()
        await tx.run("step_settle", values)
        await tx.run("delivery_progressed", (delivery.role, delivery.event_id))

    async def _may_go_on(self, tx: Transaction, delivery: Delivery) -> Budget:
        """The task's budget, unless its owner is to end it."""
        head = await self.streams.head(tx, delivery.task_id)
        if head.state.cancel_requested and owner(head.state) == delivery.role:
            since = (delivery.task_id, delivery.basis)
            begun = await tx.row("unfinished_act", (delivery.task_id,))  # to be made certain, and told, first
            if begun is None and await tx.row("cancelled_since", since) is not None:
                raise CancelRequested(f"{head.state.cancel_operator or 'an operator'} asked to cancel the task")
        return head.state.budget

    async def _by_key(self, tx: Transaction, step: Step) -> Step | None:
        key = (step.task_id, step.cause_id, step.role, step.ordinal)
        row = await tx.row("step_by_key", key)
        return None if row is None else await self._step(tx, row)

    async def _step(self, tx: Transaction, row: tuple[Any, ...]) -> Step:
        values = list(row[:_STEP_COLUMNS])
        arguments_body, result_body = row[_STEP_COLUMNS:]
        values[6] = await self._text(tx, values[6], arguments_body)
        values[13] = await self._text(tx, values[13], result_body)
        values[20], values[24] = bool(values[20]), bool(values[24])
        return Step(*values)

    async def _text(self, tx: Transaction, text: str | None, body: str | None) -> str:
        if body is None:
            return text or ""
        raw = await self.bodies.read(tx, body)
        return "" if raw is None else raw.decode()


def is_large(text: str) -> bool:
    """Whether a text belongs into a body."""
    return len(text) > INLINE_BYTES_MAX


async def spent_of(tx: Transaction, task_id: str) -> Spent:
    """What a task has used so far, unknown outcomes at their reservation."""
    tokens, steps, wall_us, cost, *held = await tx.one("spent", (task_id,))
    return Spent(tokens, steps, wall_us / MICROSECONDS, cost, held[0], held[1], held[2] / MICROSECONDS, held[3])


def _asks_the_same(known: Step, step: Step) -> bool:
    asked = (step.kind, step.name, step.arguments_digest)
    return (known.kind, known.name, known.arguments_digest) == asked


class Axis(NamedTuple):
    """One of the four caps: what was used of it, unknown outcomes included, what of that is held, what a step wants."""

    name: str
    cap: int
    used: int
    held: int
    wanted: int


def within(budget: Budget, spent: Spent, step: Step, before: Step | None = None) -> Step:
    """The step as it may be begun: its worst case fits all four caps, its deadline comes no later than the wall clock has.

    `before` is what stands under its key: of the time that one held, only what has passed is still charged. Raises
    Exhausted naming the first cap that the step would break.
    """
    freed_us = _freed_us(before, step.began_at_us)
    used_us, held_us = (
        max(0, round(seconds * MICROSECONDS) - freed_us) for seconds in (spent.wall_seconds, spent.held_wall_seconds)
    )
    left_us = budget.wall_seconds * MICROSECONDS - used_us
    wanted_us = max(0, step.deadline_us - step.began_at_us) if step.deadline_us else 0
    granted_us = max(min(wanted_us, left_us), LEAST_WALL_US)
    axes = (
        Axis("tokens", budget.tokens, spent.tokens, spent.held_tokens, step.reserved_tokens),
        Axis("steps", budget.steps, spent.steps, spent.held_steps, 1),
        Axis("wall_seconds", budget.wall_seconds * MICROSECONDS, used_us, held_us, granted_us),
        Axis(
            "cost_microdollars",
            budget.cost_microdollars,
            spent.cost_microdollars,
            spent.held_cost_microdollars,
            step.reserved_cost_microdollars,
        ),
    )
    for axis in axes:
        if axis.used + axis.wanted > axis.cap:
            raise _exhausted(axis, step.task_id)
    return replace(step, deadline_us=step.began_at_us + min(wanted_us, left_us)) if wanted_us else step


def _freed_us(before: Step | None, now_us: int) -> int:
    """What comes back of the time that a step without an outcome held."""
    if before is None or before.outcome or not before.deadline_us:
        return 0
    return before.deadline_us - min(before.deadline_us, max(now_us, before.began_at_us))


def _exhausted(axis: Axis, task_id: str) -> Exhausted:
    unit = MICROSECONDS if axis.name == "wall_seconds" else 1
    cap, spent, held, wanted = (
        -(-value // unit) for value in (axis.cap, axis.used - axis.held, axis.held, axis.wanted)
    )
    return Exhausted(
        f"the budget of {axis.name} does not reach: {spent} of {cap} are spent, {held} are held for calls without an "
        f"outcome, and the next step may need {wanted}",
        axis=axis.name,
        limit=cap,
        spent=spent,
        reserved=held,
        wanted=wanted,
        hint=f"gavotte budget raise {task_id}",
    )
