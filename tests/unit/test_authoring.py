"""A change written turn by turn, without processes: what a model is told, what it may not do, and how it ends."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from agents.model.context import Part, bytes_for, compose, size_of
from agents.model.port import Reply, ToolOffer
from agents.tools.authoring import CALLS_MAX, OFFERS, Authoring, Written, calls_in
from agents.tools.coding_tools import (
    Authored,
    Edited,
    EditRequest,
    EditsOnBase,
    FilesRequest,
    FileTexts,
    Found,
    Hit,
    ReadRequest,
    SearchRequest,
    Shown,
    TreeRequest,
    Tried,
)
from agents.tools.drafts import BadEdit, Draft, Edit
from agents.tools.toolbox import MindLimits
from contracts.errors import NotFound
from contracts.events import Evidence, Finding, PlanProposed
from contracts.prompts import Prompt

BASE = {"money.py": "x = 1\ny = 2\n", "bills.py": "from money import x\n"}
PROMPT = Prompt("coding.v2", "You write.")


def call(tool: str, **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": "t", "name": tool, "input": given}


def edit(find: str, replace: str, path: str = "money.py") -> dict[str, Any]:
    return call("edit", path=path, find=find, replace=replace)


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


class Coder:
    """The tools of coding over two files in memory; tests are green where money.py says `y = 3`."""

    def __init__(
        self, *turns: Sequence[dict[str, Any]], limits: MindLimits | None = None, title: str = "mend it"
    ) -> None:
        self.turns = list(turns)
        self.draft = Draft("")
        self.session = SimpleNamespace(state=SimpleNamespace(title=title))
        self.resources = SimpleNamespace(minds=limits or MindLimits(turns=12, stuck_turns=3))
        self.told: list[str] = []
        self.steps: list[str] = []
        self.files = dict(BASE)

    async def task_text(self) -> str:
        return str(self.session.state.title)

    async def hear(
        self, prompt: Prompt, parts: Sequence[Part], tools: Sequence[ToolOffer], last: str, why: str
    ) -> Reply:
        room = bytes_for(self.resources.minds.context_tokens, prompt.text, tools)
        self.told.append(compose(parts, room))
        assert size_of(self.told[-1]) <= room
        said = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        return Reply({"content": list(said), "stop_reason": "tool_use"})

    async def read_files(self, request: FilesRequest, why: str) -> FileTexts:
        self.steps.append("read_files")
        return FileTexts(texts={path: self.files[path] for path in request.paths if path in self.files})

    async def search(self, request: SearchRequest, why: str) -> Found:
        self.steps.append("search")
        hits = [Hit(path=p, line=1, text=t.splitlines()[0]) for p, t in self.files.items() if request.text in t]
        return Found(hits=tuple(hits))

    async def read(self, request: ReadRequest, why: str) -> Shown:
        self.steps.append("read")
        if request.path not in self.files:
            return Shown(problem=f"there is no file {request.path!r}")
        return Shown(text=await self.text_now(request.path), total=2)

    async def edit(self, request: EditRequest, why: str) -> Edited:
        self.steps.append("edit")
        assert request.tree == self.draft.digest
        try:
            return Edited(tree=self._edited(self.draft, request.edit).digest)
        except BadEdit as error:
            return Edited(problem=str(error))

    async def run_tests(self, request: TreeRequest, why: str) -> Tried:
        self.steps.append("run_tests")
        green = "y = 3" in await self.text_now("money.py")
        failed = () if green else ("t::y",)
        summary = "2 passed" if green else "1 failed"
        return Tried(
            evidence=Evidence(digest="", command=(), green=green, failed=failed, summary=summary), output="E y\n"
        )

    async def apply_edits(self, request: EditsOnBase, why: str) -> Authored:
        self.steps.append("apply_edits")
        draft = Draft(request.base, request.scope)
        try:
            for one in request.edits:
                draft = self._edited(draft, one)
        except BadEdit as error:
            return Authored(problem=str(error), problem_code="bad_edit")
        return (
            Authored(head_commit="h", digest=f"sha256:{draft.digest}")
            if draft.texts
            else Authored(problem="it is empty")
        )

    async def accept(self, one: Edit) -> None:
        self.draft = self._edited(self.draft, one)

    async def text_now(self, path: str) -> str:
        return self.draft.texts.get(path) or self.files[path]  # nothing is deleted here

    async def text_at_base(self, path: str) -> str:
        if path not in self.files:
            raise NotFound(path)
        return self.files[path]

    def _edited(self, draft: Draft, one: Edit) -> Draft:
        return draft.edited(one, self.files.get(one.path))


def plan(*files: str) -> PlanProposed:
    red = Evidence(digest="d", command=("pytest",), green=False, failed=("t::y",), summary="1 failed")
    return PlanProposed(
        summary="the plan", files=files or ("money.py",), tests=("t::y",), base_commit="c", base_evidence=red
    )


async def write(coder: Coder, *findings: Finding, files: Sequence[str] = ()) -> Written:
    tools: Any = coder
    return await Authoring(tools, PROMPT, "c0", plan(*files), findings, "-y = 1\n+y = 2\n" if findings else "").write()


FIX = edit("y = 2", "y = 3")
LOST = call("read", path="money.py")


async def test_one_answer_may_be_the_whole_change() -> None:
    coder = Coder([call("finish", summary="three", edits=[{"path": "money.py", "find": "y = 2", "replace": "y = 3"}])])
    written = await write(coder)
    assert coder.steps == ["read_files", "apply_edits", "run_tests"]
    assert written.evidence is not None
    assert (written.evidence.green, written.evidence.digest) == (True, written.authored.digest)


async def test_an_object_in_plain_words_is_an_answer_too() -> None:
    words = '```json\n{"edits": [{"path": "money.py", "find": "y = 2", "replace": "y = 3"}]}\n```'
    assert (await write(Coder([text(words)]))).evidence is not None


async def test_several_calls_in_one_turn_and_tests_that_are_not_run_twice() -> None:
    coder = Coder([FIX, call("run_tests")], [call("finish", summary="done")])
    written = await write(coder)
    assert coder.steps == ["read_files", "edit", "run_tests", "apply_edits"]
    assert written.evidence is not None
    assert written.evidence.green


async def test_what_follows_a_finish_is_not_done() -> None:
    coder = Coder([FIX, call("finish"), edit("x = 1", "x = 9")])
    await write(coder)
    assert coder.draft.texts == {"money.py": "x = 1\ny = 3\n"}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (call("launch_rocket"), "there is no such tool; there are finish, search, read, edit, run_tests"),
        (call("read", path=["a"]), "read: path: Input should be a valid string"),
        (call("read", file="money.py"), "file: Extra inputs are not permitted"),
        (call("read", path="gone.py"), "there is no file 'gone.py'"),
        (call("edit", path="money.py", mode="0777", replace="x"), "mode: Extra inputs are not permitted"),
        (edit("", "x", path="bills.py"), "'bills.py' is none of the files of the plan: money.py"),
        (edit("y = 9", "x"), "occurs 0 times"),
        (call("finish", edits=[{"path": "../x", "replace": "x"}]), "leaves the repository"),
        (call("finish", edits=[{"path": "money.py", "replace": BASE["money.py"]}]), "finish: it is empty"),
        ({"type": "tool_use", "id": "t", "name": "edit", "input": "nonsense"}, "edit: it: Input should be"),
        (text("I think so."), "no tool was called"),
    ],
)
async def test_what_goes_wrong_is_told_and_the_next_turn_may_mend_it(bad: dict[str, Any], said: str) -> None:
    coder = Coder([bad], [FIX], [call("finish")])
    assert (await write(coder)).evidence is not None
    assert said in coder.told[1]


async def test_a_turn_has_only_so_many_calls() -> None:
    coder = Coder([LOST] * (CALLS_MAX + 5), [FIX, call("finish")])
    await write(coder)
    assert coder.steps.count("read") == CALLS_MAX
    assert f"only the first {CALLS_MAX} calls were made" in coder.told[1]


async def test_who_finishes_without_a_change_says_why() -> None:
    written = await write(Coder([call("finish", summary="It is right as it is.")]))
    assert written.authored.problem_code == "no_change"
    assert written.authored.problem == "the model finished without a change: It is right as it is."


@pytest.mark.parametrize(
    ("turns", "calls"),
    [
        ([[text("la la la")]], 3),
        ([[]], 3),
        ([[call("launch_rocket")]], 3),
        ([[LOST]], 3),
        ([[call("search", text="money")]], 4),
        ([[edit("y = 2", "y = 4")]], 4),
        (
            [
                [edit("y = 2", "y = 4")],
                [edit("y = 4", "y = 2")],
                [edit("y = 2", "y = 4")],
                [edit("y = 4", "y = 2")],
                [LOST],
            ],
            4,
        ),
        ([[call("run_tests")]], 3),
        ([[call("finish", edits=[{"path": "money.py", "find": "gone", "replace": "x"}])]], 3),
    ],
    ids=[
        "words",
        "empty",
        "no tool",
        "reading",
        "searching",
        "the same edit",
        "to and fro",
        "the same tests",
        "finish in vain",
    ],
)
async def test_who_brings_nothing_new_is_stuck_long_before_the_end(
    turns: list[list[dict[str, Any]]], calls: int
) -> None:
    coder = Coder(*turns, limits=MindLimits(turns=50, stuck_turns=3))
    written = await write(coder)
    assert written.authored.problem_code == "stuck"
    assert "3 turns brought nothing new: " in written.authored.problem
    assert len(coder.told) == calls


async def test_edits_without_end_that_change_no_test_are_motion_too() -> None:
    turns = [[edit(f"x = {n}", f"x = {n + 1}"), call("run_tests")] for n in range(1, 40)]
    coder = Coder(*turns, limits=MindLimits(turns=50, stuck_turns=3))
    assert (await write(coder)).authored.problem_code == "stuck"
    assert len(coder.told) < 8


async def test_turns_are_bounded_whatever_they_bring() -> None:
    coder = Coder(
        *[[edit(f"x = {n}", f"x = {n + 1}")] for n in range(1, 40)], limits=MindLimits(turns=7, stuck_turns=3)
    )
    written = await write(coder)
    assert (written.authored.problem_code, len(coder.told)) == ("turns_spent", 7)
    assert "7 turns (model.turns) brought no finished change; the last: edit money.py: made" in written.authored.problem


# -- what it is told --------------------------------------------------------------------------------------------------


async def test_each_turn_is_told_what_holds_now_and_not_what_was() -> None:
    finding = Finding(gate="reader", severity="blocker", message="y is off", file="money.py", line=2, evidence="y = 2")
    coder = Coder([call("read", path="bills.py")], [FIX, call("run_tests")], [LOST], [LOST, call("finish")])
    await write(coder, finding)
    first, second, third, fourth = coder.told
    assert "y = 2" in first
    assert "[blocker] money.py:2 y is off" in first
    assert "-y = 1" in first
    assert "failed: t::y" in first
    assert "from money import x" in second
    assert "y = 2" in second
    assert "y = 3" in third
    assert "+y = 3" in third
    assert "2 passed" in third
    assert "failed: t::y" not in third
    assert "turn 1: read bills.py: lines 1 to 1 of 2" in fourth
    assert "The last 1 brought nothing new" in fourth
    assert "This is turn 4; 8 more are left." in fourth


async def test_a_huge_task_with_huge_files_keeps_to_the_limit() -> None:
    limits = MindLimits(context_tokens=8000, turns=6, stuck_turns=6)
    coder = Coder(
        [call("read", path="bills.py"), call("search", text="x")], limits=limits, title="mend \u202e it " * 9000
    )
    coder.files |= {"money.py": "y = 2\n" + "ä = '漢'\n" * 20_000, "bills.py": "import x\n" * 30_000}
    await write(coder, *[Finding(gate="g", severity="minor", message="m" * 5000)] * 9)
    assert len(coder.told) == 6
    assert all("mend" in told and "the plan" in told and "This is turn" in told for told in coder.told)


def test_a_model_has_five_tools_and_finish_comes_first() -> None:
    assert [offer.name for offer in OFFERS] == ["finish", "search", "read", "edit", "run_tests"]
    assert all(offer.description and offer.schema["type"] == "object" for offer in OFFERS)


def test_calls_are_taken_as_they_are() -> None:
    assert calls_in(Reply({"content": [text("hm"), FIX]})) == [("edit", FIX["input"])]
    assert calls_in(Reply({"content": [text("[1]")]})) == []
    assert calls_in(Reply({"content": []})) == []
