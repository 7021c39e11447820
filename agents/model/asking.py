"""How a question gets its answer: the journal first, then one model after the other, each tried a few times.

Every try is a step of the journal. A rerun takes the recorded ones as they are, failed ones too, and goes on behind
them; so nothing is paid for twice, and the calls in the journal are the calls that the provider saw.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from agents.model import calls
from agents.model.context import Part, cut, fit
from agents.model.port import Call, Failure, Model, Question, Reply, Route, Said
from agents.session import Outcome, Reservation, Session
from contracts.errors import NeedsPerson, Unavailable
from contracts.redaction import redacted_plain
from state_store.port import Step

log = logging.getLogger(__name__)

R = TypeVar("R", bound=BaseModel)

TRIES_MAX: Final = 3
"""Of one model in line; then the next one of the chain has its turn."""
WAIT_SECONDS_MAX: Final = 20.0
"""A longer wait is not made in line: the delivery is tried again later, and others have its slot meanwhile."""
LEVELS: Final = {"resting": logging.INFO, "unpriced": logging.ERROR}
"""How loud a failure is told, where it is no warning."""
REPAIRS_MAX: Final = 2
"""How often a model may mend an answer that could not be used."""
ANSWER_QUOTED_BYTES_MAX: Final = 4500
PROBLEM_CHARACTERS_MAX: Final = 500
"""Both together keep to what `agents.tools.toolbox.REPAIR_TOKENS` leaves free."""
PROBLEMS_TOLD_MAX: Final = 5


class Unusable(Exception):
    """A reply that holds no answer. The text says why, in words for the model."""


class Asker:
    """Asks for one delivery: its journal is that of `session`."""

    def __init__(
        self, session: Session, model: Model, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._session = session
        self._model = model
        self._sleep = sleep

    async def ask(self, question: Question, answer: type[R], *, why: str) -> R:
        """A structured answer: the input of the question's `answer_tool`, validated; mended a few times where it is off.

        Raises Unavailable (later), NeedsPerson (no model gives an answer that can be used), Exhausted.
        """
        refused: set[str] = set()
        asked, fresh = question, 0
        while True:
            reply = await self.put(asked, why=why, without=refused, anew=not fresh)
            fresh += not reply.replayed
            try:
                return answer_in(reply, question.answer_tool, answer)
            except Unusable as problem:
                if fresh > REPAIRS_MAX:
                    raise NeedsPerson(
                        f"{reply.asked} gave {fresh} answers that could not be used; the last: {problem}",
                        hint=f"gavotte llm {question.task_id}",
                        code="unusable_answer",
                    ) from None
                log.info("%s: %s: %s", question.role, reply.asked, problem)
                if reply.stop_reason == "refusal":
                    refused.add(reply.asked)
                    continue
                asked = mended(question, reply, problem)

    async def hear(self, question: Question, *, why: str) -> Reply:
        """A reply to an open-ended question, whatever it calls; a model that refuses leaves it to the next one.

        Raises Unavailable (later), NeedsPerson (every model refuses), Exhausted.
        """
        refused: set[str] = set()
        fresh = 0
        while (reply := await self.put(question, why=why, without=refused, anew=not fresh)).stop_reason == "refusal":
            fresh += not reply.replayed
            refused.add(reply.asked)
        return reply

    async def put(self, question: Question, *, why: str, without: set[str] | None = None, anew: bool = False) -> Reply:
        """A reply to the question, whatever it says: of the journal, or of the first model that answers.

        Models in `without` have refused it; with `anew`, where all of them have, they are asked once more.
        """
        key = question.digest()
        while (step := await self._session.recorded_try(calls.CHAT, key)) is not None:
            if step.outcome == "ok":
                return calls.recorded_reply(step)
        chain = self._model.routes(question)
        routes = [route for route in chain if route.model not in (without or ())] or (chain if anew else ())
        failures: list[tuple[Route, Failure]] = []
        for route in routes:
            try:
                return await self._tried(question, key, route, why)
            except Failure as failure:
                level = LEVELS.get(failure.kind, logging.WARNING)
                log.log(level, "%s: %s: %s: %s", question.role, route, failure.kind, failure)
                failures.append((route, failure))
        raise nobody_answers(question, failures, without or set())

    async def _tried(self, question: Question, key: str, route: Route, why: str) -> Reply:
        """One model, a few tries, as long as the provider asks to wait or a little longer each time."""
        from tenacity import (
            AsyncRetrying,
            RetryCallState,
            retry_if_exception,
            stop_after_attempt,
            wait_random_exponential,
        )

        jitter = wait_random_exponential(multiplier=0.5, max=8.0)

        def wait(state: RetryCallState) -> float:
            return max(asked_to_wait(state.outcome.exception() if state.outcome else None), jitter(state))

        def stop(state: RetryCallState) -> bool:
            failure = state.outcome.exception() if state.outcome else None
            return stop_after_attempt(TRIES_MAX)(state) or asked_to_wait(failure) > WAIT_SECONDS_MAX

        def again(error: BaseException) -> bool:
            return isinstance(error, Failure) and error.means.again

        tries = AsyncRetrying(retry=retry_if_exception(again), wait=wait, stop=stop, sleep=self._sleep, reraise=True)
        reply: Reply = await tries(self._once, question, key, route, why)
        return reply

    async def _once(self, question: Question, key: str, route: Route, why: str) -> Reply:
        """One try, if the provider's breaker lets it through, as one step."""
        wait_seconds = route.breaker.wait_seconds()
        if wait_seconds:
            said = f"left in peace after failures in a row; the last: {route.breaker.last_failure}"
            raise Failure("resting", said, retry_after_seconds=wait_seconds)
        learned = False
        try:
            await self._model.open(route)
            await self._session.begin()
            call = replace(self._model.call(question, route), id=self._session.next_try_id(key))
            failure, reply, step = await self._journaled(question, key, call, why)
            learned = True
        finally:
            if not learned:
                route.breaker.let_go()
        if failure is not None and failure.means.counts:
            route.breaker.failed(f"{failure.kind}: {failure}")
        else:
            route.breaker.succeeded()
        if failure is not None:
            raise failure
        return reply or calls.recorded_reply(step)

    async def _journaled(
        self, question: Question, key: str, call: Call, why: str
    ) -> tuple[Failure | None, Reply | None, Step]:
        failure: Failure | None = None
        reply: Reply | None = None

        async def run() -> Outcome:
            nonlocal failure, reply
            try:
                reply = without_secrets(await self._model.send(call))
            except Failure as error:
                failure = error
                return calls.failed(call, error)
            return calls.answered(reply)

        step = await self._session.new_try(
            calls.CHAT,
            key,
            await calls.keep(self._session.store, call),
            run,
            why=why,
            reserved=Reservation(call.tokens_reserved, call.cost_reserved_microdollars, call.seconds_reserved),
            prompt=question.prompt,
            model=call.route.model,
        )
        return failure, reply, step


