"""The tools of a role for one delivery: typed methods whose calls are journaled steps.

`@tool` turns `async def name(self, arguments: A) -> R` (both pydantic models) into a step: the intent is recorded
before, the outcome after, and a rerun is answered from the journal. Acts on the world go through `Session.act` inside.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Concatenate, Final, TypeVar, get_type_hints

from pydantic import BaseModel

from agents.model.asking import Asker
from agents.model.calls import arguments_of, calls
from agents.model.context import Part, bytes_for, compose
from agents.model.port import Model, Question, Reply, Said, ToolOffer, readable
from agents.session import Outcome, Reservation, Session
from agents.tools.sandbox import DEFAULT_LIMITS, Kind, Limits
from agents.tools.workspace import GitStore
from contracts import ids
from contracts.authority import Keyring
from contracts.codec import Codec
from contracts.envelope import Event
from contracts.errors import NotFound
from contracts.events import Body, body_text
from contracts.project import Project
from contracts.prompts import Prompt
from contracts.redaction import redacted

A = TypeVar("A", bound=BaseModel)
R = TypeVar("R", bound=BaseModel)
T = TypeVar("T", bound="Toolbox")


@dataclass(frozen=True, slots=True)
class MindLimits:
    """What a model may take up: tokens of one request, turns for one change, turns in a row without new evidence."""

    context_tokens: int = 32_000
    turns: int = 20
    stuck_turns: int = 5


REPAIR_TOKENS: Final = 4000
"""Of a request, kept free for an answer that could not be used and for what was wrong with it."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What the tools of one process share: the git store, folders, the model, the codec."""

    git: GitStore
    codec: Codec
    model: Model
    releases: Path
    keyring: Keyring
    allow_unsafe_sandbox: bool = False
    four_eyes: bool = False
    """Whether whoever submitted a task may not approve it."""
    sandbox_kind: Kind = "auto"
    limits: Limits = DEFAULT_LIMITS
    """What one run in the sandbox may use on this machine."""
    minds: MindLimits = MindLimits()

    def limits_of(self, project: Project, seconds_max: float = math.inf) -> Limits:
        """The machine's limits, with the project's own time, or `seconds_max`, where that is shorter."""
        seconds = min(self.limits.wall_seconds, float(project.settings.test_timeout_seconds), max(seconds_max, 1.0))
        return replace(self.limits, wall_seconds=seconds, cpu_seconds=math.ceil(seconds))


TOOL_SECONDS: Final = 300.0
"""The longest that a tool may work by itself."""
RUNS_MAX: Final = 4
"""How often a tool may run a project's tests: what there was, what there is, and the tests of each with the other."""


def tool(
    method: Callable[Concatenate[T, A, ...], Awaitable[R]],
) -> Callable[Concatenate[T, A, ...], Awaitable[R]]:
    """Journal a tool's calls. The method's name is the step's name, its docstring's first line what it is for."""
    return _journaled(method, runs=0)


def tool_with_runs(
    method: Callable[Concatenate[T, A, ...], Awaitable[R]],
) -> Callable[Concatenate[T, A, ...], Awaitable[R]]:
    """A tool that runs code of the project: the time that this may take is set apart too."""
    return _journaled(method, runs=RUNS_MAX)


def _journaled(
    method: Callable[Concatenate[T, A, ...], Awaitable[R]], *, runs: int
) -> Callable[Concatenate[T, A, ...], Awaitable[R]]:
    result_class: list[type[BaseModel]] = []

    @functools.wraps(method)
    async def journaled(self: T, arguments: A, *, why: str = "") -> R:
        if not result_class:
            result_class.append(get_type_hints(method)["return"])

        async def run() -> Outcome:
            return Outcome((await method(self, arguments)).model_dump_json())

        seconds = TOOL_SECONDS
        if runs:
            seconds += runs * self.resources.limits_of(await self.project()).wall_seconds
        text = await self.session.step(
            "tool",
            method.__name__,
            arguments.model_dump_json(),
            run,
            why=why,
            reserved=Reservation(wall_seconds=seconds),
        )
        return result_class[0].model_validate_json(text)  # type: ignore[return-value]  # the hint names R itself

    journaled.is_tool = True  # type: ignore[attr-defined]  # marks it for the list of a role's tools
    return journaled


