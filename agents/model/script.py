"""The script of the model server: which answer a request gets. A file that anyone can write; docs/models.md shows it.

It is JSON or TOML. Rules are tried from top to bottom, and the first one that fits and is not used up answers. The
short form, role -> list of answers, is that of the scripted model: the n-th request of a role for a task gets the n-th
answer, and the last one repeats. Triage is answered by rules that name its tool, and else with yes.
"""

from __future__ import annotations

import fnmatch
import json
import re
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agents.model.faults import Fault
from agents.model.port import Block
from agents.model.scripted import TRIAGE, TRIAGE_TOOL, is_script
from contracts.errors import Usage

HINT: Final = "docs/models.md shows a script"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as rules see it. `number` counts all requests from 1, `nth` those of its role and task that were
    answered or are about to be, triage apart. `role`, `task` and `call` are what gavotte says in its headers; others leave them empty.
    """

    number: int
    nth: int
    body: dict[str, Any]
    sha256: str = ""
    role: str = ""
    task: str = ""
    call: str = ""

    @property
    def model(self) -> str:
        return str(self.body.get("model", ""))

    @property
    def tools(self) -> list[str]:
        """The names of the tools on offer."""
        return [str(tool.get("name")) for tool in self.body.get("tools") or [] if isinstance(tool, dict)]

    @property
    def turn(self) -> int:
        """How often the model has spoken in this conversation."""
        return sum(message.get("role") == "assistant" for message in self.body.get("messages") or [])

    @property
    def is_triage(self) -> bool:
        """Whether a task is to be let in or refused."""
        return TRIAGE_TOOL in self.tools

    def system(self) -> str:
        """The system prompt as one text."""
        return _text_of(self.body.get("system"))

    def said(self) -> str:
        """All that the user's side said, results of tools included."""
        messages = self.body.get("messages") or []
        return "\n".join(_text_of(message.get("content")) for message in messages if message.get("role") == "user")


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "\n".join(
        _text_of(block.get("content")) if block.get("type") == "tool_result" else str(block.get("text", ""))
        for block in blocks
        if isinstance(block, dict)
    )


@dataclass(frozen=True, slots=True)
class Given:
    """An answer: blocks, why it stops, and where they are known its tokens. `delay_seconds` passes before it."""

    content: list[Block]
    stop_reason: str = "end_turn"
    usage: dict[str, Any] = field(default_factory=dict)
    delay_seconds: float = 0.0


class Answers(Protocol):
    """Whatever knows the answers: a script, or the journal of a task."""

    def answer(self, asked: Asked) -> Given | None: ...


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class When(_Strict):
    """What must hold of a request, all of it; what is not given does not matter."""

    role: str | None = Field(default=None, description="The role that asks, as gavotte says in its headers.")
    task: str | None = Field(default=None, description="A part of the task's id.")
    model: str | None = Field(default=None, description="The model asked for; `*` stands for anything.")
    tool: str | None = Field(default=None, description="A tool that is on offer, for instance `plan_draft`.")
    system: str | None = Field(default=None, description="A text in the system prompt.")
    contains: str | tuple[str, ...] = Field(default=(), description="Texts in what the user's side said.")
    matches: str | None = Field(default=None, description="A regular expression found in what the user's side said.")
    turn: int | None = Field(default=None, description="How often the model has spoken in the conversation.")
    nth: int | None = Field(default=None, description="The n-th request of this role for this task, from 1.")

    def fits(self, asked: Asked) -> bool:
        """Whether the request is meant."""
        texts = (self.contains,) if isinstance(self.contains, str) else self.contains
        said = asked.said() if texts or self.matches is not None else ""
        return (
            self.role in {None, asked.role}
            and self.turn in {None, asked.turn}
            and self.nth in {None, asked.nth}
            and (self.task is None or self.task in asked.task)
            and (self.model is None or fnmatch.fnmatchcase(asked.model, self.model))
            and (self.tool is None or self.tool in asked.tools)
            and (self.system is None or self.system in asked.system())
            and all(text in said for text in texts)
            and (self.matches is None or re.search(self.matches, said) is not None)
        )


class ToolCall(_Strict):
    """A call of a tool."""

    tool: str
    input: dict[str, Any] = Field(default_factory=dict)


