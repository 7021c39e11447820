"""The event: an envelope that routes, dedupes and traces it, and a payload that states the fact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from contracts import ids

if TYPE_CHECKING:
    from collections.abc import Callable

    from contracts.events import Payload

Trust = Literal["operator", "system", "untrusted"]
"""Who stands behind the text inside: an operator, our own code, or a model, a repository, a stranger."""

SOURCE_PREFIX = "urn:gavotte:"


def agent_source(role: str) -> str:
    """The `ce_source` of a role."""
    return f"{SOURCE_PREFIX}agent:{role}"


def role_of(source: str) -> str:
    """The last part of a source: a role's name, `operator` or `client`."""
    return source.rpartition(":")[2]


OPERATOR_SOURCE = f"{SOURCE_PREFIX}operator"
CLIENT_SOURCE = f"{SOURCE_PREFIX}client"


class Envelope(NamedTuple):
    """What travels in the headers: enough to route, dedupe, audit and trace without the payload.

    `time_us` is microseconds since the epoch. `causation_id` is the event that caused this one, None for a submission
    or a kill. `source` is `urn:gavotte:agent:<role>`, `urn:gavotte:operator` or `urn:gavotte:client`.
    """

    id: str
    type: str
    version: int
    task_id: str
    correlation_id: str
    causation_id: str | None
    time_us: int
    source: str
    traceparent: str = ""
    tracestate: str = ""
    tenant: str = "default"
    trust: Trust = "untrusted"

    @property
    def role(self) -> str:
        """The last part of the source: a role's name, `operator` or `client`."""
        return role_of(self.source)


class Event:
    """An envelope with its payload. Only `cause` makes a child, so lineage cannot be forgotten. Never changed."""

    __slots__ = ("_decode", "_payload", "envelope")

    def __init__(
        self, envelope: Envelope, payload: Payload | None = None, decode: Callable[[], Payload] | None = None
    ) -> None:
        """`decode` makes the payload when somebody asks for it; it may raise what decoding raises."""
        self.envelope = envelope
        self._payload = payload
        self._decode = decode

    @property
    def payload(self) -> Payload:
        """What is stated."""
        payload = self._payload
        if payload is None:
            if self._decode is None:
                raise ValueError("an event needs a payload, or a way to decode it")
            payload = self._payload = self._decode()
        return payload

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and (self.envelope, self.payload) == (other.envelope, other.payload)

    def __hash__(self) -> int:
        return hash(self.envelope)

    def __repr__(self) -> str:
        return f"Event({self.envelope!r}, {'not decoded' if self._payload is None else repr(self._payload)})"

    @property
    def id(self) -> str:
        return self.envelope.id

    @property
    def type(self) -> str:
        return self.envelope.type

    @property
    def task_id(self) -> str:
        return self.envelope.task_id

    def cause(self, payload: Payload) -> Event:
        """A child fact of this event, not yet sealed: its producer gives it id, source and time with `sealed`."""
        parent = self.envelope
        child = Envelope(
            id="",
            type=payload.event_type(),
            version=payload.event_version(),
            task_id=parent.task_id,
            correlation_id=parent.correlation_id,
            causation_id=parent.id,
            time_us=0,
            source="",
            traceparent=parent.traceparent,
            tracestate=parent.tracestate,
            tenant=parent.tenant,
            trust=payload.TRUST,
        )
        return Event(child, payload)

    def sealed(self, *, producer: str, index: int, time_us: int, source: str | None = None) -> Event:
        """The child with its derived id: equal arguments give an equal id, so a rerun repeats nothing."""
        draft = self.envelope
        if draft.causation_id is None:
            raise ValueError("only an event made by cause() can be sealed")
        return Event(
            draft._replace(
                id=ids.event_id(draft.task_id, draft.causation_id, producer, index),
                time_us=time_us,
                source=source or agent_source(producer),
            ),
            self.payload,
        )

    def chained(self, causation_id: str) -> Event:
        """The same draft, caused by another event of the same task (a chain inside one commit)."""
        return Event(self.envelope._replace(causation_id=causation_id), self.payload)


def root(
    payload: Payload,
    *,
    task_id: str | None = None,
    source: str = CLIENT_SOURCE,
    trust: Trust = "untrusted",
    tenant: str = "default",
    event_id: str | None = None,
    time_us: int | None = None,
) -> Event:
    """An event that nothing caused: a submission or a kill. It opens a correlation and a trace of its own."""
    moment = ids.now_us() if time_us is None else time_us
    own_id = event_id or ids.uuid7(moment)
    task = task_id or ids.uuid7(moment)
    correlation_id = ids.derived("correlation", task, own_id)
    envelope = Envelope(
        id=own_id,
        type=payload.event_type(),
        version=payload.event_version(),
        task_id=task,
        correlation_id=correlation_id,
        causation_id=None,
        time_us=moment,
        source=source,
        traceparent=open_trace(correlation_id),
        tenant=tenant,
        trust=trust,
    )
    return Event(envelope, payload)


def open_trace(correlation_id: str) -> str:
    """The W3C traceparent of a trace that nobody has exported a span of yet: sampled, its id is the correlation's.

    It names a span as it must; the span has the digits of the trace's second half, by which `is_open` knows it.
    """
    trace_id = correlation_id.replace("-", "")
    return f"00-{trace_id}-{trace_id[16:]}-01"


def is_open(traceparent: str) -> bool:
    """Whether the span that a traceparent names was never exported, so that what follows has no parent."""
    return traceparent[19:35] == traceparent[36:52]


def span_of(event_id: str) -> str:
    """The id of the span that tells of an event's sending: the event's last 16 digits, so that either leads to the other."""
    return event_id[-17:].replace("-", "")
