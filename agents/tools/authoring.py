"""A change is written turn by turn: a model calls tools, each call is a step, and code decides when it is enough.

What a model is told is built anew each turn from what is known now: the task, the plan, the files as they are, the change
so far, what the tests said, the last turns in full and the older ones in a line each. Turns are bounded, and turns that
bring no new evidence end the work early.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agents.model.asking import json_in, problems_of
from agents.model.context import Part
from agents.model.port import Reply
from agents.model.progress import Progress, Turn
from agents.tools.coding_tools import (
    Authored,
    CodingTools,
    EditRequest,
    EditsOnBase,
    FilesRequest,
    ReadRequest,
    SearchRequest,
    TreeRequest,
    Tried,
)
from agents.tools.drafts import Draft, Edit
from agents.tools.toolbox import offer_of
from contracts.errors import NotFound
from contracts.events import Evidence, Finding
from contracts.prompts import Prompt

TURNS_IN_FULL: Final = 3
"""Turns whose results are told whole; of older ones a line is left."""
CALLS_MAX: Final = 12
"""Of one turn."""
SAID_CHARACTERS_MAX: Final = 300


class _Call(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Search(_Call):
    """Find a text in the files and their names; case does not matter. Gives the lines and where they are."""

    text: str = Field(min_length=1, max_length=200, description="The text, as it stands: no pattern.")
    path: str = Field(default="", description="A file, a folder or a pattern to search in; empty: everything.")


class Read(_Call):
    """Show lines of a file as it is now, your edits included."""

    path: str
    first: int = Field(default=1, ge=1, description="The first line.")
    lines: int = Field(default=400, ge=1, le=2000, description="How many lines.")


class RunTests(_Call):
    """Run the project's tests on the change as it is now."""


class Finish(BaseModel):
    """Hand the change over. Edits given here are made first, all or none. Without any edit at all, the reason why not."""

    summary: str = Field(default="", description="What was changed and why, for the commit.")
    edits: tuple[Edit, ...] = ()


CALLS: Final[dict[str, type[BaseModel]]] = {offer_of(cls).name: cls for cls in (Finish, Search, Read, Edit, RunTests)}
OFFERS: Final = tuple(offer_of(cls, lead="") for cls in CALLS.values())
LAST: Final = offer_of(Finish).name


@dataclass(frozen=True, slots=True)
class Written:
    """The change and what its tests say, or why there is none."""

    authored: Authored
    evidence: Evidence | None = None

    @classmethod
    def nothing(cls, problem: str, code: str) -> Written:
        return cls(Authored(problem=problem, problem_code=code))


@dataclass(slots=True)
class Told:
    """What came of one turn: a line for each call, and the results in full."""

    number: int
    lines: list[str] = field(default_factory=list)
    results: list[tuple[str, str]] = field(default_factory=list)

    def add(self, line: str, result: str = "", tool: str = "") -> None:
        self.lines.append(" ".join(line.split())[:SAID_CHARACTERS_MAX])
        if result:
            self.results.append((tool, result))


