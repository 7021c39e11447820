"""The dance with a model over HTTP: the real client, four real processes, and a server that logs what it was asked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agents.model.faults import KINDS
from console.demo import DESCRIPTION, TITLE, build_sample
from deploy.local.serving import free_port
from tests.acceptance.commands import SPLIT, TESTS, Person, ready_pids, repository, until

KEY = "sk-ant-planted-4711"
TASKS = int(os.environ.get("GAVOTTE_MODEL_TASKS", "6"))
"""Of the run with faults; 200 take a quarter of an hour."""
PATIENCE_SECONDS = 60.0 + TASKS * 30.0
AT_REST = {"succeeded", "failed", "cancelled", "escalated"}

SCRIPT = """
[[answers]]
when = { tool = "plan_draft" }
input = { summary = "hand out the rest", files = ["money.py"], tests = ["test_money.py"] }

[[answers]]
when = { role = "coding", contains = "def split" }
[answers.input]
summary = "Hand out the rest"
[[answers.input.edits]]
path = "money.py"
find = "    return [cents // people] * people\\n"
replace = "    share, rest = divmod(cents, people)\\n    return [share + 1] * rest + [share] * (people - rest)\\n"

[[answers]]
when = { tool = "review_draft", matches = "divmod" }
input = { verdict = "pass", summary = "the shares add up" }
"""
FAULTS = {
    "429": "at=2,retry_after=0.2",
    "529": "at=3",
    "500": "at=5",
    "cut": "at=7",
    "malformed": "at=9",
    "unknown_tool": "at=11",
    "wrong_arguments": "at=13",
    "empty": "at=15",
    "overlong": "at=17",
    "refusal": "at=19",
    "injection": "at=21",
    "drip": "at=23,seconds=5",
}


@pytest.fixture
def ann(tmp_path: Path) -> Person:
    ann = Person(tmp_path / "ann")
    ann.environ["ANTHROPIC_API_KEY"] = KEY
    return ann


def url_in(text: str) -> str:
    return next((line for line in text.splitlines() if line.startswith("http://127.0.0.1:")), "")


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        raw: bytes = answer.read()
    return raw


def calls_on(url: str) -> list[dict[str, Any]]:
    """What the server was asked by agents."""
    return [call for call in json.loads(fetched(f"{url}/calls")) if call["role"] != "doctor"]


def matched(ann: Person, url: str, tasks: list[str]) -> list[dict[str, Any]]:
    """The calls in the journals, once it is sure that they are those on the server, one by one.

    Calls that reached nobody stand in the journals alone; who dies or gives up waiting cannot tell whether they did.
    """
    seen = calls_on(url)
    logged = [record for task in tasks for record in ann.told("llm", task)]
    arrived = {call["call"] for call in seen}
    sent = [r for r in logged if r["call"] in arrived or r["failure"] not in {"unreachable", "lost", "timeout"}]
    assert Counter((call["call"], call["sha256"]) for call in seen) == Counter(
        (record["call"], record["request_sha256"]) for record in sent
    )
    by_call = {call["call"]: call for call in seen}
    for record in sent:
        call = by_call[record["call"]]
        assert (record["role"], record["asked_model"]) == (call["role"], call["model"])
        if record["request_id"]:
            assert record["request_id"] == call["request_id"]
        if record["outcome"] == "ok":
            assert (record["tokens_in"], record["tokens_out"]) == (call["tokens_in"], call["tokens_out"])
        if record["failure"] in {"cut", "malformed", "timeout", "lost"}:
            assert record["estimated"]
            assert record["tokens_in"] > call["tokens_in"]
    return logged


def told_nowhere(ann: Person, secret: str) -> None:
    """That no file of the data folder holds the secret."""
    found = [path for path in ann.data.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert not found, f"the key lies in {found}"


def test_the_demo_over_http(ann: Person) -> None:
    sample = build_sample(ann.home)
    with ann.starts("model-server", "--key", KEY):
        url = until(lambda: url_in(ann.heard()))
        ann.environ["GAVOTTE_MODEL_URL"] = url
        doctor = ann.says("doctor").stdout
        assert f"claude-sonnet-5-5 at {url} answers" in doctor
        assert ann.told("project", "add", str(sample))["name"] == "moneybag"
        with ann.starts("up"):
            pids = until(lambda: len(found := ready_pids(ann.heard())) == 4 and found)
            holders = {role for role, pid in pids.items() if KEY.encode() in Path(f"/proc/{pid}/environ").read_bytes()}
            assert holders == {"planning", "coding", "review"}
            task = ann.told("submit", DESCRIPTION, "--title", TITLE, "--repo", str(sample))["task_id"]
            ann.waits_for(task, "waiting")
            assert ann.says("approve", task).returncode == 0
            shown = ann.waits_for(task, "succeeded")
        logged = matched(ann, url, [task])
        assert [record["role"] for record in logged] == ["planning", "planning", "coding", "coding", "review"]
        assert all(record["outcome"] == "ok" and not record["estimated"] for record in logged)
        assert shown["spent"]["cost_microdollars"] == sum(record["cost_microdollars"] for record in logged) > 0
        recorded(shown)
        for number, record in enumerate(logged, 1):
            request = fetched(f"{url}/calls/{number + 1}/request")  # the first one was the doctor's
            assert request.decode() == ann.says("llm", "show", record["id"], "--request").stdout
            assert hashlib.sha256(request).hexdigest() == record["request_sha256"]
            assert KEY.encode() not in request
    told_nowhere(ann, KEY)
    assert KEY not in doctor + ann.heard()


def recorded(shown: dict[str, Any]) -> None:
    """The record of the run in the words of the field."""
    assert shown["task_type"] == "change"
    assert shown["start"] < shown["end"]
    assert (shown["steps"], shown["error"]) == (shown["spent"]["steps"], None)
    assert shown["input_tokens"] + shown["output_tokens"] == shown["spent"]["tokens"]
    tools = [call["tool"] for call in shown["tool_calls"]]
    assert tools[:3] == ["survey", "read_files", "apply_edits"]
    assert all(call["success"] and call["latency_ms"] >= 0 and call["error"] is None for call in shown["tool_calls"])


@pytest.mark.timeout(PATIENCE_SECONDS * 2)
def test_bad_days_of_a_provider_lose_nothing(ann: Person, tmp_path: Path) -> None:
    script = tmp_path / "script.toml"
    script.write_text(SCRIPT)
    port = free_port()
    ann.environ |= {
        "GAVOTTE_MODEL_URL": f"http://127.0.0.1:{port}",
        "GAVOTTE_MODEL__TIMEOUT_SECONDS": "2",
        "GAVOTTE_TASKS__STEPS": "200",
        "GAVOTTE_TASKS__TOKENS": "2000000",
        "GAVOTTE_TASKS__COST_DOLLARS": "50",
    }
    no_key = "\n\ndef test_no_key() -> None:\n    import os\n\n    assert 'planted' not in str(os.environ)\n"
    path = repository(ann.home / "repo", {"money.py": SPLIT, "test_money.py": TESTS + no_key})
    tests = "python -m pytest -q"
    ann.told("project", "add", str(path), "--test", tests, "--approval", "never")
    with ann.starts("up"):
        tasks = [
            ann.told("submit", f"bill {number} loses a cent", "--repo", str(path))["task_id"] for number in range(TASKS)
        ]
        why = until(lambda: "no model answers" in (said := ann.says("why", tasks[0]).stdout) and said)
        assert "unreachable" in why
        assert "planning tries TaskSubmitted again" in why
        with ann.starts("model-server", "--script", str(script), "--port", str(port), *struck()):
            url = until(lambda: url_in(ann.heard()))
            killed_while_asking(ann, url)
            until(lambda: at_rest(ann), PATIENCE_SECONDS)
            states: list[dict[str, Any]] = ann.told("tasks", "--limit", "1000")
            logged = matched(ann, url, tasks)
            faults = Counter(call["fault"] for call in calls_on(url))
    assert len(states) == TASKS
    assert [
        state for state in states if state["status"] != "succeeded" and not (state["pause"] or {}).get("reason")
    ] == []
    assert set(faults) - {""} == set(KINDS) - {"401"}
    assert {state["status"] for state in states} <= {"succeeded", "escalated"}
    assert sum(state["status"] == "succeeded" for state in states) > TASKS // 2
    assert {record["failure"] for record in logged} & {"lost", "timeout"}
    paid_once(logged)
    log = (ann.data / "logs" / "planning.log").read_text()
    assert "open for" in log
    assert "half-open, one call may try" in log
    assert "closed, it answers again" in log
    told_nowhere(ann, KEY)


def struck() -> list[str]:
    """The schedule of faults: each once, or in a long run each again and again."""
    if TASKS == 6:
        return [word for kind, when in FAULTS.items() for word in ("--fault", f"{kind}:{when}")]
    every = [
        f"{kind}:{re.sub('at=[0-9]+', f'every={17 + 4 * place}', when)}"
        for place, (kind, when) in enumerate(FAULTS.items())
    ]
    return [word for fault in every for word in ("--fault", fault)]


def at_rest(ann: Person) -> bool:
    """Whether no task moves any more."""
    with contextlib.closing(ann.reads()) as connection:
        statuses = [status for (status,) in connection.execute("SELECT status FROM tasks")]
    return len(statuses) == TASKS and set(statuses) <= AT_REST


def killed_while_asking(ann: Person, url: str) -> int:
    """Kill whoever waits for the slow drip, as the operating system would; returns its pid."""
    dripping = until(lambda: next((call for call in calls_on(url) if call["fault"] == "drip"), None), PATIENCE_SECONDS)
    pid = ready_pids(ann.heard())[dripping["role"]]
    os.kill(pid, signal.SIGKILL)
    return pid


def paid_once(logged: list[dict[str, Any]]) -> None:
    """That no question was asked again once its answer was in the journal."""
    answered = [r for r in logged if r["outcome"] == "ok" and r["stop_reason"] != "refusal" and not r["abandoned"]]
    questions = Counter((r["id"].partition(".")[0], r["role"], r["question_digest"]) for r in answered)
    assert [question for question, times in questions.items() if times > 1] == []