def without_secrets(reply: Reply) -> Reply:
    """The reply as the journal will have it, so that a rerun sees the same."""
    return replace(reply, message=redacted_plain(reply.message))


def asked_to_wait(error: BaseException | None) -> float:
    """Seconds that the provider asked for, 0 where it did not."""
    return (error.retry_after_seconds or 0.0) if isinstance(error, Failure) else 0.0


def nobody_answers(
    question: Question, failures: Sequence[tuple[Route, Failure]], refused: set[str]
) -> Unavailable | NeedsPerson:
    """What it means that no model answered: later, unless waiting mends nothing."""
    by_trouble: dict[str, list[str]] = {}
    for route, failure in failures:
        by_trouble.setdefault(f"{route.place}: {failure.kind.replace('_', ' ')}: {failure}", []).append(route.model)
    said = "; ".join(f"{', '.join(models)} at {trouble}" for trouble, models in by_trouble.items())
    if not failures:
        return NeedsPerson(
            f"every model refused to answer: {', '.join(sorted(refused))}",
            hint=f"gavotte resume {question.task_id} --set description=...",
            code="model_refused",
        )
    if all(failure.means.person for _, failure in failures):
        unpriced = any(failure.kind == "unpriced" for _, failure in failures)
        hint = "give its price in a file (setting model.prices)" if unpriced else f"gavotte llm {question.task_id}"
        return NeedsPerson(f"no model takes the request: {said}", hint=hint)
    waits = [failure.retry_after_seconds for _, failure in failures if failure.retry_after_seconds]
    return Unavailable(f"no model answers: {said}", hint="gavotte doctor", retry_seconds=min(waits, default=None))