class Toolbox:
    """What every role has: its past events, bodies, a clock that replays, and the model."""

    def __init__(self, session: Session, resources: Resources) -> None:
        self.session = session
        self.resources = resources
        self._turns: dict[str, int] = {}

    async def now_us(self) -> int:
        """The time, the same on every rerun of this delivery."""
        return int(await self.session.value("now_us", ids.now_us))

    async def recall(self, event_id: str | None) -> Event:
        """An earlier event of the task: recorded facts never change, so this is no step."""
        found = await self.session.store.event(event_id) if event_id else None
        if found is None:
            raise NotFound(f"event {event_id} is not in the store")
        return self.resources.codec.decode(found.envelope, found.value)

    async def task_text(self) -> str:
        """Title and description as the person gave them, or corrected them since."""
        state = self.session.state
        description = state.corrections.get("description")
        if description is None:
            submitted: Any = (await self.recall(state.submission_id)).payload
            description = submitted.description
        return f"{state.title}\n\n{description}"

    async def text(self, body: Body) -> str:
        """The text of a body, wherever it is kept."""
        stored = None
        if body.text is None:
            raw = await self.session.store.body(body.digest)
            stored = None if raw is None else raw.decode("utf-8", "surrogateescape")
        return body_text(body, stored)

    async def keep(self, text: str) -> Body:
        """A body for an event, without secrets; large texts go into the store first."""
        text = redacted(text)
        body = Body.of(text)
        if body.text is None:
            await self.session.store.put_body(text.encode("utf-8", "surrogateescape"))
        return body

    async def project(self) -> Project:
        """The project's settings as they were pinned when the task was submitted."""
        state = self.session.state
        found = await self.session.store.project_version(state.project_id, state.project_digest)
        if found is None:
            raise NotFound(
                f"project {state.project_id} has no settings {state.project_digest}", hint="gavotte project list"
            )
        return found

    async def ask_model(
        self,
        prompt: str,
        instructions: str,
        content: str,
        answer: type[R],
        *,
        turn: int,
        why: str = "",
        purpose: str = "",
    ) -> R:
        """A structured answer of the model, validated. Each try is a journaled step with its cost.

        `purpose` chooses the model where it is not the role's own, for instance `triage`.
        """
        offer = offer_of(answer)
        question = Question(
            role=self.session.delivery.role,
            task_id=self.session.delivery.task_id,
            turn=turn,
            prompt=(prompt, hashlib.sha256(instructions.encode()).hexdigest()),
            instructions=readable(instructions),
            messages=(Said.by_us(redacted(content)),),
            tools=(offer,),
            answer_tool=offer.name,
            purpose=purpose,
        )
        return await self.asker.ask(question, answer, why=why)

    async def ask(self, prompt: Prompt, parts: Sequence[Part], answer: type[R], *, why: str, purpose: str = "") -> R:
        """The same with a content of parts, which keeps to the limit of tokens."""
        content = compose(parts, self.room_for(prompt, answer))
        turn = await self.next_turn(prompt)
        return await self.ask_model(prompt.name, prompt.text, content, answer, turn=turn, why=why, purpose=purpose)

    def room_for(self, prompt: Prompt, answer: type[BaseModel]) -> int:
        """The bytes that the content of a question may have."""
        return bytes_for(self.resources.minds.context_tokens - REPAIR_TOKENS, prompt.text, [offer_of(answer)])

    async def hear(
        self, prompt: Prompt, parts: Sequence[Part], tools: Sequence[ToolOffer], last: str, why: str
    ) -> Reply:
        """What the model does next with these tools, of which `last` ends the work; its calls are for the caller to make."""
        content = compose(parts, bytes_for(self.resources.minds.context_tokens, prompt.text, tools))
        question = Question(
            role=self.session.delivery.role,
            task_id=self.session.delivery.task_id,
            turn=await self.next_turn(prompt),
            prompt=(prompt.name, hashlib.sha256(prompt.text.encode()).hexdigest()),
            instructions=readable(prompt.text),
            messages=(Said.by_us(content),),
            tools=tuple(tools),
            answer_tool=last,
            open_ended=True,
        )
        return await self.asker.hear(question, why=why)

    async def next_turn(self, prompt: Prompt) -> int:
        """How often the role has asked by a prompt of this kind for the task, in earlier deliveries and in this one."""
        kind = prompt.name.partition(".")[0]
        if kind not in self._turns:
            here = self.session.delivery
            steps = await self.session.store.steps(here.task_id)
            asked = [
                int(arguments_of(step).get("turn", 0))
                for step in calls(steps)
                if step.role == here.role and step.cause_id != here.cause_id and step.prompt.partition(".")[0] == kind
            ]
            self._turns[kind] = max(asked, default=-1) + 1
        self._turns[kind] += 1
        return self._turns[kind] - 1

    @property
    def asker(self) -> Asker:
        """Asks the model on behalf of this delivery: also for conversations with tools of their own."""
        return Asker(self.session, self.resources.model)


def offer_of(answer: type[BaseModel], lead: str = "The answer. ") -> ToolOffer:
    """The tool whose input is the answer: `PlanDraft` is asked for as `plan_draft`. `lead` begins what is said of it."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", answer.__name__).lower()
    about = " ".join((answer.__doc__ or "").split())
    return ToolOffer(name, f"{lead}{about}".strip(), answer.model_json_schema())


def tools_of(toolbox: type[Toolbox]) -> dict[str, str]:
    """Name and purpose of a role's tools."""
    found: dict[str, str] = {}
    for name in dir(toolbox):
        member: Any = getattr(toolbox, name)
        if getattr(member, "is_tool", False):
            found[name] = (member.__doc__ or "").strip().splitlines()[0]
    return found
