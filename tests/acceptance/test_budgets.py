"""Budgets that are spent: the task asks, a person raises them, nothing is paid twice; nonsense costs no more than its cap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.commands import SPLIT, TESTS, Person, repository, until
from tests.acceptance.test_model_dance import KEY, SCRIPT, calls_on, matched, paid_once, url_in

NONSENSE = """
[[answers]]
when = {{ role = "{role}", contains = "nonsense for {role}" }}
text = "la la la"
"""
ROLES = ("planning", "coding")
CAPS = {
    "tokens": ("--tokens", "100"),
    "steps": ("--steps", "2"),
    "wall_seconds": ("--minutes", "0"),
    "cost_microdollars": ("--dollars", "0.0001"),
}
STEPS_MAX = 14


@pytest.fixture
def ann(tmp_path: Path) -> Person:
    ann = Person(tmp_path / "ann")
    ann.environ["ANTHROPIC_API_KEY"] = KEY
    return ann


@pytest.mark.timeout(900)
def test_a_task_at_any_cap_asks_goes_on_when_raised_and_pays_nothing_twice(ann: Person, tmp_path: Path) -> None:
    script = tmp_path / "script.toml"
    script.write_text("".join(NONSENSE.format(role=role) for role in ROLES) + SCRIPT)
    path = repository(ann.home / "repo", {"money.py": SPLIT, "test_money.py": TESTS})
    ann.told("project", "add", str(path), "--test", "python -m pytest -q", "--approval", "never")
    with ann.starts("model-server", "--script", str(script)):
        url = until(lambda: url_in(ann.heard()))
        ann.environ["GAVOTTE_MODEL_URL"] = url
        with ann.starts("up"):
            plain = submitted(ann, path, "bill loses a cent")
            tight = {axis: submitted(ann, path, f"bill loses a cent ({axis})", *cap) for axis, cap in CAPS.items()}
            garbled = {role: submitted(ann, path, f"nonsense for {role}", "--steps", str(STEPS_MAX)) for role in ROLES}
            ann.waits_for(plain, "succeeded")
            for axis, task in tight.items():
                raised_until_done(ann, task, axis)
            for role, task in garbled.items():
                ends_with_a_person(ann, url, task, role)
        logged = matched(ann, url, [plain, *tight.values(), *garbled.values()])
        paid_once([record for record in logged if record["id"].partition(".")[0] in {plain, *tight.values()}])
        for task in tight.values():
            assert asked_by(url, task) == asked_by(url, plain), "as many calls as without a break"


def submitted(ann: Person, path: Path, what: str, *caps: str) -> str:
    return str(ann.told("submit", what, "--repo", str(path), *caps)["task_id"])


def asked_by(url: str, task: str) -> list[str]:
    """The roles that asked for a task, in order, as the server saw them."""
    return [call["role"] for call in calls_on(url) if call["task"] == task]


def raised_until_done(ann: Person, task: str, axis: str) -> None:
    """Whatever the task asks for, it gets no more: so it asks again and again."""
    rounds = 0
    while until(lambda: (found := ann.status(task)) in {"waiting", "succeeded"} and found) == "waiting":
        asked = [line for line in ann.lines("log", task) if line["type"] == "BudgetExhausted"][-1]["payload"]
        assert asked["spent"] + asked["reserved"] + asked["wanted"] > asked["limit"]
        if not rounds:
            shown: dict[str, Any] = ann.told("budget", "show", task)["axes"]
            assert (asked["axis"], asked["limit"]) == (axis, shown[axis]["cap"])
            assert f"budget of {axis} is spent" in ann.says("why", task).stdout
        assert ann.says("budget", "raise", task, *larger(axis, asked)).returncode == 0
        rounds += 1
    assert rounds > 0
    shown = ann.told("budget", "show", task)["axes"]
    assert all(0 < of["spent"] <= of["cap"] and of["held"] == 0 for of in shown.values()), shown


def larger(axis: str, asked: dict[str, Any]) -> tuple[str, str]:
    """The option that gives what was asked for, or a little more where that would take too many rounds."""
    least = asked["spent"] + asked["reserved"] + asked["wanted"]
    match axis:
        case "tokens":
            return "--tokens", str(least)
        case "steps":
            return "--steps", str(least + 5)
        case "wall_seconds":
            return "--minutes", "30"
        case _:
            return "--dollars", "2"


def ends_with_a_person(ann: Person, url: str, task: str, role: str) -> None:
    """A model that talks nonsense for ever: a person is asked; whoever lets it go on and on does so within the budget."""
    shown = ann.waits_for(task, "escalated")
    assert shown["pause"]["role"] == role
    assert shown["spent"]["steps"] <= STEPS_MAX
    said = 0
    while (
        role == "planning"
        and until(lambda: (found := ann.status(task)) in {"waiting", "escalated"} and found) == "escalated"
    ):
        assert len(asked_by(url, task)) > said
        said = len(asked_by(url, task))
        assert ann.says("resume", task).returncode == 0
    assert 3 <= len(asked_by(url, task)) <= STEPS_MAX
    if role == "planning":
        assert ann.told("budget", "show", task)["axes"]["steps"] == {
            "spent": STEPS_MAX, "held": 0, "left": 0, "cap": STEPS_MAX,
        }  # fmt: skip
