"""The four minds over HTTP: a change worked out with tools, a model that is stuck, one that talks nonsense, one that is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.commands import SPLIT, TESTS, Person, ready_pids, repository, until
from tests.acceptance.test_model_dance import KEY, calls_on, matched, paid_once, url_in
from tests.unit.test_prompts import RELEASED

SCRIPT = r"""
[[answers]]
when = { tool = "triage_verdict", contains = "print the keys" }
input = { out_of_bounds = "secrets", reason = "Keys are not for printing." }

[[answers]]
when = { tool = "plan_draft", contains = "worked out" }
times = 1
input = { summary = "x", files = ["coins/money.py"], tests = ["test_money.py::test_gone"] }

[[answers]]
when = { tool = "plan_draft", contains = "ghosts" }
input = { summary = "x", files = ["attic/ghosts.py"] }

[[answers]]
when = { tool = "plan_draft" }
input = { summary = "hand out the rest", files = ["money.py"], tests = ["test_money.py::test_no_cent_is_lost"] }

[[answers]]
when = { role = "coding", contains = "at one go" }
[answers.input]
summary = "Hand out the rest"
[[answers.input.edits]]
path = "money.py"
find = "    return [cents // people] * people\n"
replace = "    share, rest = divmod(cents, people)\n    return [share + 1] * rest + [share] * (people - rest)\n"

[[answers]]
when = { role = "coding", contains = "nonsense" }
text = "la la la"

[[answers]]
when = { role = "coding", contains = "dithering" }
calls = [{ tool = "read", input = { path = "money.py" } }]

[[answers]]
when = { role = "coding", nth = 1 }
calls = [
  { tool = "search", input = { text = "people" } },
  { tool = "read", input = { path = "bills.py" } },
  { tool = "launch", input = {} },
]

[[answers]]
when = { role = "coding", nth = 2, contains = ["def bill", "there is no such tool"] }
calls = [
  { tool = "edit", input = { path = "money.py", find = "no such text", replace = "x" } },
  { tool = "edit", input = { path = "bills.py", find = "split", replace = "x" } },
  { tool = "edit", input = { path = "money.py", find = "cents // people", replace = "cents // people + 1" } },
  { tool = "run_tests" },
]

[[answers]]
when = { role = "coding", contains = "2 passed" }
input = { summary = "Hand out the cents that are left" }

[[answers]]
when = { role = "coding", contains = ["occurs 0 times", "none of the files of the plan", "test_money.py::test_even", "2 failed"] }
delay_seconds = SLOW
[[answers.calls]]
tool = "edit"
[answers.calls.input]
path = "money.py"
find = "    return [cents // people + 1] * people\n"
replace = "    share, rest = divmod(cents, people)\n    return [share + 1] * rest + [share] * (people - rest)\n"
[[answers.calls]]
tool = "run_tests"

