"""The planning role's words: why a task is out of bounds, and what to do about it."""

from __future__ import annotations

from agents.planning import refuse
from agents.tools.judging import prepare_line
from contracts.envelope import root
from contracts.events import PlanRejected, TaskFailed, TaskSubmitted

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
