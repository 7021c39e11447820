"""Letters: what a role could not handle, found on the dead-letter topics, shown, and sent on its way again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bus.dead_letters import KEPT, Letter, explain, letter_topic
from bus.port import Bus, Headers, Message, Record
from contracts import ids
from contracts.codec import iso, read_envelope
from contracts.errors import GavotteError, NotFound, Undecodable, Usage

if TYPE_CHECKING:
    from contracts.envelope import Envelope
    from contracts.topology import Topology
    from state_store.port import StateStore

PAGE: Final = 1000
ROWS_MAX: Final = 10_000


@dataclass(frozen=True)
class Found:
    """A letter where it lies. `envelope` is None where even the headers cannot be read; `open` until it is handled."""

    letter: Letter
    place: str
    """topic/partition/offset of the letter itself."""
    role: str
    envelope: Envelope | None
    open: bool

    @property
    def event_id(self) -> str:
        return self.envelope.id if self.envelope is not None else ""

    @property
    def task_id(self) -> str:
        return self.envelope.task_id if self.envelope is not None else ""


async def letters(bus: Bus, store: StateStore, topology: Topology) -> list[Found]:
    """All letters of all roles, the newest first."""
    found = []
    for agent in topology.agents:
        for topic in topology.topics_for(agent.role):
            for record in await records(bus, letter_topic(topic, agent.group)):
                letter = read(record)
                if letter is not None:
                    found.append(await _found(store, letter, record, agent.role))
    return sorted(found, key=lambda each: each.letter.last_at_us, reverse=True)


def newest(found: Sequence[Found]) -> list[Found]:
    """One letter for each event and role: the newest, where a redrive failed again."""
    kept: dict[tuple[str, str], Found] = {}
    for each in found:
        kept.setdefault((each.role, each.event_id or each.place), each)
    return list(kept.values())


async def records(bus: Bus, topic: str) -> list[Record]:
    """Everything on a topic, partition by partition."""
    found: list[Record] = []
    after: dict[int, int] = {}
    while page := await bus.read(topic, after=after, records_max=PAGE):
        found += page
        for record in page:
            after[record.partition] = max(after.get(record.partition, 0), record.offset + 1)
    return found


def read(record: Record) -> Letter | None:
    """The letter in a record; None where something else lies on the topic."""
    try:
        return explain(record)
    except Undecodable:
        return None


def pick(found: Sequence[Found], reference: str, role: str = "") -> Found:
    """The letter that is meant by a part of its event's id or by its place; raises NotFound or Usage."""
    fits = [each for each in found if each.place == reference or (reference and reference in each.event_id)]
    fits = [each for each in fits if not role or each.role == role]
    if not fits:
        raise NotFound(f"no letter is known as {reference}", hint="gavotte dlq list")
    if len({(each.role, each.event_id) for each in fits}) > 1:
        said = ", ".join(f"{each.event_id or each.place} ({each.role})" for each in fits[:5])
        raise Usage(f"{reference} fits several letters: {said}", hint="name more of the id, or the role with --role")
    return fits[0]


async def redrive(bus: Bus, store: StateStore, found: Found, operator: str) -> bool:
    """Open the delivery again and put the record back on its topic; says whether a delivery was waiting for that."""
    reopened = await store.reopen(found.role, found.event_id) if found.event_id else False
    letter = found.letter
    await bus.publish([Message(letter.topic, letter.key, letter.value, redriven(letter, operator))])
    return reopened


def redriven(letter: Letter, operator: str) -> Headers:
    """The original headers, with who redrove the record, when, and how often this happened."""
    kept = tuple((name, value) for name, value in letter.headers if not name.startswith(KEPT))
    facts = {"count": str(letter.redrive_count + 1), "by": operator, "at": iso(ids.now_us())}
    return kept + tuple((KEPT + name, value.encode()) for name, value in facts.items())


async def _found(store: StateStore, letter: Letter, record: Record, role: str) -> Found:
    try:
        envelope = read_envelope(letter.key, letter.headers)
    except GavotteError:
        envelope = None
    place = f"{record.topic}/{record.partition}/{record.offset}"
    is_open = envelope is None or await _is_open(store, role, envelope)
    return Found(letter, place, role, envelope, is_open)


async def _is_open(store: StateStore, role: str, envelope: Envelope) -> bool:
    """Whether the role never got further with the event than to this letter."""
    rows = await store.inbox(task_id=envelope.task_id, limit=ROWS_MAX)
    own = [row.status for row in rows if (row.role, row.event_id) == (role, envelope.id)]
    return not own or "dead" in own
