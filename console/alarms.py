"""Alarms for people: what looks wrong with which task, since when, and what to do about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Final

from console.words import MICRO, moment, short_id, span

if TYPE_CHECKING:
    from agents.watch import Alarm, Sight
    from agents.wiring import Runtime

LOOK_SECONDS: Final = 5.0
REST_RATIO: Final = 20.0
"""A look that takes long, over many tasks, is followed by so much longer a rest."""


async def sight(runtime: Runtime) -> Sight:
    """One look: the watcher's, and the letters of records that nobody could read, which the bus alone holds."""
    from agents.watch import Alarm, Sight, look
    from console.supervise import living_agents
    from contracts import ids
    from dlq_tools.letters import letters, newest

    seen = await look(runtime.store, living_agents(runtime.settings), ids.now_us())
    known = {(alarm.role, alarm.event_id) for alarm in seen.alarms if alarm.kind == "letter"}
    rows = {(row.role, row.event_id) for row in await runtime.store.inbox(statuses=("dead",), limit=10_000)}
    unread = [
        Alarm(
            "letter",
            each.task_id,
            each.role,
            each.letter.last_at_us,
            event_id=each.event_id or each.place,
            event_type=each.envelope.type if each.envelope else "",
            attempt=each.letter.attempt,
            reason=each.letter.message,
        )
        for each in newest(await letters(runtime.bus, runtime.store, runtime.topology))
        if each.open and (each.role, each.event_id) not in known | rows
    ]
    return Sight(seen.turns, tuple(sorted([*seen.alarms, *unread], key=lambda alarm: alarm.since_us)))


async def follow(
    runtime: Runtime, every_seconds: float = LOOK_SECONDS
) -> AsyncGenerator[tuple[list[Alarm], list[Alarm]], None]:
    """Alarms that were raised and those that are over, look after look, for ever.

    What is gone by the next look never was an alarm: a retry that helped, an agent that was started again.
    """
    from contracts.errors import Retryable

    loop = asyncio.get_running_loop()
    before: dict[tuple[str, ...], Alarm] = {}
    raised: dict[tuple[str, ...], Alarm] = {}
    while True:
        began = loop.time()
        try:
            now = {alarm.key: alarm for alarm in (await sight(runtime)).alarms}
        except Retryable:
            now = before
        new = {key: alarm for key, alarm in now.items() if key in before and key not in raised}
        over = {key: alarm for key, alarm in raised.items() if key not in now}
        raised = {key: alarm for key, alarm in (raised | new).items() if key not in over}
        before = now
        if new or over:
            yield list(new.values()), list(over.values())
        await asyncio.sleep(max(every_seconds, (loop.time() - began) * REST_RATIO))


def sentence(alarm: Alarm, now_us: int) -> str:
    """What looks wrong, in words."""
    since = span((now_us - alarm.since_us) / MICRO)
    what = alarm.event_type or "a record that nobody can read"
    words = {
        "overdue": f"the deadline of step {alarm.step} passed {since} ago, and {alarm.role} has not acted on it",
        "unattended": f"no {alarm.role} agent is running on this machine; it has been its turn for {since}",
        "stalled": f"it has been {alarm.role}'s turn for {since}, and nobody is at work on it",
        "retrying": f"{alarm.role} failed on {what} and tries it again (attempt {alarm.attempt + 1})",
        "parked": f"{alarm.role} has laid {what} aside",
        "letter": f"{alarm.role} has given up on {what}, it is a letter now",
    }
    due = ""
    if alarm.kind == "retrying" and alarm.due_us is not None:
        due = " now" if alarm.due_us <= now_us else f" at {moment(alarm.due_us)}"
    return f"{words[alarm.kind]}{due}{f': {alarm.reason}' if alarm.reason else ''}"


def command(alarm: Alarm) -> str:
    """What a person can do about it."""
    if alarm.kind == "letter":
        return f"gavotte dlq show {alarm.event_id}"
    if alarm.kind == "unattended":
        return "gavotte up"
    if alarm.kind == "stalled":
        return "gavotte doctor"
    return f"gavotte why {short_id(alarm.task_id)}"


def fields(alarm: Alarm, now_us: int) -> dict[str, Any]:
    """An alarm for programs: stable names."""
    return {
        "kind": alarm.kind,
        "task_id": alarm.task_id or None,
        "role": alarm.role,
        "step": alarm.step or None,
        "event_id": alarm.event_id or None,
        "event_type": alarm.event_type or None,
        "attempt": alarm.attempt,
        "since_us": alarm.since_us,
        "due_us": alarm.due_us,
        "reason": alarm.reason,
        "sentence": sentence(alarm, now_us),
        "command": command(alarm),
    }
