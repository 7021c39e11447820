"""The spans of a delivery, as plain data: pure functions over how it went, so that any exporter may tell of it.

`process TOPIC` hangs below the span that the consumed event names, or is the root of its trace where nobody exported
one. Below it: `invoke_agent ROLE` with a `chat MODEL` or `execute_tool TOOL` for each step that was really run, and a
`send TOPIC` for each event, whose id follows from the event's (`contracts.envelope.span_of`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from agents import conventions as names
from agents.observed import Interval, Passage
from contracts import ids
from contracts.envelope import Envelope, is_open, span_of
from contracts.redaction import redacted
from state_store.port import Step

Kind = Literal["producer", "consumer", "client", "internal"]
Relation = Literal["parent", "link"]
Value = str | int | float

SAMPLED: Final = 0x01
UNREMARKABLE: Final = frozenset({"ignored", "waiting", "closed"})
"""Deliveries of which there is nothing to tell, unless something was sent."""


@dataclass(frozen=True, slots=True)
class Context:
    """A W3C trace context: ids in lower-case hex; `span_id` is empty where the trace has no span yet."""

    trace_id: str
    span_id: str
    flags: int

    @classmethod
    def read(cls, traceparent: str) -> Context:
        """The context of an envelope; its traceparent was checked when it was read."""
        span_id = "" if is_open(traceparent) else traceparent[36:52]
        return cls(traceparent[3:35], span_id, int(traceparent[53:55], 16))

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


@dataclass(frozen=True, slots=True)
class Span:
    """One span. Times are microseconds since the epoch; `error` is empty where nothing went wrong."""

    name: str
    kind: Kind
    trace_id: str
    span_id: str
    parent_id: str
    interval: Interval
    attributes: dict[str, Value]
    link: Context | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """What all spans of a process have in common.

    `system` is the bus by its messaging name, `prefix` what stands before our names of topics and groups on it.
    """

    role: str
    client: str
    group: str
    system: str
    provider: str
    topic_of: Callable[[Envelope], str]
    relation: Relation = "parent"
    version: str = ""
    prefix: str = ""


def trace_of(place: Place, delivery_id: str, envelope: Envelope) -> Context:
    """The trace in which a delivery is told of: that of its event, or, where they are only linked, one of its own."""
    context = Context.read(envelope.traceparent)
    if place.relation == "parent":
        return context
    return Context(ids.derived("trace", place.role, delivery_id).replace("-", ""), "", context.flags)


def spans_of(passage: Passage, place: Place) -> list[Span]:
    """The spans of one delivery; empty where it was none of this role's business."""
    envelope = passage.work.envelope
    if envelope is None or (passage.verdict in UNREMARKABLE and not passage.sent):
        return []
    trace = trace_of(place, _delivery_id(passage), envelope)
    process = _process(passage, place, envelope, trace)
    return [process, *_inside(passage, place, process), *_sends(passage, place, process)]


def send_span(envelope: Envelope, place: Place, interval: Interval, parent_id: str) -> Span:
    """The sending of one event, by an agent or by a person's command."""
    topic = place.prefix + place.topic_of(envelope)
    context = Context.read(envelope.traceparent)
    return Span(
        f"{names.SEND} {topic}",
        "producer",
        context.trace_id,
        span_of(envelope.id),
        parent_id,
        interval,
        _about(envelope, place, topic, names.SEND) | {names.EVENT_TYPE: envelope.type},
    )


def _delivery_id(passage: Passage) -> str:
    work = passage.work
    return work.inbox_id or (work.envelope.id if work.envelope is not None else "")


def _process(passage: Passage, place: Place, envelope: Envelope, trace: Context) -> Span:
    work = passage.work
    topic = place.prefix + (work.record.topic if work.record is not None else place.topic_of(envelope))
    attributes = _about(envelope, place, topic, names.PROCESS) | {
        names.MESSAGING_CONSUMER_GROUP: place.prefix + place.group,
        names.EVENT_TYPE: envelope.type,
        names.DELIVERY_VERDICT: passage.verdict,
        names.DELIVERY_ATTEMPT: work.attempt + 1,
        names.DELIVERY_FOUND: work.due.kind if work.due is not None else "bus",
    }
    if work.record is not None:
        attributes[names.MESSAGING_DESTINATION_PARTITION] = str(work.record.partition)
        if place.system == "kafka":
            attributes[names.MESSAGING_KAFKA_OFFSET] = work.record.offset
            attributes[names.MESSAGING_KAFKA_KEY] = envelope.task_id
    created = Context.read(envelope.traceparent)
    linked = place.relation == "link" and created.span_id
    error = _error_type(passage.error)
    return Span(
        f"{names.PROCESS} {topic}",
        "consumer",
        trace.trace_id,
        _new_id(),
        trace.span_id,
        (passage.began_us, passage.ended_us),
        attributes | ({names.ERROR_TYPE: error} if error else {}),
        link=created if linked else None,
        error=redacted(str(passage.error)) if error else "",
    )


