"""The port to a language model: a request that names its prompt and wants a structured answer.

The model fills in, code routes: an answer is a JSON object that the caller validates with its own class.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One call. `turn` counts the role's calls for the task from 0; `answer_schema` is the JSON schema of the answer.

    `prompt` is (name and version, sha256 of the file). `content` is the built context, untrusted parts marked as such.
    """

    role: str
    task_id: str
    turn: int
    prompt: tuple[str, str]
    instructions: str
    content: str
    answer_schema: dict[str, Any] = field(default_factory=dict)
    tokens_max: int = 4096


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """The structured answer and what it cost, tokens as the provider counts them, money in micro-dollars."""

    answer: dict[str, Any]
    model: str
    tokens_in: int = 0
    tokens_out: int = 0
    cost_microdollars: int = 0


class Model(Protocol):
    """Whatever answers. Raises Unavailable (try later), Refused (it will not), Rejected (the answer is unusable)."""

    name: str

    async def ask(self, request: ModelRequest) -> ModelAnswer: ...

    def worst_case(self, request: ModelRequest) -> tuple[int, int]:
        """Tokens and micro-dollars that the call may cost at most."""
        ...
