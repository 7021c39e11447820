"""From a role's drafts to events that can be stored and published: ids, source, time, right to emit, bytes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel

from bus.port import Message
from contracts.codec import Codec
from contracts.envelope import Envelope, Event, agent_source
from contracts.errors import Rejected
from contracts.events import Body, Payload
from contracts.redaction import redacted, suspicious
from contracts.topology import Agent, Topology, topic_for
from state_store.port import Delivery, Encoded, Recorded
from state_store.shelf import events_at

P = TypeVar("P", bound=Payload)


class Emission:
    """What one agent emits. Everything that can be wrong with an event is found here, before the commit."""

    def __init__(self, agent: Agent, codec: Codec, topology: Topology, clock: Callable[[], int]) -> None:
        self._agent = agent
        self._codec = codec
        self._topology = topology
        self._clock = clock
        self.context: Callable[[Delivery, Event], Event] | None = None
        """Gives an event the trace context that its readers see; without one, that of its cause is passed on."""

    def sealed(self, delivery: Delivery, drafts: Sequence[Event], *, slot: str = "") -> tuple[Encoded, ...]:
        """Ids derived from task, cause, producer and index: the same handling gives the same events again.

        `slot` keeps what the worker says on its own apart from what the role says. Raises Rejected, TooLarge.
        """
        producer = self._agent.role
        if delivery.event_id != delivery.cause_id:
            producer = f"{producer}/{delivery.event_id}"
        if slot:
            producer = f"{producer}/{slot}"
        return tuple(self._seal(delivery, draft, producer, index) for index, draft in enumerate(drafts))

    def _seal(self, delivery: Delivery, draft: Event, producer: str, index: int) -> Encoded:
        role = self._agent.role
        if draft.type not in self._agent.emits:
            raise Rejected(f"{role} may not emit {draft.type}", hint="its row in the topology does not list it")
        event = draft.sealed(producer=producer, index=index, time_us=self._clock(), source=agent_source(role))
        if self.context is not None:
            event = self.context(delivery, event)
        value = self._codec.encode_payload(event.payload)
        clean = clean_payload(event.payload, value)
        if clean is not event.payload:
            event = Event(event.envelope, clean)
            value = self._codec.encode_payload(clean)
        return Encoded(event, value)

    def message(self, event: Recorded) -> Message:
        """A recorded event as it travels."""
        return message_of(event, self._codec, self._topology)


def message_of(event: Recorded, codec: Codec, topology: Topology) -> Message:
    """A recorded event as it travels: what was stored, under the id that its schema has on topics."""
    envelope = event.envelope
    topic = topic_for(envelope.type, envelope.source, topology)
    value = codec.wire.outward(event.value)
    stored = event.position if event.position and value is event.value else None
    return Message(topic, envelope.task_id.encode(), value, envelope, stored)


def contents_at(
    connection: sqlite3.Connection, positions: Sequence[int]
) -> Mapping[int, tuple[bytes, Envelope, bytes]]:
    """Key, envelope and value of recorded events, as `message_of` has them: for a bus on the file of the store."""
    return {
        position: (envelope.task_id.encode(), envelope, value)
        for position, (envelope, value) in events_at(connection, positions).items()
    }


def clean_payload(payload: P, encoded: bytes) -> P:
    """The payload without secrets: itself where there is none, as its bytes show nearly always.

    They only raise suspicion: in them a length stands before each text, and may look like a letter of it.
    """
    if not suspicious(encoded.decode("utf-8", "ignore")):
        return payload
    clean: P = _clean(payload)
    return payload if clean == payload else clean


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Body):
        return value if value.text is None or redacted(value.text) == value.text else Body.of(redacted(value.text))
    if isinstance(value, BaseModel):
        return value.model_copy(update={name: _clean(each) for name, each in value})
    if isinstance(value, tuple):
        return tuple(_clean(each) for each in value)
    return {key: _clean(each) for key, each in value.items()} if isinstance(value, dict) else value
