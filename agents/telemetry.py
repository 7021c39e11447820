"""What a process shows of itself: spans over OTLP and metrics for Prometheus, made off the path of events.

The only importer of opentelemetry and prometheus_client; neither is imported where nothing is to be shown. Spans go
where the standard OTEL_* variables say. A finished delivery is put into a list and read by a thread a moment later.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from agents import conventions as names
from agents.spans import SAMPLED, Context, Place, Span, send_span, spans_of, trace_of
from contracts.codec import TRACEPARENT_PATTERN
from contracts.envelope import Envelope, Event, span_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    from agents.observed import Interval, Passage
    from bus.port import Lag
    from state_store.port import Delivery, OpenWork, Step

log = logging.getLogger(__name__)

LINGER_SECONDS: Final = 0.2
PASSAGES_MAX: Final = 20_000
"""So many deliveries may wait to be told of; what comes then is not told, and counted."""
TOLD_MAX: Final = 20
"""Of so many deliveries of one moment spans are made, 100 a second: a span costs more than a delivery that does nothing.

Where more come, whole traces are picked by their ids, the same by every agent; what went wrong is always told.
"""
FLUSH_SECONDS: Final = 3.0
PERSON_SECONDS: Final = 1.0
OPEN_STATUSES: Final = dict.fromkeys(("running", "waiting", "escalated"), 0)
OPEN_DELIVERIES: Final = dict.fromkeys(("started", "waiting", "retry", "parked"), 0)
"""What a page shows even where there is none: a series that vanishes is no zero."""


class Tracing:
    """Spans of one process, batched and exported by the SDK's own thread. Nothing here waits for a collector."""

    def __init__(self, place: Place, environ: Mapping[str, str], exporter: SpanExporter | None = None) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self.place = place
        said = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        self._resource = Resource.create(
            {"service.namespace": "gavotte", "service.instance.id": place.client, "service.version": place.version}
            | ({} if said else {"service.name": f"gavotte-{place.role}"})
        )
        self._scope = InstrumentationScope(names.SCOPE, place.version, names.SCHEMA_URL)
        self._sampler = TracerProvider(shutdown_on_exit=False).sampler  # as OTEL_TRACES_SAMPLER says
        self._exporter = exporter or _exporter(environ)
        self._processor = BatchSpanProcessor(self._exporter)
        self._decide = functools.lru_cache(maxsize=4096)(self._decision)

    def context(self, delivery: Delivery, event: Event) -> Event:
        """The event that is to be recorded: the context that its readers see is that of its own sending."""
        return self.sent(event, trace_of(self.place, delivery.event_id, event.envelope))

    def sent(self, event: Event, trace: Context) -> Event:
        """The event with the span of its sending, in this trace."""
        flags = (trace.flags & ~SAMPLED) | self.sampled(trace)
        context = Context(trace.trace_id, span_of(event.id), flags)
        return Event(event.envelope._replace(traceparent=str(context)), event.payload)

    def tell(self, spans: Iterable[Span]) -> None:
        """Hand spans to the exporter's thread."""
        for span in spans:
            self._processor.on_end(self._readable(span))

    def flush(self) -> None:
        """Export what was handed over, now; for tests, since it waits for the collector."""
        self._processor.force_flush()

    def close(self, timeout_seconds: float = FLUSH_SECONDS) -> None:
        """Export what is left. A collector that does not answer is not waited for longer than this."""
        ending = threading.Thread(target=self._processor.shutdown, daemon=True)
        ending.start()
        ending.join(timeout_seconds)
        if ending.is_alive():
            log.warning("the last spans did not reach their collector within %g s", timeout_seconds)
            self._exporter.shutdown()

    def sampled(self, trace: Context) -> int:
        """The sampled flag of what happens in this trace: 1 or 0, as the sampler decides."""
        return self._decide(trace.trace_id, trace.flags if trace.span_id else None)

    def _decision(self, trace_id: str, parent_flags: int | None) -> int:
        from opentelemetry import trace as api
        from opentelemetry.sdk.trace.sampling import Decision

        parent = None
        if parent_flags is not None:
            flags = api.TraceFlags(parent_flags)
            above = api.SpanContext(int(trace_id, 16), 1, is_remote=True, trace_flags=flags)
            parent = api.set_span_in_context(api.NonRecordingSpan(above))
        result = self._sampler.should_sample(parent, int(trace_id, 16), names.PROCESS)
        return SAMPLED if result.decision is Decision.RECORD_AND_SAMPLE else 0

    def _readable(self, span: Span) -> ReadableSpan:
        """The SDK's own object, made directly: a tracer's span costs five times as much, and its ids are its own."""
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import Link, SpanKind, Status, StatusCode

        return ReadableSpan(
            span.name,
            _context(span.trace_id, span.span_id),
            _context(span.trace_id, span.parent_id) if span.parent_id else None,
            resource=self._resource,
            attributes=span.attributes,
            links=[Link(_context(span.link.trace_id, span.link.span_id))] if span.link is not None else (),
            kind=SpanKind[span.kind.upper()],
            status=Status(StatusCode.ERROR, span.error[:1000]) if span.error else Status(),
            start_time=span.interval[0] * 1000,
            end_time=span.interval[1] * 1000,
            instrumentation_scope=self._scope,
        )