class Authoring:
    """One change in the making, for one delivery. `plan` is a PlanProposed, `last_change` the diff that was turned down."""

    def __init__(
        self,
        tools: CodingTools,
        prompt: Prompt,
        base: str,
        plan: Any,
        findings: Sequence[Finding] = (),
        last_change: str = "",
    ) -> None:
        tools.draft = Draft(base, tuple(plan.files))
        self._tools = tools
        self._prompt = prompt
        self._plan = plan
        self._findings = findings
        self._last_change = last_change
        self._shown: dict[str, str] = {}
        self._turns: list[Told] = []
        self._tested = ("", None, "") if plan.base_evidence is None else (tools.draft.digest, plan.base_evidence, "")
        self._done: Written | None = None
        known = None if plan.base_evidence is None else result_of(plan.base_evidence)
        self._progress = Progress(tools.resources.minds.stuck_turns, tree=tools.draft.digest, result=known)

    async def write(self) -> Written:
        """Turn after turn, until the model finishes, is stuck, or has had its turns."""
        tests = tuple(test.partition("::")[0] for test in self._plan.tests)
        wanted = FilesRequest(commit=self._tools.draft.base, paths=tuple(dict.fromkeys((*self._plan.files, *tests))))
        self._shown = (await self._tools.read_files(wanted, why="read the files of the plan")).texts
        for path, text in self._shown.items():
            self._progress.knows(path, text.splitlines())
        turns_max = self._tools.resources.minds.turns
        for number in range(1, turns_max + 1):
            reply = await self._tools.hear(
                self._prompt, await self._parts(number), OFFERS, LAST, f"write the change, turn {number}"
            )
            turn = await self._act(number, reply)
            if self._done is not None:
                return self._done
            self._progress.take(turn)
            if self._progress.stuck:
                return Written.nothing(f"the model is stuck: {self._progress.reason}{self._last_line()}", "stuck")
        return Written.nothing(
            f"{turns_max} turns (model.turns) brought no finished change{self._last_line()}", "turns_spent"
        )

    # -- one turn

    async def _act(self, number: int, reply: Reply) -> Turn:
        """Make the calls of a reply, one after the other."""
        turn, told = Turn(), Told(number)
        self._turns.append(told)
        calls = calls_in(reply)
        if not calls:
            told.add("no tool was called")
        for name, given in calls[:CALLS_MAX]:
            made = parsed(name, given)
            if isinstance(made, str):
                turn.failed += 1
                told.add(f"{name[:40]}: {made}")
                continue
            await self._make(made, turn, told)
            if self._done is not None:
                break
        if len(calls) > CALLS_MAX:
            told.add(f"only the first {CALLS_MAX} calls were made")
        return turn

    async def _make(self, call: BaseModel, turn: Turn, told: Told) -> None:
        why = f"turn {told.number}"
        match call:
            case Search():
                await self._search(call, turn, told, why)
            case Read():
                await self._read(call, turn, told, why)
            case Edit():
                await self._edit(call, turn, told, why)
            case RunTests():
                tried = await self._test(why)
                turn.results.append(result_of(tried.evidence))
                told.add(f"run_tests: {tried.evidence.summary}")
            case Finish():
                await self._finish(call, turn, told)

    async def _search(self, call: Search, turn: Turn, told: Told, why: str) -> None:
        tree = self._tools.draft.digest
        found = await self._tools.search(SearchRequest(tree=tree, text=call.text, path=call.path), why=why)
        for hit in found.hits:
            turn.shows(hit.path, [hit.text])
        turn.read = True
        lines = [*(f"{name}: its name" for name in found.names), *(f"{h.path}:{h.line}: {h.text}" for h in found.hits)]
        told.add(
            f"search {call.text!r}: {len(found.names)} names, {len(found.hits)} lines",
            "\n".join([*lines, found.problem]).strip() or "nothing was found",
            "search",
        )

    async def _read(self, call: Read, turn: Turn, told: Told, why: str) -> None:
        wanted = ReadRequest(tree=self._tools.draft.digest, path=call.path, first=call.first, lines=call.lines)
        shown = await self._tools.read(wanted, why=why)
        if shown.problem:
            turn.failed += 1
            told.add(f"read: {shown.problem}")
            return
        lines = shown.text.splitlines()
        turn.shows(call.path, lines)
        last = shown.first + len(lines) - 1
        told.add(f"read {call.path}: lines {shown.first} to {last} of {shown.total}", shown.text, f"read {call.path}")

    async def _edit(self, call: Edit, turn: Turn, told: Told, why: str) -> None:
        made = await self._tools.edit(EditRequest(tree=self._tools.draft.digest, edit=call), why=why)
        if made.problem:
            turn.failed += 1
            told.add(f"edit: {made.problem}")
            return
        await self._accept(call)
        turn.trees.append(made.tree)
        told.add(f"edit {call.path}: made")

    async def _accept(self, edit: Edit) -> None:
        """Make an edit; what the model wrote itself is no news to it."""
        await self._tools.accept(edit)
        self._progress.knows(edit.path, edit.replace.splitlines())

    async def _test(self, why: str) -> Tried:
        tree = self._tools.draft.digest
        tried = await self._tools.run_tests(TreeRequest(tree=tree), why=why)
        self._tested = (tree, tried.evidence, tried.output)
        return tried

    async def _finish(self, call: Finish, turn: Turn, told: Told) -> None:
        """Commit the change; what cannot be committed is told, and the model may go on."""
        draft = self._tools.draft
        if not call.edits and not draft.edits:
            said = " ".join(call.summary.split())[:SAID_CHARACTERS_MAX] or "no reason given"
            self._done = Written.nothing(f"the model finished without a change: {said}", "no_change")
            return
        edits = EditsOnBase(base=draft.base, summary=call.summary, edits=(*draft.edits, *call.edits), scope=draft.scope)
        authored = await self._tools.apply_edits(edits, why="apply the model's edits")
        if authored.problem:
            turn.failed += 1
            told.add(f"finish: {authored.problem}")
            return
        for edit in call.edits:
            await self._accept(edit)
        tree, evidence, _ = self._tested
        if tree != self._tools.draft.digest or evidence is None:
            evidence = (await self._test("see what the tests say")).evidence
        self._done = Written(authored, evidence.model_copy(update={"digest": authored.digest}))

    # -- what the model is told

    async def _parts(self, number: int) -> list[Part]:
        """All that is known, each part with its place in the order of giving way: docs/models.md has the table."""
        limits = self._tools.resources.minds
        older, recent = self._turns[:-TURNS_IN_FULL], self._turns[-TURNS_IN_FULL:]
        _, evidence, output = self._tested
        left = limits.turns - number
        told = f"This is turn {number}; {left} more {'is' if left == 1 else 'are'} left."
        if self._progress.idle:
            told += f" The last {self._progress.idle} brought nothing new: do something else, or finish."
        return [
            Part("task", await self._tools.task_text(), least_bytes=2000),
            Part("plan", plan_text(self._plan), least_bytes=1000),
            Part("change that was turned down", self._last_change, gives_way=2),
            Part("findings", "\n".join(map(finding_text, self._findings)), gives_way=1),
            *await self._files(),
            Part("change so far", await self._change(), gives_way=3, least_bytes=1500),
            Part("tests", tests_text(evidence, output), gives_way=2, least_bytes=1200),
            Part("older turns", "\n".join(map(line_of, older)), gives_way=4),
            *[
                Part("result", text, {"turn": turn.number, "tool": tool}, gives_way=1 if turn is recent[-1] else 5)
                for turn in recent
                for tool, text in turn.results
            ],
            Part("last turns", "\n".join(map(line_of, recent)), gives_way=1),
            Part("", told),
        ]

    async def _files(self) -> list[Part]:
        """The files of the plan and those that were changed, as they are now."""
        now = {**self._shown, **self._tools.draft.texts}
        return [
            Part("file", text, {"path": path}, gives_way=4, least_bytes=2000)
            for path, text in sorted(now.items())
            if text is not None
        ]

    async def _change(self) -> str:
        draft = self._tools.draft
        at_base: dict[str, str | None] = dict(self._shown)
        for path in draft.texts:
            if path not in at_base:
                at_base[path] = await self._at_base(path)
        return draft.diff(at_base)

    async def _at_base(self, path: str) -> str | None:
        try:
            return await self._tools.text_at_base(path)
        except NotFound:
            return None

    def _last_line(self) -> str:
        lines = [line for told in self._turns for line in told.lines]
        return f"; the last: {lines[-1]}" if lines else ""