class Rule(_Strict):
    """One answer and when it is given."""

    when: When = Field(default_factory=When, description="What must hold; empty: always.")
    times: int | None = Field(
        default=None, ge=1, description="So often for each task; then later rules have their turn."
    )
    input: dict[str, Any] | None = Field(default=None, description="The input of a tool that is called.")
    tool: str = Field(default="", description="The tool; empty: the first one on offer.")
    text: str = Field(default="", description="A text, before the call of the tool or on its own.")
    calls: tuple[ToolCall, ...] = Field(default=(), description="Several calls at once, each with `tool` and `input`.")
    content: tuple[dict[str, Any], ...] = Field(default=(), description="Blocks of the Messages API, as they are.")
    stop_reason: str = Field(default="", description="Why the answer stops; empty: as its blocks suggest.")
    output_tokens: int | None = Field(default=None, ge=0, description="Tokens to report; empty: counted by length.")
    delay_seconds: float = Field(default=0, ge=0, description="Seconds before it is given.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.input is None and not (self.text or self.calls or self.content or self.stop_reason):
            raise ValueError("a rule gives input, calls, text, content or a stop_reason")
        return self

    def given(self, asked: Asked) -> Given:
        """The answer to this request."""
        blocks: list[Block] = [dict(block) for block in self.content]
        if self.text:
            blocks.append({"type": "text", "text": self.text})
        made = [(call.tool, call.input) for call in self.calls]
        if self.input is not None:
            made.append((self.tool or next(iter(asked.tools), "answer"), self.input))
        for name, given in made:
            blocks.append({"type": "tool_use", "id": tool_id(asked, len(blocks)), "name": name, "input": given})
        called = any(block.get("type") == "tool_use" for block in blocks)
        usage = {} if self.output_tokens is None else {"output_tokens": self.output_tokens}
        return Given(blocks, self.stop_reason or ("tool_use" if called else "end_turn"), usage, self.delay_seconds)


class Script(_Strict):
    """The whole file."""

    answers: tuple[Rule, ...] = ()
    faults: tuple[Fault, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Script:
        """Read a script; raises Usage that says where it is off."""
        try:
            text = path.read_text("utf-8")
            found = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
        except (OSError, ValueError) as error:
            raise Usage(f"the script {path} cannot be read: {error}", hint=HINT) from None
        return cls.parse(found, str(path))

    @classmethod
    def parse(cls, found: object, name: str) -> Script:
        """A script from plain data; raises Usage."""
        if is_script(found) and isinstance(found, dict) and not {"answers", "faults"} & set(found):
            found = {"answers": [rule for role, answers in found.items() for rule in _in_a_row(role, answers)]}
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            at = ".".join(str(part) for part in problem["loc"])
            raise Usage(f"the script {name}: {at}: {problem['msg']}", hint=HINT) from None


def _in_a_row(role: str, answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The short form as rules: each answer once for a task, the last one for ever."""
    when = {"tool": TRIAGE_TOOL} if role == TRIAGE else {"role": role}
    rules: list[dict[str, Any]] = [
        {"when": when, "times": 1, **(answer if set(answer) == {"calls"} else {"input": answer})} for answer in answers
    ]
    if rules:
        del rules[-1]["times"]
    return rules


class ScriptAnswers:
    """Answers by a script, and remembers for each task which rules are used up."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._used: Counter[tuple[int, str]] = Counter()

    def answer(self, asked: Asked) -> Given | None:
        """The answer of the first rule that fits; where none does, triage lets in, and who offers no tool is told `ready`."""
        for index, rule in enumerate(self._script.answers):
            if asked.is_triage and rule.when.tool != TRIAGE_TOOL:
                continue
            used_up = rule.times is not None and self._used[index, asked.task] >= rule.times
            if not used_up and rule.when.fits(asked):
                self._used[index, asked.task] += 1
                return rule.given(asked)
        return unscripted(asked)


def unscripted(asked: Asked) -> Given | None:
    """What is said where nobody wrote an answer: triage lets in, and who offers no tool is told `ready`."""
    if asked.is_triage:
        return Rule(input={}, tool=TRIAGE_TOOL).given(asked)
    return None if asked.tools else Given([{"type": "text", "text": "ready"}])


def tool_id(asked: Asked, index: int = 0) -> str:
    """An id for a call of a tool, the same for the same request."""
    return f"toolu_{asked.sha256[:20]}{index:02d}"