def _context(trace_id: str, span_id: str) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(SAMPLED))


def _exporter(environ: Mapping[str, str]) -> SpanExporter:
    if environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


@dataclass(frozen=True)
class Reading:
    """What a scrape looks up at bus and store; None where they did not answer."""

    lag: Sequence[Lag] | None = None
    work: OpenWork | None = None
    kills: Mapping[str, int] | None = None
    ready: bool = False


class Metrics:
    """The metrics of one process in a registry of its own."""

    def __init__(self, place: Place) -> None:
        import prometheus_client as client

        client.disable_created_metrics()  # type: ignore[no-untyped-call]  # it is theirs to annotate
        self.place = place
        self.registry = client.CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Any:
            return client.Counter(name.removesuffix("_total"), what, labels, registry=self.registry)

        def histogram(name: str, what: str, buckets: Sequence[float], *labels: str) -> Any:
            return client.Histogram(name, what, labels, buckets=buckets, registry=self.registry)

        def gauge(name: str, what: str, *labels: str) -> Any:
            return client.Gauge(name, what, labels, registry=self.registry)

        seconds, topic, error = names.SECONDS_BUCKETS, "messaging_destination_name", "error_type"
        tool, model, kind = "gen_ai_tool_name", "gen_ai_request_model", "gen_ai_token_type"
        self._process = histogram(names.PROCESS_SECONDS, "Time for one delivery.", seconds, topic, error)
        self._consumed = counter(names.CONSUMED_MESSAGES, "Records taken from the bus.", topic)
        self._sent = counter(names.SENT_MESSAGES, "Events published.", topic)
        self._chat = histogram(names.CHAT_SECONDS, "Time for one call of a model.", seconds, model, error)
        self._usage = histogram(names.TOKEN_USAGE, "Tokens of one call.", names.TOKEN_BUCKETS, model, kind)
        self._tool = histogram(names.TOOL_SECONDS, "Time for one call of a tool.", seconds, tool, error)
        self._deliveries = counter(names.DELIVERIES, "Deliveries by what became of them.", "role", "verdict")
        self._retries = counter(names.RETRIES, "Deliveries that are tried again.", "role")
        self._letters = counter(names.DEAD_LETTERS, "Deliveries whose record became a dead letter.", "role")
        self._handle = histogram(names.HANDLE_SECONDS, "The role's own time for one delivery.", seconds, "role")
        self._commit = histogram(names.COMMIT_SECONDS, "Time for one commit.", names.COMMIT_BUCKETS, "role")
        self._tokens = counter(names.MODEL_TOKENS, "Tokens that models used.", "role", "model", "direction")
        self._cost = counter(names.MODEL_COST_DOLLARS, "What models cost, in dollars.", "role", "model")
        self.dropped = counter(names.SPANS_DROPPED, "Deliveries not told of: more came than could be.", "role")
        self._lag = gauge(names.CONSUMER_LAG, "Records that the role has not acknowledged yet.", "role", "topic")
        self._inbox = gauge(
            names.INBOX_DELIVERIES, "Deliveries that are not finished, by their state in the inbox.", "role", "status"
        )
        self._tasks = gauge(names.OPEN_TASKS, "Tasks that have not ended, by status; the same at every role.", "status")
        self._kills = gauge(names.KILLS, "Kills that are not lifted, by scope; the same at every role.", "scope")
        self._ready = gauge(names.READY, "1 while bus and store answer and records are taken.", "role")
        build = gauge(names.BUILD_INFO, "1; what runs is in the labels.", "role", "version", "instance_id")
        build.labels(place.role, place.version, place.client).set(1)
        for known in (self._retries, self._letters, self.dropped):
            known.labels(place.role)  # a series that is there from the start can be told from one that is missing
        for scope in ("all", "role", "task"):
            self._kills.labels(scope)

    def delivered(self, passage: Passage) -> None:
        """Count a delivery."""
        role, verdict = self.place.role, passage.verdict
        self._deliveries.labels(role, verdict).inc()
        if verdict == "retry":
            self._retries.labels(role).inc()
        elif verdict == "dead":
            self._letters.labels(role).inc()
        work = passage.work
        if work.record is not None:
            self._consumed.labels(work.record.topic).inc()
            if verdict != "ignored":
                error = type(passage.error).__name__ if passage.error is not None else ""
                self._process.labels(work.record.topic, error).observe(_seconds((passage.began_us, passage.ended_us)))
        if passage.handled is not None:
            self._handle.labels(role).observe(_seconds(passage.handled))
        if passage.committed is not None:
            self._commit.labels(role).observe(_seconds(passage.committed))
        for step in passage.steps:
            self._step(step)
        for recorded, _ in passage.sent:
            for event in recorded:
                self._sent.labels(self.place.topic_of(event.envelope)).inc()

    def read(self, reading: Reading) -> None:
        """Take in what was looked up; what did not answer is left out of the page."""
        role = self.place.role
        self._ready.labels(role).set(1 if reading.ready else 0)
        behind: dict[str, int] | None = None
        if reading.lag is not None:
            behind = {}
            for found in reading.lag:
                behind[found.topic] = behind.get(found.topic, 0) + found.behind
        work = reading.work
        for gauge, labels, values in (
            (self._lag, (role,), behind),
            (self._tasks, (), work and {**OPEN_STATUSES, **work.tasks}),
            (self._inbox, (role,), work and {**OPEN_DELIVERIES, **work.deliveries}),
            (self._kills, (), reading.kills),
        ):
            gauge.clear()
            for name, value in (values or {}).items():
                gauge.labels(*labels, name).set(value)

    def page(self, accept: str) -> tuple[str, bytes]:
        """Content type and text of the page, in the format that the reader prefers."""
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(accept)
        return content_type, encode(self.registry)

    def _step(self, step: Step) -> None:
        seconds = _seconds((step.began_at_us, step.ended_at_us or step.began_at_us))
        error = step.error.partition(":")[0] if step.outcome == "error" else ""
        if step.kind == "tool":
            self._tool.labels(step.name, error).observe(seconds)
        elif step.kind == "model":
            role, model = self.place.role, step.model
            self._chat.labels(model, error).observe(seconds)
            for direction, tokens in (("input", step.tokens_in), ("output", step.tokens_out)):
                self._usage.labels(model, direction).observe(tokens)
                self._tokens.labels(role, model, direction).inc(tokens)
            self._cost.labels(role, model).inc(step.cost_microdollars / 1_000_000)


