"""One delivery's hold on the store: its durable start, its steps in program order, its acts on the world.

A role never sees this; its tools do. The first step starts the delivery (lease, basis, starts + 1); a handler without
steps never starts and stays on the fast path of one commit.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from contracts import ids, redaction
from contracts.errors import Exhausted, Fenced, Killed, Unavailable
from state_store.fold import TaskState
from state_store.port import Delivery, Effect, Encoded, StateStore, Step


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step gave: `result` is JSON text; a model call also says what it cost and which model answered.

    `error` says why a try of a model failed; `estimated`, that nobody knows what it cost and its reservation stands in.
    """

    result: str
    tokens_in: int = 0
    tokens_out: int = 0
    cost_microdollars: int = 0
    model: str = ""
    error: str = ""
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Reservation:
    """The worst case of a step, held against the budget until its outcome is known. No step outlasts its time."""

    tokens: int = 0
    cost_microdollars: int = 0
    wall_seconds: float = 0.0


ERROR_CHARACTERS_MAX: Final = 4000
MICROSECONDS: Final = 1_000_000


def try_id(task_id: str, cause_id: str, role: str, ordinal: int, digest: str) -> str:
    """The name of one try of a model: the same wherever its step is looked at."""
    return ids.derived("try", task_id, cause_id, role, ordinal, digest)