# -- answers -----------------------------------------------------------------------------------------------------------


def answer_in(reply: Reply, tool: str, answer: type[R]) -> R:
    """The answer in a reply. Raises Unusable with what is wrong, in words for the model."""
    if reply.stop_reason == "refusal":
        details = reply.message.get("stop_details") or {}
        raise Unusable(f"it refused to answer: {details.get('explanation') or 'no reason given'}")
    calls_made = [block for block in reply.content if block.get("type") == "tool_use"]
    fitting = [block for block in calls_made if block.get("name") == tool]
    if fitting:
        found: Any = fitting[0].get("input")
    elif calls_made:
        raise Unusable(f"there is no tool {str(calls_made[0].get('name'))[:100]!r}; the answer goes into `{tool}`")
    else:
        found = json_in(reply.text)
    if found is None and reply.stop_reason in {"max_tokens", "model_context_window_exceeded"}:
        raise Unusable("it was cut off because it was too long; answer in fewer words")
    if found is None:
        raise Unusable(f"it has no call of the tool `{tool}`" if reply.content else "it was empty")
    try:
        return answer.model_validate(found)
    except ValidationError as error:
        cut = " (it was cut off because it was too long)" if reply.stop_reason == "max_tokens" else ""
        raise Unusable(f"the input of `{tool}` does not fit{cut}: {problems_of(error)}") from None


def json_in(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is, with or without a fence: some servers answer so instead of calling a tool."""
    plain = text.strip()
    if plain.startswith("```") and plain.endswith("```"):
        plain = plain[3:-3].removeprefix("json").strip()
    if not (plain.startswith("{") and plain.endswith("}")):
        return None
    try:
        found = json.loads(plain)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def problems_of(error: ValidationError) -> str:
    """What is off with an input, field by field."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    said = [f"{'.'.join(str(part) for part in each['loc']) or 'it'}: {each['msg']}" for each in found]
    rest = f"; and {len(said) - PROBLEMS_TOLD_MAX} more" if len(said) > PROBLEMS_TOLD_MAX else ""
    return "; ".join(said[:PROBLEMS_TOLD_MAX]) + rest


def mended(question: Question, reply: Reply, problem: Unusable) -> Question:
    """The question again, with the last answer and what is wrong with it; the answers before are not carried along."""
    blocks = [block.get("input", block.get("text")) for block in reply.content if block["type"] in {"text", "tool_use"}]
    quoted = "\n".join(block if isinstance(block, str) else json.dumps(block) for block in blocks if block)
    was = fit(Part("answer", quoted), ANSWER_QUOTED_BYTES_MAX) if quoted else ""
    first = question.messages[-1]
    why = cut(str(problem), PROBLEM_CHARACTERS_MAX)
    said = Said.by_us(f"Your last answer could not be used: {why}.", was, "Answer again, as it was asked for.")
    return replace(
        question, messages=(*question.messages[:-1], replace(first, content=(*first.content, *said.content)))
    )
