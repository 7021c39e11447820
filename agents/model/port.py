"""The port to a language model: a question that names its prompt, the call that asks it of one model, and the reply.

The model fills in, code routes: a reply is validated by whoever asked. Messages and their blocks are those of the
Messages API, as plain data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal, Protocol

from agents.model.breaker import Breaker

Block = dict[str, Any]
"""A block of content: `{"type": "text", "text": ...}`, `tool_use`, `tool_result`, `thinking`."""


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a conversation. `model` is who wrote it, where a model did: thinking is readable to it alone."""

    role: Literal["user", "assistant"]
    content: tuple[Block, ...]
    model: str = ""

    @classmethod
    def by_us(cls, *texts: str) -> Said:
        """A user message of texts; empty ones are left out."""
        return cls("user", tuple({"type": "text", "text": readable(text)} for text in texts if text))


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """A tool that the model may call; `schema` is the JSON schema of its input."""

    name: str
    description: str
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be answered, by whichever model.

    `turn` counts the role's questions for the task from 0, `purpose` chooses the model (`triage`, `coding`, ...).
    `prompt` is (name and version, sha256 of the file), `instructions` its text. `answer_tool` is the tool whose input is
    the answer; empty where the model may do as it likes. Where `open_ended`, the other tools may be called as well, several
    at once, and `answer_tool` ends the work. `tokens_max` bounds the answer, 0 as the settings say.
    """

    role: str
    task_id: str
    turn: int
    prompt: tuple[str, str]
    instructions: str
    messages: tuple[Said, ...]
    tools: tuple[ToolOffer, ...] = ()
    answer_tool: str = ""
    purpose: str = ""
    tokens_max: int = 0
    open_ended: bool = False

    def digest(self) -> str:
        """What the journal knows the question by: free of models, prices and limits, which may change between runs."""
        asked = asdict(replace(self, tokens_max=0, purpose=""))
        if not self.open_ended:
            del asked["open_ended"]  # such questions are known by what they were before there were others
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()

    def then(self, *messages: Said) -> Question:
        """The same question with more said."""
        return replace(self, messages=(*self.messages, *messages))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counts them. The three kinds of input add up to what went in."""

    tokens_in: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    cache_read: int = 0
    tokens_out: int = 0

    @property
    def tokens_in_all(self) -> int:
        return self.tokens_in + self.cache_write + self.cache_write_1h + self.cache_read


@dataclass(frozen=True, slots=True)
class Route:
    """One model at one provider. `place` is where it is asked, for people; the breaker is that of the provider."""

    model: str
    provider: str
    place: str
    breaker: Breaker

    def __str__(self) -> str:
        return f"{self.model} at {self.place}"


@dataclass(frozen=True, slots=True)
class Call:
    """One try: the bytes that are sent, and what they may cost at most. `id` is the journal's name for it.

    `seconds_reserved` is the longest that it may take.
    """

    question: Question
    route: Route
    frame: dict[str, Any]
    body: bytes
    tokens_reserved: int
    cost_reserved_microdollars: int
    id: str = ""
    seconds_reserved: float = 0.0

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. `message` is the provider's answer as it was, streamed ones put together; `asked` the model by the
    name it was asked for, `model` the version that answered.

    `estimated` says that the price of the model is unknown, so that the cost is that of the dearest one known.
    `replayed` says that the journal gave it.
    """

    message: dict[str, Any]
    asked: str = ""
    usage: Usage = field(default_factory=Usage)
    cost_microdollars: int = 0
    estimated: bool = False
    request_id: str = ""
    replayed: bool = False

    @property
    def model(self) -> str:
        return str(self.message.get("model", ""))

    @property
    def stop_reason(self) -> str:
        return str(self.message.get("stop_reason") or "")

    @property
    def content(self) -> tuple[Block, ...]:
        return tuple(self.message.get("content") or ())

    @property
    def text(self) -> str:
        return "\n".join(str(block["text"]) for block in self.content if block.get("type") == "text")

    def said(self) -> Said:
        """The reply as a message of the conversation that goes on."""
        return Said("assistant", self.content, self.asked)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a failure means. `again`: the same model may answer soon. `counts`: the provider itself is in trouble.

    `charged`: the provider may have worked for it, so it is charged at its reservation. `person`: waiting mends nothing.
    """

    again: bool = False
    counts: bool = False
    charged: bool = False
    person: bool = False


KINDS: Final[dict[str, Kind]] = {
    "rate_limit": Kind(again=True),
    "overloaded": Kind(again=True, counts=True),
    "server_error": Kind(again=True, counts=True),
    "unreachable": Kind(again=True, counts=True),
    "cut": Kind(again=True, counts=True, charged=True),
    "timeout": Kind(again=True, counts=True, charged=True),
    "malformed": Kind(again=True, counts=True, charged=True),
    "authentication": Kind(counts=True),
    "billing": Kind(counts=True),
    "not_found": Kind(),
    "request": Kind(person=True),
    "resting": Kind(),
    "unpriced": Kind(person=True),
}
"""The last two are no calls at all: the breaker of the provider is open; nobody knows what the model costs."""


class Failure(Exception):
    """A call that brought no reply. `kind` is a key of KINDS; `retry_after_seconds` is what the provider asked for."""

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        status: int = 0,
        retry_after_seconds: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        self.request_id = request_id

    @property
    def means(self) -> Kind:
        return KINDS[self.kind]


class Model(Protocol):
    """Whatever answers. Nothing is tried twice in here: tries belong to `agents.model.asking`, where each is journaled."""

    name: str

    def routes(self, question: Question) -> Sequence[Route]:
        """The models to ask, the first choice first. Raises Refused where there is none."""
        ...

    def call(self, question: Question, route: Route) -> Call:
        """The call that asks this model, down to its bytes."""
        ...

    async def open(self, route: Route) -> None:
        """Make ready what takes long the first time, so that no call is charged for it."""
        ...

    async def send(self, call: Call) -> Reply:
        """One try. Raises Failure."""
        ...


def readable(text: str) -> str:
    """Text that JSON in UTF-8 can carry: bytes of files that are no UTF-8 become question marks."""
    return text.encode("utf-8", "replace").decode()
