"""A coder that dies at any write of its work: who goes on repeats nothing that is recorded and makes the same change."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agents.model.calls import calls
from agents.tools import coding_tools
from agents.tools.authoring import Authoring, Written
from agents.tools.coding_tools import CodingTools
from agents.tools.reports import TestReport
from agents.tools.toolbox import Resources
from agents.tools.workspace import GitStore
from contracts.authority import Keyring
from contracts.events import PlanProposed
from contracts.prompts import Prompt
from state_store.port import Recorded, Step
from tests.acceptance.commands import git, repository
from tests.contract.store.world import World, opened
from tests.unit.test_model_asking import Provider, message, session_of

PROMPT = Prompt("coding.v2", "You write.")
FILES = {"money.py": "x = 1\ny = 2\n", "bills.py": "from money import x\n"}


class Killed(BaseException):
    """The process is gone."""


def says(*calls_made: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    blocks = [
        {"type": "tool_use", "id": f"t{n}", "name": name, "input": given} for n, (name, given) in enumerate(calls_made)
    ]
    return message(*blocks)


ANSWERS = [
    says(("search", {"text": "money"}), ("read", {"path": "bills.py"}), ("launch", {})),
    says(("edit", {"path": "money.py", "find": "gone", "replace": "x"}), ("edit", {"path": "money.py", "find": "y = 2", "replace": "y = 4"})),
    says(("run_tests", {}), ("edit", {"path": "money.py", "find": "y = 4", "replace": "y = 3"})),
    says(("finish", {"summary": "three", "edits": [{"path": "money.py", "find": "x = 1", "replace": "x = 7"}]})),
]  # fmt: skip
STEPS = [
    "read_files",
    "chat",
    "search",
    "read",
    "chat",
    "edit",
    "edit",
    "chat",
    "run_tests",
    "edit",
    "chat",
    "apply_edits",
    "run_tests",
]


@pytest.fixture
async def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GitStore:
    path = repository(tmp_path / "repo", FILES)
    made = GitStore(tmp_path / "git", work=tmp_path / "work")
    await made.import_commit(path, git(path, "rev-parse", "HEAD").strip())

    async def tested(resources: Any, project: Any, commit: str, *, overlay: dict[str, bytes]) -> TestReport:
        green = b"y = 3" in overlay["money.py"]
        passed, failed = (("t::y",), ()) if green else ((), ("t::y",))
        return TestReport(command=("pytest",), exit_code=not green, report_found=True, passed=passed, failed=failed)

    async def project(tools: CodingTools) -> Any:
        return SimpleNamespace(settings=SimpleNamespace(test_timeout_seconds=60))

    monkeypatch.setattr(coding_tools, "run_project_tests", tested)
    monkeypatch.setattr(CodingTools, "project", project)
    return made


class Answering(Provider):
    """Answers by what it is told of the turn, so that a question that is asked again gets the same answer."""

    async def send(self, call: Any) -> Any:
        self.told = [ANSWERS[call.question.turn]]
        return await super().send(call)


async def write(world: World, event: Recorded, store: GitStore, base: str, provider: Provider) -> Written:
    """The delivery as the next worker makes it."""
    resources = Resources(store, world.codec, provider, Path("/nowhere"), Keyring())
    tools = CodingTools(await session_of(world, event), resources)
    plan = PlanProposed(summary="s", files=("money.py",), base_commit=base)
    return await Authoring(tools, PROMPT, base, plan).write()


def dies_at(world: World, monkeypatch: pytest.MonkeyPatch, number: int, *, after: bool) -> None:
    """The process dies before or after it writes the outcome of its n-th step, counted from 0."""
    write_outcome, seen = world.store.step_outcome, [0]

    async def dying(delivery: Any, step: Step) -> None:
        mine, seen[0] = seen[0] == number, seen[0] + 1
        if mine and not after:
            raise Killed
        await write_outcome(delivery, step)
        if mine:
            raise Killed

    monkeypatch.setattr(world.store, "step_outcome", dying)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_whoever_goes_on_repeats_nothing_that_is_recorded(store: GitStore, tmp_path: Path, after: bool) -> None:
    base = git(tmp_path / "repo", "rev-parse", "HEAD").strip()
    commits = set()
    for number, name in enumerate(STEPS):
        (tmp_path / f"store-{number}").mkdir()
        async with opened("inline", tmp_path / f"store-{number}") as world:
            event = await world.submit(title="mend it", task_id="01920000-0000-7000-8000-000000000001")
            provider = Answering()
            with pytest.MonkeyPatch.context() as patched:
                dies_at(world, patched, number, after=after)
                with pytest.raises(Killed):
                    await write(world, event, store, base, provider)
            before = len(provider.asked)
            written = await write(world, event, store, base, provider)
            steps = await world.store.steps(event.envelope.task_id)
        assert not any(step.abandoned for step in steps)
        assert [step.name for step in steps if step.outcome == "ok"] == STEPS
        lost = name == "chat" and not after
        assert [step.outcome for step in calls(steps)].count("error") == lost
        assert len(provider.asked) == len(ANSWERS) + lost
        assert before == sum(step == "chat" for step in STEPS[: number + 1])
        assert written.evidence is not None
        assert (written.evidence.green, written.evidence.digest) == (True, written.authored.digest)
        commits.add(written.authored.digest)
    assert len(commits) == 1
