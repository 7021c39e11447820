"""Records that nobody can read, met by agents whose predecessors were killed: they hold up nobody else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agents.settings import load_settings
from agents.wiring import Runtime, open_runtime
from bus.port import Message
from contracts import ids
from contracts.codec import headers_of
from contracts.topology import topic_for
from tests.acceptance.commands import FIX, Person, ready_pids, repository, until

UNKNOWN_SCHEMA = b"\0\0\0\xff\xff"


@pytest.fixture
def ann(tmp_path: Path) -> Person:
    return Person(tmp_path / "ann")


def submit(ann: Person, title: str) -> str:
    path = ann.home / "repo"
    if not path.exists():
        repository(path)
    task: str = ann.told("submit", "--repo", str(path), "--patch", "-", "--title", title, stdin=FIX)["task_id"]
    return task


async def spoilt(runtime: Runtime, task_id: str) -> list[Message]:
    """Copies of a submission as records of tasks that nobody recorded; none can be read, each for another reason."""
    first = (await runtime.store.stream(task_id))[0]
    topic = topic_for(first.envelope.type, first.envelope.source, runtime.topology)
    values = [UNKNOWN_SCHEMA + first.value[5:]] * 9 + [first.value[:20], first.value + b"\0", b""]
    found = []
    for value in values:
        envelope = first.envelope._replace(id=ids.uuid7(), task_id=ids.uuid7())
        found.append(Message(topic, envelope.task_id.encode(), value, headers_of(envelope)))
    return [*found, Message(topic, b"no task", b"no value", ())]


def test_unreadable_records_hold_up_no_other_task_even_after_a_crash(ann: Person) -> None:
    with ann.starts("up") as up:
        first = submit(ann, "before")
        ann.waits_for(first, "waiting")
        up.kill()

    async def spoil() -> None:
        runtime = await open_runtime(load_settings(environ=ann.environ))
        try:
            await runtime.bus.publish(await spoilt(runtime, first))
        finally:
            await runtime.close()

    asyncio.run(spoil())
    before = ready_pids(ann.heard())
    with ann.starts("up") as up:
        until(lambda: all(pid != before[name] for name, pid in ready_pids(ann.heard()).items()))
        second = submit(ann, "after")
        ann.waits_for(second, "waiting")
        until(lambda: {letter["code"] for letter in ann.told("dlq", "list")} == {"undecodable"})
    assert up.returncode == 0
    assert "planning was killed" not in ann.heard()
    log = (ann.data / "logs" / "planning.log").read_text()
    assert "schema id 65535 is unknown to this build" in log
    assert "gives up partitions" in log.splitlines()[-1]  # in order, although nine records were in line
