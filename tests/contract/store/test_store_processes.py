"""The store between real processes: one order of heads, and a death at any write that costs nothing recorded."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from contracts.crashpoints import VARIABLE
from state_store.port import Commit
from tests.contract.store.processes import ADDRESSES
from tests.contract.store.world import Place, World, opened, opened_on_server, plan

ROOT = Path(__file__).resolve().parents[3]

WORKER = """
import asyncio, sys
from pathlib import Path
from tests.contract.store.processes import annotate, handle_all, hold, spend

what, folder, name = sys.argv[1:]
doing = {"annotate": annotate, "handle": handle_all, "hold": hold, "spend": spend}
asyncio.run(doing[what](Path(folder), name))
"""


@pytest.fixture(params=["file", "postgres"])
def place(request: pytest.FixtureRequest) -> Place | None:
    """Where the store of the processes is: in a file, or on a server."""
    return Place.of(request.getfixturevalue("postgres")) if request.param == "postgres" else None


@asynccontextmanager
async def reopened(place: Place | None, folder: Path, *, wiped: bool = False) -> AsyncIterator[World]:
    """The store, between the lives of the processes."""
    if place is None:
        async with opened("file", folder) as world:
            yield world
    else:
        async with opened_on_server(place, folder, wiped=wiped) as world:
            yield world


async def process(
    place: Place | None, what: str, folder: Path, name: str, crash: str = ""
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", WORKER, what, str(folder), name),
        env={**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: crash, ADDRESSES: " ".join(place or ())},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(running: asyncio.subprocess.Process) -> tuple[int | None, str]:
    _, errors = await asyncio.wait_for(running.communicate(), 60)
    return running.returncode, errors.decode()


async def test_four_processes_append_to_the_same_streams_in_one_order(place: Place | None, tmp_path: Path) -> None:
    async with reopened(place, tmp_path, wiped=True) as world:
        tasks = [await world.submit(title=f"task {index}") for index in range(5)]
        running = [await process(place, "annotate", tmp_path, f"agent{number}") for number in range(4)]
        for one in running:
            assert await ended(one) == (0, "")
        assert await world.store.verify_chain() == []
        for task in tasks:
            stream = await world.store.stream(task.envelope.task_id)
            assert [event.sequence for event in stream] == list(range(1, 6))
            assert len({event.envelope.source for event in stream}) == 5


WRITES = ("start", "step_intent", "step_outcome", "effect_intent", "effect_receipt", "commit", "published")


DEATHS = [("file", write, side) for write in WRITES for side in ("before", "after")]
DEATHS += [("postgres", write, "after") for write in ("start", "step_intent", "effect_intent", "commit")]


@pytest.mark.parametrize(("place", "write", "side"), DEATHS, indirect=["place"])
async def test_death_at_any_write_is_made_good_by_the_next_life(
    place: Place | None, tmp_path: Path, write: str, side: str
) -> None:
    async with reopened(place, tmp_path, wiped=True) as world:
        submission = await world.submit()
    killed, _ = await ended(await process(place, "handle", tmp_path, "first", f"store.{write}.{side}"))
    assert killed == -signal.SIGKILL
    assert await ended(await process(place, "handle", tmp_path, "second")) == (0, "")
    async with reopened(place, tmp_path) as world:
        stream = await world.store.stream(submission.envelope.task_id)
        assert [event.envelope.type for event in stream] == ["TaskSubmitted", "PlanProposed"]
        assert await world.store.verify_chain() == []
        (journal,) = await world.store.steps(submission.envelope.task_id)
        assert journal.outcome == "ok"
        acted = (tmp_path / "acts").read_text().splitlines()
        assert acted == ["ran", "acted"] or (write, side) in {
            ("step_outcome", "before"),  # paid, not recorded: done again, and charged twice
            ("effect_receipt", "before"),  # acted, not receipted: the world would be asked
        }
        (effect,) = await world.store.effects(submission.envelope.task_id)
        assert effect.receipt == '{"done":true}'
        again = Commit(
            await world.delivery("planning", submission), emitted=world.answers(stream[0], "planning", plan())
        )
        assert (await world.store.commit(again)).status == "repeated"
        claim = await world.claim("planning", submission)
        assert (claim.status, claim.unpublished) == ("done", ())
