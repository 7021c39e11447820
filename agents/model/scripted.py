"""A model that reads its answers from a file: for the demo and for tests, and announced as such.

The file is JSON: role -> list of answers. The n-th question of a role for a task gets the n-th answer; the last repeats.
An answer is the input of the tool that is asked for, or `{"calls": [{"tool": ..., "input": ...}]}` for calls of others.
What is asked by `triage` is in bounds unless the script has answers for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from agents.model import wire
from agents.model.breaker import Breaker
from agents.model.port import Call, Question, Reply, Route
from contracts.errors import Refused, Usage

NAME: Final = "scripted"
TRIAGE: Final = "triage"
"""The purpose of the question whether a task is in bounds."""
TRIAGE_TOOL: Final = "triage_verdict"
"""The tool that it is answered by. An empty input means that the task is in bounds."""


class ScriptedModel:
    """Answers from a script; costs nothing."""

    name = NAME

    def __init__(self, script: dict[str, list[dict[str, Any]]]) -> None:
        self._script = script
        self._route = Route(NAME, NAME, "a script", Breaker(NAME))

    @classmethod
    def load(cls, path: Path) -> ScriptedModel:
        """Read a script; raises Usage where it is missing or malformed."""
        try:
            script = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise Usage(f"the model script {path} cannot be read: {error}") from None
        if not is_script(script):
            raise Usage(f"the model script {path} is not role -> list of answers", hint="docs/models.md")
        return cls(script)

    def routes(self, question: Question) -> Sequence[Route]:
        if question.purpose != TRIAGE and not self._script.get(question.role):
            raise Refused(f"the model script has no answer for {question.role}", hint="add one to the script")
        return (self._route,)

    def call(self, question: Question, route: Route) -> Call:
        return free_call(question, route)

    async def open(self, route: Route) -> None:
        """Nothing is needed."""

    async def send(self, call: Call) -> Reply:
        asked = call.question
        answers = self._script.get(asked.purpose or asked.role) or [{}]
        answer = answers[min(asked.turn, len(answers) - 1)]
        content = [
            {"type": "tool_use", "id": f"toolu_{call.sha256[:24]}{number:02d}", **made}
            for number, made in enumerate(calls_in(answer, asked.answer_tool))
        ]
        message = {"type": "message", "role": "assistant", "model": NAME, "content": content, "stop_reason": "tool_use"}
        return Reply(message, NAME, request_id=hashlib.sha256(call.id.encode()).hexdigest()[:24])


class NoModel:
    """Stands where no model is configured: refuses with the way forward."""

    name = "none"

    def routes(self, question: Question) -> Sequence[Route]:
        raise Refused(
            f"{question.role} needs a model and none is configured",
            hint="set ANTHROPIC_API_KEY, or submit with --author command or patch; see docs/models.md",
        )

    def call(self, question: Question, route: Route) -> Call:
        raise NotImplementedError(f"{route} has no model for {question.role}")

    async def open(self, route: Route) -> None:
        """There is nothing to open."""

    async def send(self, call: Call) -> Reply:
        raise NotImplementedError(f"{call.route} has no model")


def free_call(question: Question, route: Route) -> Call:
    """A call that nobody is paid for: nothing is set apart for it."""
    frame = wire.frame_of(question, route.model, tokens_max=4096, stream=False)
    return Call(question, route, frame, wire.encode(frame), 0, 0)


def calls_in(answer: dict[str, Any], tool: str) -> list[dict[str, Any]]:
    """The calls that an answer stands for, as name and input; one of `tool` where it does not say otherwise."""
    if set(answer) != {"calls"}:
        return [{"name": tool, "input": answer}]
    return [{"name": call["tool"], "input": call.get("input", {})} for call in answer["calls"]]


def is_script(found: object) -> bool:
    """Whether this is role -> list of answers."""
    return isinstance(found, dict) and all(
        isinstance(answers, list) and all(isinstance(answer, dict) and _calls_are_calls(answer) for answer in answers)
        for answers in found.values()
    )


def _calls_are_calls(answer: dict[str, Any]) -> bool:
    calls = answer.get("calls")
    return set(answer) != {"calls"} or (
        isinstance(calls, list)
        and all(
            isinstance(call, dict) and isinstance(call.get("tool"), str) and isinstance(call.get("input", {}), dict)
            for call in calls
        )
    )