def _seconds(interval: Interval) -> float:
    return max(interval[1] - interval[0], 0) / 1_000_000


@dataclass
class Telemetry:
    """The observer of one agent process; `tracing` or `metrics` is None where nobody asked for it."""

    place: Place
    tracing: Tracing | None = None
    metrics: Metrics | None = None
    _passages: list[Passage] = field(default_factory=list)
    _teller: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="telemetry")
    )
    _armed: bool = False

    def context(self, delivery: Delivery, event: Event) -> Event:
        """Who exports spans gives each event one; who does not passes the context through."""
        return event if self.tracing is None else self.tracing.context(delivery, event)

    def delivered(self, passage: Passage) -> None:
        """Note a delivery; it is told of a moment later, together with others."""
        import asyncio

        if self.tracing is None and self.metrics is None:
            return
        if len(self._passages) >= PASSAGES_MAX:
            if self.metrics is not None:
                self.metrics.dropped.labels(self.place.role).inc()
            return
        self._passages.append(passage)
        if not self._armed:
            self._armed = True
            asyncio.get_running_loop().call_later(LINGER_SECONDS, self._hand_over)

    def settle(self) -> None:
        """Wait until all that was noted is counted and handed to the exporter."""
        self._hand_over()
        self._teller.submit(lambda: None).result()

    def close(self) -> None:
        """Tell of what is left and let go."""
        self.settle()
        self._teller.shutdown()
        if self.tracing is not None:
            self.tracing.close()

    def _hand_over(self) -> None:
        passages, self._passages, self._armed = self._passages, [], False
        if passages:
            self._teller.submit(self._tell, passages)

    def _tell(self, passages: Sequence[Passage]) -> None:
        share = TOLD_MAX / len(passages)
        for passage in passages:
            try:
                self._tell_of(passage, share)
            except Exception:
                log.exception("a delivery could not be told of")

    def _tell_of(self, passage: Passage, share: float) -> None:
        if self.metrics is not None:
            self.metrics.delivered(passage)
        envelope = passage.work.envelope
        if self.tracing is None or envelope is None:
            return
        trace = trace_of(self.place, passage.work.inbox_id or envelope.id, envelope)
        if not self.tracing.sampled(trace):
            return
        if passage.error is not None or _picked(trace.trace_id, share):
            self.tracing.tell(spans_of(passage, self.place))
        elif self.metrics is not None:
            self.metrics.dropped.labels(self.place.role).inc()


