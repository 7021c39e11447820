"""A model that reads its answers from a file: for the demo and for tests, and announced as such.

The file is JSON: role -> list of answers. The n-th question of a role for a task gets the n-th answer; the last repeats.
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
        if not self._script.get(question.role):
            raise Refused(f"the model script has no answer for {question.role}", hint="add one to the script")
        return (self._route,)

    def call(self, question: Question, route: Route) -> Call:
        frame = wire.frame_of(question, route.model, tokens_max=4096, stream=False)
        return Call(question, route, frame, wire.encode(frame), 0, 0)

    async def open(self, route: Route) -> None:
        """Nothing is needed."""

    async def send(self, call: Call) -> Reply:
        answers = self._script[call.question.role]
        answer = answers[min(call.question.turn, len(answers) - 1)]
        tool = {
            "type": "tool_use",
            "id": f"toolu_{call.sha256[:24]}",
            "name": call.question.answer_tool,
            "input": answer,
        }
        message = {"type": "message", "role": "assistant", "model": NAME, "content": [tool], "stop_reason": "tool_use"}
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


def is_script(found: object) -> bool:
    """Whether this is role -> list of answers."""
    return isinstance(found, dict) and all(
        isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers) for answers in found.values()
    )