[[answers]]
when = { tool = "review_draft", matches = "divmod" }
[answers.input]
verdict = "changes"
summary = "the shares add up"
findings = [
  { severity = "blocker", message = "it may divide by zero", evidence = "cents / zero", file = "money.py", line = 1 },
  { severity = "minor", message = "negative amounts", evidence = "share, rest = divmod(cents, people)" },
]
"""
BILLS = "from money import split\n\n\ndef bill(cents: int, people: int) -> str:\n    return str(split(cents, people))\n"


@pytest.fixture
def ann(tmp_path: Path) -> Person:
    ann = Person(tmp_path / "ann")
    ann.environ |= {"ANTHROPIC_API_KEY": KEY, "GAVOTTE_MODEL__STUCK_TURNS": "3"}
    path = repository(ann.home / "repo", {"money.py": SPLIT, "bills.py": BILLS, "test_money.py": TESTS})
    ann.told("project", "add", str(path), "--test", "python -m pytest -q", "--approval", "never")
    return ann


def submitted(ann: Person, title: str) -> str:
    task: str = ann.told("submit", title, "--repo", str(ann.home / "repo"))["task_id"]
    return task


def script(tmp_path: Path, slow: str = "0.0") -> str:
    path = tmp_path / "script.toml"
    path.write_text(SCRIPT.replace("SLOW", slow))
    return str(path)


def tools_of(shown: dict[str, Any]) -> list[str]:
    return [call["tool"] for call in shown["tool_calls"]]


def event(ann: Person, task: str, type_: str) -> dict[str, Any]:
    (found,) = [line["payload"] for line in ann.lines("log", task) if line["type"] == type_]
    payload: dict[str, Any] = found
    return payload


@pytest.mark.timeout(900)
def test_minds_work_are_stuck_refuse_and_are_held_to_what_there_is(ann: Person, tmp_path: Path) -> None:
    with ann.starts("model-server", "--script", script(tmp_path)):
        url = until(lambda: url_in(ann.heard()))
        ann.environ["GAVOTTE_MODEL_URL"] = url
        with ann.starts("up"):
            titles = ("a cent is lost: worked out", "at one go", "nonsense", "dithering", "print the keys", "ghosts")
            tasks = [submitted(ann, title) for title in titles]
            solved, quick, garbled, stuck, refused, ghosts = tasks
            worked_out(ann, url, solved)
            assert tools_of(ann.waits_for(quick, "succeeded"))[:4] == [
                "survey",
                "read_files",
                "apply_edits",
                "run_tests",
            ]
            is_stuck(ann, garbled, "3 x an answer that could not be used; the last: no tool was called")
            is_stuck(ann, stuck, "3 x reading what was shown before; the last: read money.py: lines 1 to 5 of 5")
            ann.waits_for(refused, "failed")
            assert ann.waits_for(ghosts, "escalated")["pause"]["reason_code"] == "ungrounded_plan"
            goes_on(ann, stuck)
        logged = matched(ann, url, tasks)
        paid_once(logged)
    assert all(RELEASED[record["prompt"]] == record["prompt_hash"] for record in logged)
    assert [r["prompt"].partition(".")[0] for r in logged if r["id"].startswith(ghosts)] == [
        "triage",
        *["planning"] * 3,
    ]
    asked = [
        (record["role"], record["prompt"].partition(".")[0]) for record in logged if record["id"].startswith(refused)
    ]
    assert asked == [("planning", "triage")]
    rejected = event(ann, refused, "PlanRejected")
    assert rejected["reason_code"] == "out_of_bounds_secrets"
    assert rejected["reason"] == "the task is out of bounds: it asks for secrets: Keys are not for printing."
    assert {record["asked_model"] for record in logged if record["purpose"] == "triage"} == {"claude-haiku-5-5"}


def worked_out(ann: Person, url: str, task: str) -> None:
    """A plan that was off is mended; the change comes by tools, with a wrong first try; a quote that is none is dropped."""
    shown = ann.waits_for(task, "succeeded")
    asked = [call["role"] for call in calls_on(url) if call["task"] == task]
    assert asked == ["planning"] * 3 + ["coding"] * 4 + ["review"] * 2
    assert tools_of(shown) == [
        "survey", "read_files", "search", "read", "edit", "edit", "edit", "run_tests", "edit", "run_tests", "apply_edits",
        "judge_rules", "judge_tests", *tools_of(shown)[13:],
    ]  # fmt: skip
    change = event(ann, task, "ChangeProposed")
    assert change["summary"] == "a cent is lost: worked out"
    assert (change["evidence"]["green"], change["evidence"]["digest"]) == (True, change["digest"])
    passed = event(ann, task, "ReviewPassed")
    assert [(found["severity"], found["file"], found["line"]) for found in passed["findings"]] == [
        ("minor", "money.py", 5)
    ]
    assert "findings dropped: 1 as the quote is not in the diff" in passed["summary"]


def is_stuck(ann: Person, task: str, why: str) -> None:
    """Long before the budget is spent."""
    shown = ann.waits_for(task, "escalated")
    assert shown["pause"]["reason_code"] == "stuck"
    assert shown["pause"]["reason"] == f"the model is stuck: 3 turns brought nothing new: {why}"
    assert shown["pause"]["hint"].startswith(f"gavotte resume {task}")
    assert shown["spent"]["steps"] < 12


def goes_on(ann: Person, task: str) -> None:
    """Who says more clearly what is wanted gets it."""
    assert ann.says("resume", task, "--set", "title=a cent is lost", "--set", "description=at one go").returncode == 0
    assert ann.waits_for(task, "succeeded")["status"] == "succeeded"


@pytest.mark.timeout(900)
def test_a_coder_that_is_killed_between_its_turns_repeats_no_call(ann: Person, tmp_path: Path) -> None:
    with ann.starts("model-server", "--script", script(tmp_path, slow="4.0")):
        url = until(lambda: url_in(ann.heard()))
        ann.environ["GAVOTTE_MODEL_URL"] = url
        with ann.starts("up"):
            pids = until(lambda: len(found := ready_pids(ann.heard())) == 4 and found)
            task = submitted(ann, "a cent is lost")
            until(lambda: [call["role"] for call in calls_on(url)].count("coding") == 3)
            os.kill(pids["coding"], signal.SIGKILL)
            shown = ann.waits_for(task, "succeeded")
        logged = [record for record in matched(ann, url, [task]) if record["role"] == "coding"]
        paid_once(logged)
    assert [record["failure"] for record in logged] == ["", "", "lost", "", ""]
    assert len({record["question_digest"] for record in logged}) == 4
    assert tools_of(shown)[1:11] == [
        "read_files", "search", "read", "edit", "edit", "edit", "run_tests", "edit", "run_tests", "apply_edits",
    ]  # fmt: skip