def _picked(trace_id: str, share: float) -> bool:
    """Whether a trace is of this share of all; those of a smaller share are of every larger one."""
    return int(trace_id[:8], 16) < share * 0x1_0000_0000


class Sender:
    """Spans of a process that is no agent: a person's command that records and publishes events."""

    def __init__(self, place: Place, environ: Mapping[str, str]) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # one line of ours says it all to a person
        self._tracing = Tracing(place, environ)
        given = environ.get("TRACEPARENT", "")
        self._given = given if TRACEPARENT_PATTERN.fullmatch(given) else ""
        self._parents: dict[str, Context] = {}

    def context(self, event: Event) -> Event:
        """The event with a span of its own, below its cause's or, without a cause, below that of TRACEPARENT."""
        nothing_caused_it = event.envelope.causation_id is None
        above = self._given if self._given and nothing_caused_it else event.envelope.traceparent
        self._parents[event.id] = parent = Context.read(above)
        return self._tracing.sent(event, parent)

    def sent(self, envelopes: Iterable[Envelope], interval: Interval) -> None:
        """Tell that these events were sent, as far as they got their spans here."""
        place = self._tracing.place
        for envelope in envelopes:
            parent, context = self._parents.pop(envelope.id, None), Context.read(envelope.traceparent)
            if parent is not None and context.flags & SAMPLED and context.span_id == span_of(envelope.id):
                self._tracing.tell([send_span(envelope, place, interval, parent.span_id)])

    def close(self) -> None:
        """Export what is left; a person does not wait long for that."""
        self._tracing.close(PERSON_SECONDS)