class Session:
    """The delivery at hand. `delivery.token` is 0 until the durable start."""

    def __init__(
        self,
        store: StateStore,
        delivery: Delivery,
        state: TaskState,
        consumed: Encoded | None,
        steps: tuple[Step, ...] = (),
    ) -> None:
        self.store = store
        self.delivery = delivery
        self.state = state
        self.consumed = consumed
        self.began = False
        self._beginning = asyncio.Lock()
        self._recorded = {step.ordinal: step for step in steps if not step.abandoned}
        self._ordinal = 0
        self._state_digest = ""

    async def begin(self) -> None:
        """Write the durable start, once. Raises Fenced where another worker holds the task, Killed under a kill."""
        async with self._beginning:
            if not self.began:
                await self._begin()

    async def _begin(self) -> None:
        started = await self.store.start(self.delivery, self.consumed)
        if started.status == "killed":
            raise Killed(started.detail or "a kill covers this task", hint="gavotte lift")
        if started.status != "started":
            raise Fenced(started.detail or f"task {self.delivery.task_id} is in other hands")
        self.delivery = self.delivery._replace(token=started.token)
        self.consumed = None
        self.began = True
        self._recorded.update({step.ordinal: step for step in started.steps if not step.abandoned})

    async def step(
        self,
        kind: Literal["model", "tool", "value"],
        name: str,
        arguments: str,
        run: Callable[[], Awaitable[Outcome]],
        *,
        why: str = "",
        reserved: Reservation | None = None,
        prompt: tuple[str, str] = ("", ""),
    ) -> str:
        """The step's result as JSON text: answered from the journal where it was done before, else run and recorded."""
        await self.begin()
        ordinal, self._ordinal = self._ordinal, self._ordinal + 1
        digest = hashlib.sha256(f"{kind}\0{name}\0{arguments}".encode()).hexdigest()
        known = self._recorded.get(ordinal)
        if known is not None and known.arguments_digest == digest and known.outcome == "ok":
            return known.result
        step = self._step(ordinal, kind, name, arguments, digest, why, reserved or Reservation())
        return (await self._run(replace(step, prompt=prompt[0], prompt_hash=prompt[1]), run)).result

    # -- tries of a model: each is a step of its own, also one that failed, so that the journal has them one by one

    async def recorded_try(self, name: str, digest: str) -> Step | None:
        """The try at this place of the journal, if it was of the same question; the place is passed then.

        One whose outcome nobody knows is settled: it failed, and is charged at its reservation.
        """
        await self.begin()
        known = self._recorded.get(self._ordinal)
        if known is None or (known.kind, known.name, known.arguments_digest) != ("model", name, digest):
            return None
        self._ordinal += 1
        if known.outcome:
            return known
        lost = replace(
            known,
            outcome="error",
            error="its process ended before an answer came",
            ended_at_us=max(known.began_at_us, min(known.deadline_us, ids.now_us())),
            tokens_in=known.reserved_tokens,
            cost_microdollars=known.reserved_cost_microdollars,
            estimated=True,
        )
        await self.store.step_outcome(self.delivery, lost)
        return lost

    def next_try_id(self, digest: str) -> str:
        """The id of the try that is made next, as the journal and the provider's log know it."""
        return try_id(self.delivery.task_id, self.delivery.cause_id, self.delivery.role, self._ordinal, digest)

    async def new_try(
        self,
        name: str,
        digest: str,
        arguments: str,
        run: Callable[[], Awaitable[Outcome]],
        *,
        why: str,
        reserved: Reservation,
        prompt: tuple[str, str],
        model: str,
    ) -> Step:
        """One try of a model, recorded however it ends. `digest` is that of the question, which any model may answer."""
        await self.begin()
        ordinal, self._ordinal = self._ordinal, self._ordinal + 1
        step = self._step(ordinal, "model", name, arguments, digest, why, reserved)
        return await self._run(replace(step, prompt=prompt[0], prompt_hash=prompt[1], model=model), run)

    # -- inside

    def _step(
        self,
        ordinal: int,
        kind: Literal["model", "tool", "value"],
        name: str,
        arguments: str,
        digest: str,
        why: str,
        reserved: Reservation,
    ) -> Step:
        """What is intended. From here on the program goes its own way, so what was recorded later answers nothing."""
        if self._recorded.get(ordinal) is not None and self._recorded[ordinal].arguments_digest != digest:
            self._recorded = {place: step for place, step in self._recorded.items() if place < ordinal}
        return Step(
            task_id=self.delivery.task_id,
            cause_id=self.delivery.cause_id,
            role=self.delivery.role,
            ordinal=ordinal,
            kind=kind,
            name=name,
            arguments=redaction.redacted(arguments),
            arguments_digest=digest,
            state_digest=self._digest_of_state(),
            why=why,
            began_at_us=(now_us := ids.now_us()),
            deadline_us=now_us + round(reserved.wall_seconds * MICROSECONDS) if reserved.wall_seconds else 0,
            reserved_tokens=reserved.tokens,
            reserved_cost_microdollars=reserved.cost_microdollars,
        )

    async def _run(self, step: Step, run: Callable[[], Awaitable[Outcome]]) -> Step:
        """Intent, work, outcome."""
        intent = await self.store.step_intent(self.delivery, step)
        if intent.outcome == "ok":
            return intent
        try:
            outcome = await self._in_time(intent, step, run)
        except Exception as error:
            failed = replace(
                intent,
                outcome="error",
                error=redaction.redacted(f"{type(error).__name__}: {error}")[:ERROR_CHARACTERS_MAX],
                tokens_in=intent.reserved_tokens,  # nobody knows what it cost
                cost_microdollars=intent.reserved_cost_microdollars,
                estimated=bool(intent.reserved_tokens or intent.reserved_cost_microdollars),
            )
            await self.store.step_outcome(self.delivery, replace(failed, ended_at_us=ids.now_us()))
            raise
        done = replace(
            intent,
            outcome="error" if outcome.error else "ok",
            result=redaction.redacted(outcome.result),
            error=redaction.redacted(outcome.error)[:ERROR_CHARACTERS_MAX],
            ended_at_us=ids.now_us(),
            tokens_in=outcome.tokens_in,
            tokens_out=outcome.tokens_out,
            cost_microdollars=outcome.cost_microdollars,
            estimated=outcome.estimated,
            model=outcome.model or intent.model,
        )
        await self.store.step_outcome(self.delivery, done)
        return done

    async def _in_time(self, intent: Step, asked: Step, run: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """What the step gives, within the time that the budget gave it. Raises Exhausted where that was cut short."""
        if not intent.deadline_us:
            return await run()
        granted_us = intent.deadline_us - intent.began_at_us
        try:
            async with asyncio.timeout(granted_us / MICROSECONDS) as limit:
                return await run()
        except TimeoutError:
            if not limit.expired():
                raise
        seconds = granted_us // MICROSECONDS
        if granted_us >= asked.deadline_us - asked.began_at_us:
            raise Unavailable(f"{intent.name} took longer than {seconds} s") from None
        cap = self.state.budget.wall_seconds
        raise Exhausted(
            f"the budget of wall_seconds ran out under {intent.name}, which had the last {seconds} s of {cap}",
            axis="wall_seconds",
            limit=cap,
            spent=cap,
            wanted=(asked.deadline_us - asked.began_at_us) // MICROSECONDS,
            hint=f"gavotte budget raise {intent.task_id}",
        )

    async def value(self, name: str, make: Callable[[], Any]) -> Any:
        """A clock reading, a random number or an id, the same on every rerun."""

        async def run() -> Outcome:
            return Outcome(json.dumps(make()))

        return json.loads(await self.step("value", name, "{}", run))

    async def act(
        self,
        key: str,
        kind: str,
        intent: dict[str, Any],
        do: Callable[[int], Awaitable[dict[str, Any]]],
        asked: Callable[[], Awaitable[dict[str, Any] | None]],
    ) -> dict[str, Any]:
        """An act on the world: intent, act, receipt, under a key free of attempt and ordinal.

        `do(token)` acts and returns the receipt; `asked()` asks the world whether the act already happened and returns
        its receipt or None. An intent found without a receipt is reconciled by asking, never blindly repeated.
        Of the kind `production`, the task does not end before its history tells it.
        """
        await self.begin()
        effect: Effect = await self.store.effect_intent(self.delivery, key, kind, json.dumps(intent, sort_keys=True))
        if effect.receipt is not None:
            known: dict[str, Any] = json.loads(effect.receipt)
            return known
        receipt = await asked()
        if receipt is None:
            receipt = await do(self.delivery.token)
        await self.store.effect_receipt(key, json.dumps(receipt, sort_keys=True))
        return receipt

    def _digest_of_state(self) -> str:
        if not self._state_digest:
            self._state_digest = hashlib.sha256(self.state.model_dump_json().encode()).hexdigest()
        return self._state_digest
