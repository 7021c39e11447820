"""A model that does whatever the text it reads wants: if the system holds with this one, it holds with any."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from agents.model.breaker import Breaker
from agents.model.port import Call, Failure, Question, Reply, Route
from agents.model.scripted import free_call

NAME: Final = "obedient"


@dataclass(slots=True)
class Orders:
    """What an attacker has the model say in one task, by role: the input of the answer's tool, or a whole message."""

    answers: dict[str, dict[str, Any]]
    messages: dict[str, dict[str, Any]] = field(default_factory=dict)
    failure: str = ""
    """Where it is set, the provider fails with these words."""
    seen: list[str] = field(default_factory=list)
    """What the model was shown, as it was sent."""
    asked: list[str] = field(default_factory=list)
    """The role that showed it, entry by entry."""


class ObedientModel:
    """Answers each task by its orders, and repeats what it was shown in every summary."""

    name = NAME

    def __init__(self) -> None:
        self.orders: dict[str, Orders] = {}
        self._route = Route(NAME, NAME, "the attacker", Breaker(NAME))

    def routes(self, question: Question) -> Sequence[Route]:  # noqa: ARG002  it answers every question
        return (self._route,)

    def call(self, question: Question, route: Route) -> Call:
        return free_call(question, route)

    async def open(self, route: Route) -> None:
        """Nothing is needed."""

    async def send(self, call: Call) -> Reply:
        asked = call.question
        orders = self.orders[asked.task_id]
        shown = "\n".join(_words_in(block) for said in asked.messages if said.role == "user" for block in said.content)
        orders.seen.append(shown)
        orders.asked.append(asked.role)
        if orders.failure:
            raise Failure("request", orders.failure)
        message = orders.messages.get(asked.role) or self._answer(asked, orders, shown)
        return Reply({"type": "message", "role": "assistant", "model": NAME, **message}, NAME, request_id=call.id)

    @staticmethod
    def _answer(asked: Question, orders: Orders, shown: str) -> dict[str, Any]:
        answer = {"summary": shown[-2000:], **orders.answers.get(asked.role, {})}
        block = {"type": "tool_use", "id": f"toolu_{asked.digest()[:24]}", "name": asked.answer_tool, "input": answer}
        return {"content": [block], "stop_reason": "tool_use"}


def _words_in(block: Mapping[str, Any]) -> str:
    """The text of a block, or of a tool's result."""
    inside = block.get("text", block.get("content", ""))
    return inside if isinstance(inside, str) else "\n".join(map(_words_in, inside))


def tool_calls(calls: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A message that calls tools, offered or not."""
    blocks = [
        {"type": "tool_use", "id": f"toolu_attack{number}", "name": name, "input": arguments}
        for number, (name, arguments) in enumerate(calls)
    ]
    return {"content": blocks, "stop_reason": "tool_use"}


def said(text: str) -> dict[str, Any]:
    """A message of words alone."""
    return {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn"}


def as_text(payload: Any) -> str:
    """A payload as the words that somebody would read."""
    if isinstance(payload, bytes):
        return payload.decode("utf-8", "replace")
    return payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False)
