"""One of the four agents with a do-nothing role, everything else as it is shipped: `python bench/roles.py ROLE FOLDER`.

Settings come from the environment, as for any agent, so that the same program dances on every bus and store.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench import stops  # noqa: E402  # the folder is no package: the root must be on the path first
from bench.job import TEXT  # noqa: E402
from contracts.envelope import Event  # noqa: E402
from contracts.events import Body, ChangeProposed, PlanProposed, ReviewPassed, TaskFailed  # noqa: E402

NOTHING = Body(digest="sha256:0", size_bytes=0)


LONG = "long"
"""The title of a task that waits in the first role for a while."""
LONG_SECONDS = 60.0
STEPS = bool(os.environ.get("GAVOTTE_BENCH_STEPS"))
"""Whether each role takes one journaled step."""


async def planning(event: Event, state: Any, _tools: Any) -> list[Event]:
    if state.title == LONG:
        await asyncio.sleep(LONG_SECONDS)
    return [event.cause(PlanProposed(summary=TEXT, base_commit="base"))]


async def coding(event: Event, _state: Any, _tools: Any) -> list[Event]:
    change = ChangeProposed(
        revision=1, base_commit="base", head_commit="head", branch="b", digest="d", diff=NOTHING, summary=TEXT
    )
    return [event.cause(change)]


async def review(event: Event, _state: Any, _tools: Any) -> list[Event]:
    return [event.cause(ReviewPassed(revision=1, head_commit="head", digest="d", summary=TEXT))]


async def deploy(event: Event, _state: Any, _tools: Any) -> list[Event]:
    """The end that is one event of 2 kB, as at each hop before: of all ends this one has a text."""
    return [event.cause(TaskFailed(reason=TEXT, reason_code="bench"))]


HANDLES = {"planning": planning, "coding": coding, "review": review, "deploy": deploy}


async def agent(role: str, data: Path, instance: str = "", handle: Any = None) -> int:
    """What `python -m agents ROLE` runs, but for what the role decides: `handle`, or the one of this file."""
    from agents import wiring
    from agents.settings import load_settings
    from contracts.topology import Topology

    chosen = handle or HANDLES[role]
    made = wiring.Role(Topology().agent(role), _with_a_step(chosen) if STEPS else chosen, lambda session: session)
    wiring.core_role = lambda *_given: made
    settings = load_settings(data=data)
    if os.environ.get(stops.VARIABLE):
        stops.install(settings.bus.backend)
    return await wiring.run_agent(settings, role, instance=instance)


def _with_a_step(handle: Any) -> Any:
    async def stepping(event: Event, state: Any, session: Any) -> Any:
        await session.value("moment", time.time)
        return await handle(event, state, session)

    return stepping


if __name__ == "__main__":
    sys.exit(asyncio.run(agent(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:4])))
