"""The bus forgets by itself what every group has read and is old; trouble on the way ends nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.upkeep import upkeep
from bus.memory import MemoryBroker, MemoryBus
from contracts.errors import Unavailable
from embedded.liveness import Presence


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


@pytest.fixture
def presence(tmp_path: Path) -> Iterator[Presence]:
    with Presence(tmp_path / "run", "coding-1") as made:
        yield made


async def test_the_bus_is_pruned_again_and_again(presence: Presence, caplog: pytest.LogCaptureFixture) -> None:
    bus, stop = ForgetfulBus(), asyncio.Event()
    with caplog.at_level("INFO"):
        async with upkeep(bus, 3600.0, presence, stop, interval_seconds=0.001), asyncio.timeout(30):
            while len(bus.asked) < 3:
                await asyncio.sleep(0)
    assert set(bus.asked) == {3600.0}
    assert "the disk is busy" in caplog.text
    assert "7 records" in caplog.text
    assert not stop.is_set()


async def test_a_bus_that_keeps_house_itself_is_left_alone(presence: Presence) -> None:
    async with upkeep(MemoryBus(MemoryBroker()), 1.0, presence, asyncio.Event(), interval_seconds=0.0):
        assert len(asyncio.all_tasks()) == 2, "only the look at the folder is beside us"


@pytest.mark.parametrize("replaced", [False, True])
async def test_whoever_was_taken_for_dead_leaves(presence: Presence, replaced: bool) -> None:
    async def work() -> None:
        stop = asyncio.Event()
        async with upkeep(MemoryBus(MemoryBroker()), 1.0, presence, stop, look_seconds=0.001), asyncio.timeout(30):
            folder = presence.path.parent
            folder.rename(folder.with_name("elsewhere"))
            if replaced:
                folder.mkdir()
                presence.path.write_text("another's")
            await stop.wait()

    with pytest.raises(Unavailable, match="removed while this agent ran"):
        await work()
    presence.close()
    assert presence.path.exists() == replaced, "what another put there is not removed"
