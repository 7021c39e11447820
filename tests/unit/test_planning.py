"""The planning role: why a task is out of bounds, and which plans speak of what is there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, get_args

import pytest

from agents.model.scripted import TRIAGE_TOOL
from agents.planning import OUT_OF_BOUNDS, REPAIRS_MAX, handle, refuse
from agents.tools.grounding import FILES_PLANNED_MAX, closest, ungrounded
from agents.tools.judging import prepare_line
from agents.tools.planning_tools import PlanDraft, Survey, TriageVerdict
from agents.tools.toolbox import offer_of
from contracts.envelope import Event, root
from contracts.events import PlanProposed, PlanRejected, TaskEscalated, TaskFailed, TaskSubmitted
from contracts.prompts import Prompt

SUBMITTED = TaskSubmitted(title="t", repository="/r", project_id="p", project_digest="d", base_commit="c")


def test_the_way_forward_survives_a_long_output() -> None:
    rejected, failed = refuse(
        root(SUBMITTED, time_us=1), "the tests prove nothing\n" + "noise\n" * 100, "code", "gavotte project add"
    )
    assert isinstance(rejected.payload, PlanRejected)
    assert rejected.payload.reason.count("noise") == 100
    assert isinstance(failed.payload, TaskFailed)
    assert failed.payload.reason == "the tests prove nothing (gavotte project add)"


def test_a_path_with_spaces_can_be_pasted() -> None:
    assert prepare_line("/srv/my app") == ("gavotte project add '/srv/my app' --prepare \"pip install -e . pytest\"")


def test_imports_that_were_not_found_are_named_but_for_the_projects_own() -> None:
    files = ["src/shop/__init__.py", "tests/test_shop.py", "tools.py"]
    line = prepare_line("/p", ["freezegun", "shop", "tools", "pytest"], files)
    assert line == 'gavotte project add /p --prepare "pip install -e . pytest freezegun"'


PATHS = ("app/money.py", "app/tax/rates.py", "docs/a.md", "docs/b.md", "tests/test_money.py", "setup.py")
COLLECTED = ("tests/test_money.py::test_even", "tests/test_money.py::TestTax::test_rate[0.5]")


@pytest.mark.parametrize(
    ("files", "tests", "scope", "faults"),
    [
        (["app/money.py"], ["tests/test_money.py"], [], []),
        (["app/money.py"], ["tests/test_money.py::test_even", "tests/test_money.py::TestTax::test_rate", "tests"], [], []),
        (["app/new.py", "new.py", "tests/test_new.py"], ["tests/test_new.py::test_it"], [], []),
        (["docs/*.md", "app/"], [], [], []),
        (["tests/test_money.py"], ["tests/test_money.py::test_that_will_be"], [], []),
        ([], [], [], ["the plan names no file to change"]),
        (["app/mony/x.py"], [], [], ["there is no file 'app/mony/x.py', and no folder to put it in"]),
        (["app"], [], [], ["'app' is a folder: name its files, or write 'app/'"]),
        (["docs/*.rst"], [], [], ["no file matches 'docs/*.rst'"]),
        (["../../etc/passwd"], [], [], ["'../../etc/passwd' leaves the repository"]),
        (["/etc/passwd"], [], [], ["'/etc/passwd' is an absolute path"]),
        ([".git/hooks/pre-commit"], [], [], ["'.git/hooks/pre-commit' lies in git's own folder"]),
        (["app/money.py"], ["tests/test_gone.py"], [], ["there is no test file 'tests/test_gone.py', and the plan does not add one"]),
        (["app/money.py"], ["tests/test_money.py::test_odd"], [], ["no test is collected as 'tests/test_money.py::test_odd'"]),
        (["app/money.py"], ["docs/a.md"], [], ["no test is collected as 'docs/a.md'"]),
        (["app/money.py"], [], ["docs/"], ["'app/money.py' is more than the task allows: docs/"]),
        (["**"], [], ["docs/"], ["'**' is more than the task allows: docs/"]),
        (["docs/new.md", "docs/*"], [], ["docs/"], []),
    ],
)  # fmt: skip
def test_a_plan_is_held_against_the_repository(
    files: list[str], tests: list[str], scope: list[str], faults: list[str]
) -> None:
    draft = PlanDraft(summary="s", files=tuple(files), tests=tuple(tests))
    assert list(ungrounded(draft, PATHS, COLLECTED, scope)) == faults


def test_a_plan_for_everything_bounds_nothing() -> None:
    paths = [f"app/{number}.py" for number in range(FILES_PLANNED_MAX + 1)]
    (fault,) = ungrounded(PlanDraft(summary="s", files=("**",)), paths, ())
    assert fault.startswith("the plan covers 51 files, more than 50")


def test_tests_that_ran_in_a_folder_are_known_by_their_path() -> None:
    draft = PlanDraft(
        summary="s", files=("app/money.py",), tests=("app/tests/test_m.py::test_a", "app/tests/test_m.py")
    )
    paths = ("app/money.py", "app/tests/test_m.py")
    assert list(ungrounded(draft, paths, ("tests/test_m.py::test_a",))) == []
    assert list(ungrounded(draft, paths, ("tests/test_m.py::test_b",))) != []
    assert list(ungrounded(draft, paths, None)) == []


def test_of_many_files_those_that_the_words_speak_of_are_shown() -> None:
    paths = [f"lib/deep/{number:04}/module.py" for number in range(1000)] + ["lib/deep/x/tax_rates.py"]
    shown = closest(paths, "The tax in lib/deep/0777/module.py is off", 10)
    assert len(shown) == 10
    assert {"lib/deep/x/tax_rates.py", "lib/deep/0777/module.py"} <= set(shown)
    assert closest(paths, "x", 2000) == tuple(paths)


# -- the role -------------------------------------------------------------------------------------------------------


class Planner:
    """Tools of planning whose model gives this verdict, and these drafts in a row."""

    def __init__(self, verdict: TriageVerdict, *drafts: PlanDraft) -> None:
        self.verdict, self.drafts = verdict, list(drafts)
        self.told: list[list[str]] = []
        self.surveyed = False

    async def triage(self, prompt: Prompt) -> TriageVerdict:
        assert prompt.name == "triage.v1"
        return self.verdict

    async def survey(self, arguments: Any, why: str) -> Survey:
        self.surveyed = True
        return Survey(files=PATHS, files_total=len(PATHS), test_command=("pytest",))

    async def draft_plan(self, commit: str, survey: Survey, prompt: Prompt, before: Any, faults: Any) -> PlanDraft:
        self.told.append(list(faults))
        return self.drafts.pop(0)

    async def faults_of(self, draft: PlanDraft, commit: str, survey: Survey) -> list[str]:
        return list(ungrounded(draft, PATHS, COLLECTED))


async def answer(tools: Planner) -> list[Event]:
    state: Any = SimpleNamespace(
        task_id="t", author="model", repository="/r", base_commit="c", submission_id="s", scope=()
    )
    given: Any = tools
    return await handle(root(SUBMITTED, time_us=1), state, given, Prompt("planning.v2", "x"), Prompt("triage.v1", "y"))


GOOD = PlanDraft(summary="s", files=("app/money.py",), tests=("tests/test_money.py",))
BAD = PlanDraft(summary="s", files=("app/mony/x.py",))


@pytest.mark.parametrize("kind", OUT_OF_BOUNDS)
async def test_what_is_out_of_bounds_is_refused_before_anything_runs(kind: str) -> None:
    tools = Planner(TriageVerdict.model_validate({"out_of_bounds": kind, "reason": "It asks\nfor more."}))
    rejected, failed = [event.payload for event in await answer(tools)]
    assert isinstance(rejected, PlanRejected)
    assert rejected.reason == f"the task is out of bounds: {OUT_OF_BOUNDS[kind]}: It asks for more."
    assert rejected.reason_code == f"out_of_bounds_{kind}"
    assert isinstance(failed, TaskFailed)
    assert not tools.surveyed


def test_each_kind_of_refusal_has_its_words() -> None:
    kinds = get_args(TriageVerdict.model_fields["out_of_bounds"].annotation)
    assert set(kinds) == {"", *OUT_OF_BOUNDS}
    assert offer_of(TriageVerdict).name == TRIAGE_TOOL


async def test_an_honest_task_gets_its_plan() -> None:
    (planned,) = await answer(Planner(TriageVerdict(), GOOD))
    assert isinstance(planned.payload, PlanProposed)
    assert planned.payload.files == ("app/money.py",)


async def test_a_plan_that_is_off_is_asked_for_again_with_the_reasons() -> None:
    tools = Planner(TriageVerdict(), BAD, GOOD)
    (planned,) = await answer(tools)
    assert isinstance(planned.payload, PlanProposed)
    assert tools.told == [[], ["there is no file 'app/mony/x.py', and no folder to put it in"]]


async def test_plans_that_stay_off_end_with_a_person() -> None:
    tools = Planner(TriageVerdict(), *[BAD] * (REPAIRS_MAX + 1))
    (escalated,) = await answer(tools)
    assert isinstance(escalated.payload, TaskEscalated)
    assert escalated.payload.reason_code == "ungrounded_plan"
    assert "3 plans did not fit the repository; the last: there is no file" in escalated.payload.reason
    assert not tools.drafts
