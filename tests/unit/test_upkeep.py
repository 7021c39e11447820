"""The bus forgets by itself what every group has read and is old; trouble on the way ends nothing."""

from __future__ import annotations

import asyncio

import pytest

from agents.upkeep import upkeep
from bus.memory import MemoryBroker, MemoryBus
from contracts.errors import Unavailable


class ForgetfulBus(MemoryBus):
    """A bus that can be told to forget, and fails the first time."""

    def __init__(self) -> None:
        super().__init__(MemoryBroker())
        self.asked: list[float] = []

    async def prune(self, older_than_seconds: float, *, beyond_groups: bool = False, dry_run: bool = False) -> int:
        assert not beyond_groups
        assert not dry_run
        self.asked.append(older_than_seconds)
        if len(self.asked) == 1:
            raise Unavailable("the disk is busy")
        return 7


async def test_the_bus_is_pruned_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    bus = ForgetfulBus()
    with caplog.at_level("INFO"):
        async with upkeep(bus, 3600.0, interval_seconds=0.001), asyncio.timeout(30):
            while len(bus.asked) < 3:
                await asyncio.sleep(0)
    assert set(bus.asked) == {3600.0}
    assert "the disk is busy" in caplog.text
    assert "7 records" in caplog.text


async def test_a_bus_that_keeps_house_itself_is_left_alone() -> None:
    async with upkeep(MemoryBus(MemoryBroker()), 1.0, interval_seconds=0.0):
        assert len(asyncio.all_tasks()) == 1
