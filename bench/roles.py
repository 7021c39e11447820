"""One of the four agents with a do-nothing role, everything else as it is shipped: `python bench/roles.py ROLE FOLDER`.

Settings come from the environment, as for any agent, so that the same program dances on every bus and store.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.job import TEXT  # noqa: E402  # the folder is no package: the root must be on the path first
from contracts.envelope import Event  # noqa: E402
from contracts.events import Body, ChangeProposed, PlanProposed, ReviewPassed, TaskFailed  # noqa: E402

NOTHING = Body(digest="sha256:0", size_bytes=0)


async def planning(event: Event, _state: Any, _tools: Any) -> list[Event]:
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

    made = wiring.Role(Topology().agent(role), handle or HANDLES[role], lambda _session: None)
    wiring.core_role = lambda *_given: made
    return await wiring.run_agent(load_settings(data=data), role, instance=instance)


if __name__ == "__main__":
    sys.exit(asyncio.run(agent(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:4])))
