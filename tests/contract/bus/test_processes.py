"""The bus suite over one file and several operating-system processes, which are really killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.bus.cluster import until
from tests.contract.bus.processes import ProcessCluster
from tests.contract.bus.suite import BusSuite, Member, numbered, values


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ProcessCluster]:
    made = ProcessCluster(tmp_path)
    yield made
    await made.close()


class TestEmbeddedBusBetweenProcesses(BusSuite):
    pass


async def test_news_crosses_processes_by_wake_up_alone(cluster: ProcessCluster) -> None:
    here, there = [await cluster.node(name, poll_seconds=None) for name in "ab"]
    subscription = await Member("m").join(here.bus)
    await until(lambda: len(subscription.assigned) == 8)
    for number in range(10):
        waiting = asyncio.create_task(subscription.fetch(10, 25.0))
        await asyncio.sleep(0.02)
        await there.bus.publish(numbered("t", 1, number))
        assert values(await waiting) == [number]


async def test_news_crosses_processes_by_poll_alone(cluster: ProcessCluster) -> None:
    here, there = [await cluster.node(name, poll_seconds=0.05, wakeups=False) for name in "ab"]
    subscription = await Member("m").join(here.bus)
    await until(lambda: len(subscription.assigned) == 8)
    waiting = asyncio.create_task(subscription.fetch(10, 25.0))
    await asyncio.sleep(0.02)
    await there.bus.publish(numbered("t", 1))
    assert values(await waiting) == [0]