def calls_in(reply: Reply) -> list[tuple[str, Any]]:
    """The calls of a reply as name and input; an object in plain words is one of the last tool."""
    made = [(str(b.get("name")), b.get("input")) for b in reply.content if b.get("type") == "tool_use"]
    if made:
        return made
    found = json_in(reply.text)
    return [] if found is None else [(LAST, found)]


def parsed(name: str, given: Any) -> BaseModel | str:
    """A call with its input checked, or what is wrong with it in words for the model."""
    cls = CALLS.get(name)
    if cls is None:
        return f"there is no such tool; there are {', '.join(CALLS)}"
    try:
        return cls.model_validate(given)
    except ValidationError as error:
        return problems_of(error)


def result_of(evidence: Evidence) -> tuple[str, ...]:
    """What a run of the tests is known by: what failed; empty where all is green."""
    return () if evidence.green else evidence.failed or (evidence.summary or "no verdict",)


def line_of(told: Told) -> str:
    return f"turn {told.number}: {'; '.join(told.lines)}"


def plan_text(plan: Any) -> str:
    steps = [f"- {step.title}{f': {step.detail}' if step.detail else ''}" for step in plan.steps]
    return "\n".join([plan.summary, *steps, f"files: {', '.join(plan.files)}", f"tests: {', '.join(plan.tests)}"])


def finding_text(finding: Finding) -> str:
    return f"- [{finding.severity}] {finding.file or ''}:{finding.line or ''} {finding.message} {finding.evidence}"


def tests_text(evidence: Evidence | None, output: str) -> str:
    """What the tests said last."""
    if evidence is None:
        return ""
    return "\n".join([evidence.summary, *(f"failed: {test}" for test in evidence.failed), output]).strip()
