"""A further agent that is at work until a test says otherwise: it notes when it begins and ends.

It writes to the file that SLOW_JOURNAL names, and ends when the file of SLOW_RELEASE is there.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from contracts.envelope import Event
from contracts.events import Payload
from contracts.topology import Agent


class DozedOff(Payload):
    """A submission was slept over."""


AGENT = Agent("dozing", consumes=("TaskSubmitted",), emits=("DozedOff",))
EVENTS = (DozedOff,)


async def handle(event: Event, state: object, tools: object) -> list[Event]:
    note("begin")
    while not Path(os.environ["SLOW_RELEASE"]).exists():
        await asyncio.sleep(0.1)
    note("end")
    return [event.cause(DozedOff())]


def note(what: str) -> None:
    with Path(os.environ["SLOW_JOURNAL"]).open("a") as journal:
        journal.write(f"{what} {os.getpid()}\n")
