"""A budget that is spent: the task asks, a person raises it, it ends; and a model that talks nonsense costs no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.commands import SPLIT, TESTS, Person, repository, until
from tests.acceptance.test_model_dance import KEY, SCRIPT, calls_on, matched, paid_once, url_in

NONSENSE = '[[answers]]\nwhen = { contains = "nonsense" }\ntext = "la la la"\n'


@pytest.fixture
def ann(tmp_path: Path) -> Person:
    ann = Person(tmp_path / "ann")
    ann.environ["ANTHROPIC_API_KEY"] = KEY
    return ann


@pytest.mark.timeout(300)
def test_a_task_that_spent_a_budget_asks_is_raised_and_pays_nothing_twice(ann: Person, tmp_path: Path) -> None:
    script = tmp_path / "script.toml"
    script.write_text(NONSENSE + SCRIPT)
    path = repository(ann.home / "repo", {"money.py": SPLIT, "test_money.py": TESTS})
    ann.told("project", "add", str(path), "--test", "python -m pytest -q", "--approval", "never")
    with ann.starts("model-server", "--script", str(script)):
        url = until(lambda: url_in(ann.heard()))
        ann.environ["GAVOTTE_MODEL_URL"] = url
        with ann.starts("up"):
            task = ann.told("submit", "bill loses a cent", "--repo", str(path), "--steps", "5")["task_id"]
            garbled = ann.told("submit", "nonsense", "--repo", str(path), "--steps", "6")["task_id"]
            raised(ann, url, task)
            never_ends_in_a_loop(ann, garbled)
        logged = matched(ann, url, [task, garbled])
        paid_once([record for record in logged if record["id"].startswith(task)])
        assert [call["role"] for call in calls_on(url) if call["task"] == task] == [
            "planning",
            "planning",
            "coding",
            "review",
        ]


def raised(ann: Person, url: str, task: str) -> None:
    shown = ann.waits_for(task, "waiting")
    assert (shown["waiting_for"], shown["spent"]["steps"], shown["pause"]["reason_code"]) == (
        "budget",
        5,
        "budget_steps",
    )
    axes = ann.told("budget", "show", task)["axes"]
    assert axes["steps"] == {"spent": 5, "held": 0, "left": 0, "cap": 5}
    assert axes["tokens"]["spent"] == shown["spent"]["tokens"] > 0
    (asked,) = [line for line in ann.lines("log", task) if line["type"] == "BudgetExhausted"]
    assert asked["payload"] == {
        "axis": "steps", "limit": 5, "spent": 5, "role": "coding", "reserved": 0, "wanted": 1,
    }  # fmt: skip
    assert "budget of steps is spent: 5 of 5, and the next step may need 1" in ann.says("why", task).stdout
    before = len(calls_on(url))
    assert ann.says("budget", "raise", task, "--steps", "60").returncode == 0
    assert ann.waits_for(task, "succeeded")["spent"]["steps"] <= 60
    assert len([call for call in calls_on(url)[before:] if call["task"] == task]) == 1, "review alone is new"


def never_ends_in_a_loop(ann: Person, task: str) -> None:
    """Nonsense is sent back twice, then a person is asked; who lets it go on does so within the budget."""
    shown = ann.waits_for(task, "escalated")
    assert (shown["pause"]["reason_code"], shown["spent"]["steps"]) == ("unusable_answer", 5)
    assert ann.says("resume", task).returncode == 0
    assert ann.waits_for(task, "waiting")["spent"]["steps"] == 6
    assert [record["outcome"] for record in ann.told("llm", task)] == ["ok"] * 5
