"""Who may let a change into production: real agents against unsigned, forged and borrowed approvals."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agents.settings import load_settings
from agents.tools.deploy_tools import two_of_four
from agents.wiring import Runtime, announce, open_runtime
from console import acts
from contracts import ids
from contracts.authority import OperatorKey
from contracts.envelope import OPERATOR_SOURCE, Event
from contracts.events import ApprovalGranted
from state_store.port import Encoded, Recorded
from tests.acceptance.commands import FIX, Person, repository, until
from tests.acceptance.crew import released


@pytest.fixture
def ann(tmp_path: Path) -> Person:
    return Person(tmp_path / "ann", {})


def asked(ann: Person, title: str = "Fix") -> str:
    """A task that waits for an approval; agents must be running."""
    path = ann.home / "repo"
    if not path.exists():
        repository(path)
    task: str = ann.told("submit", "--repo", str(path), "--patch", "-", "--title", title, stdin=FIX)["task_id"]
    ann.waits_for(task, "waiting")
    return task


def within(ann: Person, work: Callable[[Runtime], Awaitable[Any]]) -> Any:
    """Do something to the data folder that no command does."""

    async def run() -> Any:
        runtime = await open_runtime(load_settings(environ=ann.environ))
        try:
            return await work(runtime)
        finally:
            await runtime.close()

    return asyncio.run(run())


async def grant(runtime: Runtime, task_id: str, key: OperatorKey | None) -> Encoded:
    """An approval by mallory, encoded; signed only where a key is given."""
    what = await acts.asked(runtime, task_id)
    payload = ApprovalGranted(request_id=what.approval.request_id, digest=what.approval.digest, operator="mallory")
    event: Event = what.event.cause(payload).sealed(
        producer=f"operator/{ids.uuid7()}", index=0, time_us=ids.now_us(), source=OPERATOR_SOURCE
    )
    if key is not None:
        event = key.sign(event, what.request.expires_at)
    return Encoded(event, runtime.codec.encode_payload(event.payload))


def letters(ann: Person, count: int) -> None:
    until(lambda: len(ann.told("dlq", "list")) == count)


def test_forged_approvals_become_letters_and_hold_up_nobody(ann: Person) -> None:
    with ann.starts("up"):
        task = asked(ann)
        for key in (None, OperatorKey(os.urandom(32))):

            async def only_on_the_bus(runtime: Runtime, key: OperatorKey | None = key) -> None:
                encoded = await grant(runtime, task, key)
                await announce(runtime, [Recorded(encoded.event.envelope, encoded.value, 0, 0, 0, "", "")])

            within(ann, only_on_the_bus)
        letters(ann, 2)
        assert ann.told("show", task)["status"] == "waiting"
        assert ann.says("approve", task).returncode == 0
        ann.waits_for(task, "succeeded")


def test_an_unsigned_approval_in_the_store_itself_releases_nothing(ann: Person) -> None:
    with ann.starts("up"):
        task = asked(ann)

        async def into_the_store(runtime: Runtime) -> None:
            await announce(runtime, await runtime.store.append([await grant(runtime, task, None)]))

        within(ann, into_the_store)
        escalated = ann.waits_for(task, "escalated")
        assert "is not signed" in ann.told("why", task)["sentences"][0]
        assert ann.says("resume", task).returncode == 0
        until(lambda: len([e for e in ann.lines("log", task) if e["type"] == "TaskEscalated"]) == 2)
        assert "production" not in ann.told("show", task)["releases"], escalated
        assert ann.says("cancel", task).returncode == 0
        ann.waits_for(task, "cancelled")


def test_what_went_live_before_a_pause_does_not_go_live_again_after_it(ann: Person) -> None:
    """The branch cannot be delivered once production is done: a person makes room, and the same release is told."""
    with ann.starts("up"):
        task = asked(ann)
        taken = ["git", "-C", str(ann.home / "repo"), "update-ref"]
        subprocess.run([*taken, f"refs/heads/gavotte/{task}", "HEAD"], check=True)
        assert ann.says("approve", task).returncode == 0
        ann.waits_for(task, "escalated")
        [live] = went_live(ann)
        subprocess.run([*taken, "-d", f"refs/heads/gavotte/{task}"], check=True)
        assert ann.says("resume", task).returncode == 0
        ann.waits_for(task, "succeeded")
    assert went_live(ann) == [live]
    told = [event for event in ann.lines("log", task) if event["type"] == "ProductionDeployed"]
    assert [event["payload"]["effect_key"] for event in told] == [live]


def went_live(ann: Person) -> list[str]:
    """The keys of releases in production."""
    return [line["effect_id"] for line in released(ann, "production") if line["effect"] == "release"]


def test_nobody_approves_in_anothers_name_nor_around_the_four_eyes(ann: Person) -> None:
    ann.environ["GAVOTTE_OPERATOR__NAME"] = "ann"
    with ann.starts("up"):
        task = asked(ann)
        request = next(event for event in ann.lines("log", task) if event["type"] == "ApprovalRequested")
        body = {"request_id": request["event_id"], "digest": request["payload"]["digest"], "self_approved": True}

        def publishes(**fields: Any) -> tuple[int, str]:
            event = {"type": "ApprovalGranted", "task_id": task, "payload": body | fields}
            done = ann.says("publish", stdin=json.dumps(event))
            return done.returncode, done.stderr

        assert publishes(operator="mallory")[0] == 4
        assert publishes(operator="ann", self_approved=False)[0] == 4
        ann.environ["GAVOTTE_OPERATOR__FOUR_EYES"] = "true"
        code, said = publishes(operator="ann")
        assert code == 4
        assert "ann submitted this task and may not approve it" in said
        assert ann.says("approve", task).returncode == 4
        ann.environ["GAVOTTE_OPERATOR__NAME"] = "bob"
        done = ann.says("approve", task, "--set", "replicas=3")
        assert done.returncode == 2
        assert "has no value 'replicas'" in done.stderr
        assert ann.says("approve", task).returncode == 0
        ann.waits_for(task, "succeeded")


def test_the_deploy_agent_itself_asks_again_where_the_submitter_approved(ann: Person) -> None:
    ann.environ |= {"GAVOTTE_OPERATOR__NAME": "ann", "GAVOTTE_OPERATOR__FOUR_EYES": "true"}
    with ann.starts("up"):
        task = asked(ann)
        ann.environ["GAVOTTE_OPERATOR__FOUR_EYES"] = "false"  # on her side alone
        assert ann.says("approve", task).returncode == 0
        [_, again] = until(lambda: len(found := requests(ann, task)) == 2 and found)
        assert again["payload"]["reasons"][0] == "four eyes: ann approved what ann submitted"
        assert "production" not in ann.waits_for(task, "waiting")["releases"]
        ann.environ["GAVOTTE_OPERATOR__NAME"] = "bob"
        assert ann.says("approve", task).returncode == 0
        approval = ann.waits_for(task, "succeeded")["approval"]
    assert (approval["operator"], approval["self_approved"]) == ("bob", False)
    assert approval["request_id"] == again["event_id"]


def requests(ann: Person, task: str) -> list[dict[str, Any]]:
    return [event for event in ann.lines("log", task) if event["type"] == "ApprovalRequested"]


@pytest.mark.parametrize(
    ("operator", "own", "counts"),
    [("bob", False, True), ("ann", False, False), ("bob", True, False), ("", False, False)],
)
def test_four_eyes_are_two_people_known_by_name(operator: str, *, own: bool, counts: bool) -> None:
    granted = ApprovalGranted(request_id=ids.uuid7(), digest="sha256:0", operator=operator, self_approved=own)
    assert (two_of_four(granted, "ann") == "") is counts
