"""A model that reads its answers from a file: for the demo and for tests, and announced as such.

The file is JSON: role -> list of answers. The n-th call of a role for a task gets the n-th answer; the last repeats.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agents.model.port import ModelAnswer, ModelRequest
from contracts.errors import Refused, Usage


class ScriptedModel:
    """Answers from a script; costs nothing."""

    name = "scripted"

    def __init__(self, script: dict[str, list[dict[str, Any]]]) -> None:
        self._script = script

    @classmethod
    def load(cls, path: Path) -> ScriptedModel:
        """Read a script; raises Usage where it is missing or malformed."""
        try:
            script = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise Usage(f"the model script {path} cannot be read: {error}") from None
        good = isinstance(script, dict) and all(
            isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers)
            for answers in script.values()
        )
        if not good:
            raise Usage(
                f"the model script {path} is not role -> list of answers", hint="docs/settings.md, model.script"
            )
        return cls(script)

    async def ask(self, request: ModelRequest) -> ModelAnswer:
        answers = self._script.get(request.role, [])
        if not answers:
            raise Refused(f"the model script has no answer for {request.role}", hint="add one to the script")
        answer = answers[min(request.turn, len(answers) - 1)]
        return ModelAnswer(answer=answer, model=self.name)

    def worst_case(self, request: ModelRequest) -> tuple[int, int]:
        del request
        return 0, 0


class NoModel:
    """Stands where no model is configured: refuses with the way forward."""

    name = "none"

    async def ask(self, request: ModelRequest) -> ModelAnswer:
        raise Refused(
            f"{request.role} needs a model and none is configured",
            hint="submit with --author command or patch, or set model.script to a script of answers",
        )

    def worst_case(self, request: ModelRequest) -> tuple[int, int]:
        del request
        return 0, 0
