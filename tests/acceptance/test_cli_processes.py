"""`up` and its agents: ready, restarted, alone on their folder, gone when it goes; and `submit --watch` without them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from agents.settings import load_settings
from agents.wiring import open_runtime
from bus.port import Message
from contracts.topology import topic_of
from tests.acceptance.commands import FIX, Person, alive, git, ready_pids, repository, until


@pytest.fixture
def ann(tmp_path: Path) -> Person:
    return Person(tmp_path / "ann")


def four(person: Person) -> dict[str, int]:
    """The pids of the four agents, once all are ready."""
    return until(lambda: len(found := ready_pids(person.heard())) == 4 and found)  # type: ignore[no-any-return]  # a dict


def test_up_restarts_what_dies_and_leaves_nothing_behind(ann: Person) -> None:
    with ann.starts("up") as up:
        pids = four(ann)
        second = ann.says("up")
        assert second.returncode == 5
        assert f"pid {up.pid}" in second.stderr
        os.kill(pids["coding"], signal.SIGKILL)
        again = until(lambda: (now := ready_pids(ann.heard())) != pids and now)
        assert {name for name in pids if pids[name] != again[name]} == {"coding"}
        assert "coding was killed by SIGKILL" in ann.heard()
    assert up.returncode == 0
    assert ann.heard().endswith("stopping\nstopped\n")
    assert not any(alive(pid) for pid in [*pids.values(), *again.values()])


def test_agents_do_not_outlive_a_supervisor_that_is_killed(ann: Person) -> None:
    with ann.starts("up") as up:
        pids = four(ann)
        up.kill()
        until(lambda: not any(alive(pid) for pid in pids.values()))
    with ann.starts("up", "--roles", "planning") as once_more:
        until(lambda: len(ready_pids(ann.heard())) == 4 and f"ready planning {pids['planning']}" in ann.heard())
        until(lambda: ready_pids(ann.heard())["planning"] != pids["planning"])
    assert once_more.returncode == 0


def test_roles_can_be_chosen_and_scaled(ann: Person) -> None:
    with ann.starts("up", "--roles", "planning,coding", "--scale", "coding=2"):
        names = until(lambda: len(found := ready_pids(ann.heard())) == 3 and set(found))
        assert names == {"planning", "coding", "coding-2"}


def test_an_agent_that_cannot_start_ends_up(ann: Person) -> None:
    broken = ann.home / "broken.py"
    broken.write_text("raise SystemExit(7)\n")
    with ann.starts("up", "--also", str(broken)) as up:
        until(lambda: up.poll() is not None)
    assert up.returncode == 1
    assert "broken does not start: ended with 7" in ann.heard()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--roles", "codin"), "no agent has the role 'codin'"),
        (("--scale", "coding=many"), "a number from 1 to 64 is needed"),
        (("--also", "absent.py"), "there is no agent file absent.py"),
    ],
)
def test_up_refuses_what_it_cannot_run(ann: Person, words: tuple[str, ...], said: str) -> None:
    done = ann.says("up", *words)
    assert done.returncode == 2
    assert said in done.stderr


def test_watched_without_agents_four_work_for_its_lifetime(ann: Person) -> None:
    path = repository(ann.home / "repo")
    done = ann.says("submit", "--repo", str(path), "--author", "patch", "--patch", "-", "--watch", stdin=FIX)
    assert done.returncode == 6, done.stdout + done.stderr
    assert "no agents are running: starting four for the life of this command" in done.stderr
    assert "ApprovalRequested" in done.stdout
    task = ann.told("tasks")[0]
    assert f"gavotte approve {task['task_id'][-8:]}" in done.stderr
    assert task["status"] == "waiting"
    assert task["waiting_for"] == "approval"

    approved = ann.says("approve", task["task_id"][:13])
    assert approved.returncode == 0, approved.stderr
    assert task["digest"] in approved.stdout
    assert "no agents are running: gavotte up" in approved.stderr
    with ann.starts("up"):
        watched = ann.says("watch", task["task_id"])
    assert watched.returncode == 0, watched.stdout + watched.stderr
    assert "TaskSucceeded" in watched.stdout
    granted = next(event for event in ann.lines("log", task["task_id"]) if event["type"] == "ApprovalGranted")
    assert granted["payload"]["self_approved"] is True
    assert granted["payload"]["signature"]["key_id"]
    assert "divmod" in git(path, "show", f"{task['branch']}:money.py")
    assert git(path, "status", "--short") == ""


def test_what_is_denied_fails_and_what_is_cancelled_ends(ann: Person) -> None:
    path = repository(ann.home / "repo")
    with ann.starts("up"):
        tasks = [
            ann.told("submit", "--repo", str(path), "--patch", "-", "--title", title, stdin=FIX)["task_id"]
            for title in ("deny me", "cancel me")
        ]
        for task_id in tasks:
            ann.waits_for(task_id, "waiting")
        assert ann.says("deny", tasks[0], "--reason", "not now").returncode == 0
        denied = ann.waits_for(tasks[0], "failed")
        assert "not now" in denied["outcome"]
        assert ann.says("watch", tasks[0]).returncode == 1
        assert ann.says("cancel", tasks[1], "--reason", "changed my mind").returncode == 0
        ann.waits_for(tasks[1], "cancelled")
        assert ann.says("watch", tasks[1]).returncode == 1
        assert "gavotte/" not in git(path, "branch", "--all")
        late = ann.says("approve", tasks[0])
        assert late.returncode == 1
        assert "waits for no approval" in late.stderr


def test_a_kill_stops_and_a_lift_lets_go_on(ann: Person) -> None:
    path = repository(ann.home / "repo")
    killed = ann.told("kill", "--all", "--reason", "drill")
    with ann.starts("up"):
        four(ann)
        task_id = ann.told("submit", "--repo", str(path), "--patch", "-", stdin=FIX)["task_id"]
        said = until(lambda: "parked" in (text := ann.says("why", task_id).stdout) and text)
        assert "A kill of everything stops it: drill." in said
        assert ann.told("show", task_id)["status"] == "running"
        assert ann.says("lift", killed["event_id"][-8:]).returncode == 0
        ann.waits_for(task_id, "waiting")
    again = ann.says("lift", "--all")
    assert again.returncode == 3
    assert "nothing is stopped" in again.stderr


def test_a_wrong_patch_ends_with_its_reason(ann: Person) -> None:
    path = repository(ann.home / "repo")
    wrong = FIX.replace("money.py", "nowhere.py")
    done = ann.says("submit", "--repo", str(path), "--patch", "-", "--watch", stdin=wrong)
    assert done.returncode in {1, 6}, done.stdout + done.stderr
    task = ann.told("tasks")[0]
    assert task["status"] in {"failed", "escalated"}
    reason = task["outcome"] or task["pause"]["reason"]
    assert reason
    assert git(path, "branch", "--all").split() == ["*", "main"]


def test_the_log_is_one_lineage_for_programs(ann: Person) -> None:
    path = repository(ann.home / "repo")
    with ann.starts("up"):
        task_id = ann.told("submit", "--repo", str(path), "--patch", "-", stdin=FIX)["task_id"]
        ann.waits_for(task_id, "waiting")
        ann.says("approve", task_id)
        shown = ann.waits_for(task_id, "succeeded")
    assert set(shown["spent"]) == {"tokens", "steps", "wall_seconds", "cost_microdollars"}
    assert Path(shown["releases"]["production"]["path"], "money.py").read_text().count("divmod") == 1
    events = ann.lines("log", task_id)
    names = [
        "event_id",
        "task_id",
        "type",
        "version",
        "source",
        "correlation_id",
        "causation_id",
        "sequence",
        "position",
    ]
    assert all(list(event)[:9] == names and "ts" in event and "payload" in event for event in events)
    known = {event["event_id"] for event in events}
    assert events[0]["causation_id"] is None
    assert all(event["causation_id"] in known for event in events[1:])
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert {event["correlation_id"] for event in events} == {shown["correlation_id"]}
    assert ann.lines("log", "--all") == events

    state = json.loads(ann.says("at", task_id, "--event", "2", "--json").stdout)
    assert (state["step"], state["sequence"]) == ("planned", 2)
    assert ann.says("diff", task_id).stdout.startswith("diff --git a/money.py")
    assert {step["role"] for step in ann.told("steps", task_id)} == {"planning", "coding", "review", "deploy"}
    assert ann.told("audit", "verify")["wrong"] == []
    assert ann.told("rebuild") == {"tasks": 1}
    assert ann.told("show", task_id) == shown
    assert ann.told("dlq", "list") == []


async def put_on_the_bus(person: Person, messages: list[Message]) -> None:
    """Publish bytes as a stranger could who reaches the bus."""
    runtime = await open_runtime(load_settings(data=person.data, environ={}))
    try:
        await runtime.bus.publish(messages)
    finally:
        await runtime.close()


def test_what_cannot_be_read_becomes_a_letter_that_explains_itself(ann: Person) -> None:
    topic = topic_of("tasks")
    key = b"0192b3c4-0000-7000-8000-00000000dead"
    headers = (
        ("ce_id", b"0192b3c4-0000-7000-8000-00000000beef"),
        ("ce_type", b"gavotte.TaskSubmitted.v1"),
        ("ce_source", b"urn:gavotte:client"),
        ("ce_subject", key),
    )
    garbage, torn = Message(topic, b"\xff", b"\x00\x01"), Message(topic, key, b"\x00\x00\x00\x00\x01\x02", headers)
    with ann.starts("up", "--roles", "planning"):
        until(lambda: ready_pids(ann.heard()))
        asyncio.run(put_on_the_bus(ann, [garbage, torn]))
        letters = until(lambda: len(found := ann.told("dlq", "list")) == 2 and found)
        named = next(letter for letter in letters if letter["event_id"])
        unnamed = next(letter for letter in letters if not letter["event_id"])
        assert (named["role"], named["type"], named["code"]) == ("planning", "TaskSubmitted", "undecodable")
        assert "TaskSubmitted" in ann.says("dlq", "list").stdout
        shown = ann.says("dlq", "show", unnamed["place"])
        assert "ce_" in shown.stdout
        assert ann.says("dlq", "redrive", "beef").returncode == 0
        again = until(lambda: max(found["redrive_count"] for found in ann.told("dlq", "list")))
        assert again == 1
    assert ann.says("dlq", "show", "nothing").returncode == 3


def test_at_a_terminal_the_approval_is_asked_for(ann: Person) -> None:
    path = repository(ann.home / "repo")
    (ann.home / "fix.diff").write_text(FIX)
    with ann.sits_at("submit", "--repo", str(path), "--patch", "fix.diff", "--watch") as terminal:
        terminal.sees("Approve? [y/N/diff]")
        terminal.types("diff\n")
        terminal.sees("divmod(cents, people)")
        terminal.types("y\n")
        assert terminal.ends() == 0, terminal.text
    assert "TaskSucceeded" in terminal.text
    with ann.sits_at("submit", "--repo", str(path), "--patch", "fix.diff", "--watch") as terminal:
        terminal.sees("Approve? [y/N/diff]")
        terminal.types("\n")
        assert terminal.ends() == 6, terminal.text
    task = ann.told("tasks")[0]
    assert f"gavotte approve {task['task_id'][-8:]}" in terminal.text


def test_who_watches_without_agents_is_told_and_may_leave(ann: Person) -> None:
    path = repository(ann.home / "repo")
    task_id = ann.told("submit", "--repo", str(path), "--patch", "-", stdin=FIX)["task_id"]
    with ann.starts("watch", task_id) as watch:
        until(lambda: "no agents are running, nothing moves: gavotte up" in ann.heard())
    assert watch.returncode == 130
    assert "Traceback" not in ann.heard()
