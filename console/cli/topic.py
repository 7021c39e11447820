"""`log --from-bus`: prints what is on a topic as it comes, also where the store does not answer."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from console.cli.call import Call
from console.cli.output import put, say, styled, warn
from console.harmless import clipped, to_json
from console.topic import Carried, carried, opened
from console.topic import since as since_us
from console.words import moment, short_id
from contracts.errors import NotFound, Unavailable
from contracts.topology import Topology, topic_of

if TYPE_CHECKING:
    from bus.port import Bus
    from contracts.codec import Codec

DETAIL_CHARACTERS_MAX: Final = 100


async def log(call: Call, topic: str, *, task: str, since: str, follow: bool, json: bool) -> None:
    """Print the records of a topic; NotFound where the topic is not one of ours and nothing is on it."""
    begin_us = since_us(since) if since else 0
    name = topic if "." in topic else topic_of(topic)
    seen = False
    async with reading(call) as (bus, codec, topology):
        known = name in topology.topics() or name.endswith(".dlq")
        async for record in carried(bus, name, begin_us, follow=follow):
            seen = True
            found = await opened(codec, record)
            if task in found.task_id:
                put(to_json(found.fields()) if json else line(found))
    if not (seen or known or since):
        raise NotFound(f"there is no topic {name}", hint=f"known: {', '.join(topology.topics())}")
    if not seen:
        say("no records")


@contextlib.asynccontextmanager
async def reading(call: Call) -> AsyncIterator[tuple[Bus, Codec, Topology]]:
    """Bus and codec; the store, where it answers, tells of further agents and their schemas."""
    try:
        runtime = await call.runtime()
    except (NotFound, Unavailable) as error:  # no store of ours here, or it is away
        from agents.wiring import open_bus

        if isinstance(error, Unavailable):
            warn(f"{error.message}; the events of further agents may be unknown")
        async with open_bus(call.settings) as (bus, codec):
            yield bus, codec, Topology()
    else:
        yield runtime.bus, runtime.codec, runtime.topology


def line(found: Carried) -> str:
    """A record on one line: its place, time, task, source, type and what it says."""
    record, envelope = found.record, found.envelope
    place = f"{record.partition}/{record.offset}"
    type_ = f"{envelope.type} v{envelope.version}" if envelope else "unreadable"
    role = envelope.role if envelope else ""
    task = short_id(found.task_id)
    head = f"{place:<8}  {moment(record.timestamp_us)}  {clipped(task, 8):<8}  {clipped(role, 12):<12}"
    return f"{head}  {clipped(type_, 40):<22}  {detail(found)}".rstrip()


def detail(found: Carried) -> str:
    """What a record says, why it lies among the letters, or why it cannot be read."""
    words = []
    if found.letter is not None:
        words.append(f"letter of {found.letter.group}, {found.letter.code}: {found.letter.message}")
    if found.problem:
        number = "" if found.schema_id is None else f"schema id {found.schema_id}, "
        words.append(styled(clipped(f"{number}{len(found.record.value)} bytes: {found.problem}", 160), "yellow"))
    elif found.letter is None:
        words.append(said(found))
    return "; ".join(word if word.startswith("\x1b") else clipped(word, DETAIL_CHARACTERS_MAX) for word in words)


def said(found: Carried) -> str:
    """The payload in words where there are some, else its fields."""
    from console.timeline import line_of

    envelope, payload = found.envelope, found.payload
    if envelope is not None and hasattr(payload, "model_dump"):
        return line_of(envelope.type, envelope.role, payload).detail
    return to_json(payload)