def _inside(passage: Passage, place: Place, process: Span) -> Iterator[Span]:
    """The role's own time, and the steps that were run in it."""
    if passage.handled is None:
        return
    attributes = _lineage(process) | {
        names.GEN_AI_OPERATION_NAME: names.INVOKE_AGENT,
        names.GEN_AI_AGENT_NAME: place.role,
        names.GEN_AI_CONVERSATION_ID: process.attributes[names.CORRELATION_ID],
    }
    if place.version:
        attributes[names.GEN_AI_AGENT_VERSION] = place.version
    if place.provider:
        attributes[names.GEN_AI_PROVIDER_NAME] = place.provider
    if names.ERROR_TYPE in process.attributes:
        attributes[names.ERROR_TYPE] = process.attributes[names.ERROR_TYPE]
    invoke = Span(
        f"{names.INVOKE_AGENT} {place.role}",
        "internal",
        process.trace_id,
        _new_id(),
        process.span_id,
        passage.handled,
        attributes,
        error=process.error,
    )
    yield invoke
    for step in passage.steps:
        if step.kind != "value":
            yield _step(step, place, invoke)


def _step(step: Step, place: Place, invoke: Span) -> Span:
    interval = (step.began_at_us, max(step.ended_at_us or step.began_at_us, step.began_at_us))
    attributes = _lineage(invoke) | {
        names.GEN_AI_CONVERSATION_ID: invoke.attributes[names.CORRELATION_ID],
        names.STEP_ORDINAL: step.ordinal,
        names.STEP_ATTEMPT: step.attempt,
    }
    error = step.error.partition(":")[0] if step.outcome == "error" else ""
    if error:
        attributes[names.ERROR_TYPE] = error
    span = Span("", "internal", invoke.trace_id, _new_id(), invoke.span_id, interval, attributes, error=step.error)
    if step.kind == "tool":
        attributes[names.GEN_AI_OPERATION_NAME] = names.EXECUTE_TOOL
        attributes[names.GEN_AI_TOOL_NAME] = step.name
        attributes[names.GEN_AI_TOOL_TYPE] = "function"
        attributes[names.GEN_AI_TOOL_CALL_ID] = f"{step.cause_id}/{step.role}/{step.ordinal}"
        return replace(span, name=f"{names.EXECUTE_TOOL} {step.name}")
    attributes |= {
        names.GEN_AI_OPERATION_NAME: names.CHAT,
        names.GEN_AI_PROVIDER_NAME: place.provider,
        names.GEN_AI_REQUEST_MODEL: step.model,
        names.GEN_AI_RESPONSE_MODEL: step.model,
        names.GEN_AI_INPUT_TOKENS: step.tokens_in,
        names.GEN_AI_OUTPUT_TOKENS: step.tokens_out,
        names.COST_DOLLARS: step.cost_microdollars / 1_000_000,
        names.PROMPT_NAME: step.prompt,
        names.PROMPT_HASH: step.prompt_hash,
    }
    return replace(span, name=f"{names.CHAT} {step.model}".rstrip(), kind="client")


def _sends(passage: Passage, place: Place, process: Span) -> Iterator[Span]:
    for recorded, interval in passage.sent:
        for event in recorded:
            context = Context.read(event.envelope.traceparent)
            if context.span_id == span_of(event.envelope.id):  # else it was recorded by who exports no spans
                parent = process.span_id if context.trace_id == process.trace_id else ""
                yield send_span(event.envelope, place, interval, parent)


def _about(envelope: Envelope, place: Place, topic: str, operation: str) -> dict[str, Value]:
    caused: dict[str, Value] = {names.CAUSATION_ID: envelope.causation_id} if envelope.causation_id is not None else {}
    return caused | {
        names.MESSAGING_SYSTEM: place.system,
        names.MESSAGING_OPERATION_NAME: operation,
        names.MESSAGING_OPERATION_TYPE: operation,
        names.MESSAGING_DESTINATION_NAME: topic,
        names.MESSAGING_CLIENT_ID: place.client,
        names.MESSAGING_MESSAGE_ID: envelope.id,
        names.MESSAGING_CONVERSATION_ID: envelope.correlation_id,
        names.CLOUDEVENTS_ID: envelope.id,
        names.CLOUDEVENTS_SOURCE: envelope.source,
        names.CLOUDEVENTS_TYPE: f"gavotte.{envelope.type}.v{envelope.version}",
        names.CLOUDEVENTS_SUBJECT: envelope.task_id,
        names.CLOUDEVENTS_SPEC_VERSION: "1.0",
        names.TASK_ID: envelope.task_id,
        names.CORRELATION_ID: envelope.correlation_id,
    }


def _lineage(span: Span) -> dict[str, Value]:
    return {key: span.attributes[key] for key in (names.TASK_ID, names.CORRELATION_ID)}


def _error_type(error: BaseException | None) -> str:
    return "" if error is None else getattr(error, "code", "") or type(error).__name__


def _new_id() -> str:
    return secrets.token_hex(8)
