"""Spans as they are told: one trace for a task, over retries and with agents that tell nothing in between."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from agents import conventions
from agents.exposure import exports_spans
from agents.observed import Passage
from agents.spans import Place, spans_of
from agents.telemetry import TOLD_MAX, Sender, Telemetry, Tracing
from agents.work import Work
from bus.port import Record
from contracts.codec import headers_of
from contracts.envelope import Event, root, span_of
from contracts.errors import Retryable
from contracts.events import PlanProposed
from state_store.port import Recorded, Step
from tests.broker.collector import Collector
from tests.unit.watched import SUBMITTED, Kept, dance, fails, plans

ROOT = Path(__file__).resolve().parents[2]
THEIRS = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
PLACE = Place(
    "planning", "planning-1", "gavotte.planning", "kafka", "anthropic", lambda _: "gavotte.planning.events.v1"
)


def hexed(number: int | None, width: int) -> str:
    return format(number or 0, f"0{width}x")


def trace_id(span: ReadableSpan) -> str:
    return hexed(span.context.trace_id, 32)


def span_id(span: ReadableSpan) -> str:
    return hexed(span.context.span_id, 16)


def parent_id(span: ReadableSpan) -> str:
    return hexed(span.parent.span_id, 16) if span.parent is not None else ""


def named(spans: list[ReadableSpan], prefix: str) -> list[ReadableSpan]:
    return sorted((span for span in spans if span.name.startswith(prefix)), key=lambda span: span.start_time or 0)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_a_task_is_one_trace_and_no_span_is_without_its_parent(tmp_path: Path) -> None:
    async with dance(tmp_path) as dancing:
        watchers = dancing.watcher("planning"), dancing.watcher("coding")
        async with dancing.runs("planning", plans, watchers[0]), dancing.runs("coding", fails, watchers[1]):
            event = await dancing.submit()
            await dancing.ended(event.task_id)
        spans = dancing.settle()
        stream = await dancing.runtime.store.stream(event.task_id)
    correlation = event.envelope.correlation_id.replace("-", "")
    assert {trace_id(span) for span in spans} == {correlation}
    by_id = {span_id(span): span for span in spans}
    roots = [span for span in spans if span.parent is None]
    assert [span.name for span in roots] == ["process gavotte.tasks.events.v1"], "who submitted tells of nothing"
    assert all(parent_id(span) in by_id for span in spans if span not in roots)
    for recorded in stream[1:]:
        sent = by_id[span_of(recorded.envelope.id)]
        assert recorded.envelope.traceparent == f"00-{correlation}-{span_id(sent)}-01"
        assert sent.name.startswith("send ")
        assert attributes(sent)[conventions.MESSAGING_MESSAGE_ID] == recorded.envelope.id
    (tool,) = named(spans, "execute_tool")
    assert tool.name == "execute_tool survey"
    assert by_id[parent_id(tool)].name == "invoke_agent planning"
    assert all(attributes(span)[conventions.CORRELATION_ID] == event.envelope.correlation_id for span in spans)


async def test_a_retry_stays_in_the_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus.retry.TABLE", _quick_table())
    tries: list[int] = []

    async def stumbles(event: Event, state: Any, tools: Any) -> list[Event]:
        tries.append(1)
        if len(tries) == 1:
            raise Retryable("not yet")
        return await fails(event, state, tools)

    async with dance(tmp_path) as dancing:
        watchers = dancing.watcher("planning"), dancing.watcher("coding")
        async with dancing.runs("planning", plans, watchers[0]), dancing.runs("coding", stumbles, watchers[1]):
            event = await dancing.submit()
            await dancing.ended(event.task_id)
        spans = dancing.settle()
    first, second = named(spans, "process gavotte.planning.events.v1")
    assert trace_id(first) == trace_id(second) == event.envelope.correlation_id.replace("-", "")
    assert parent_id(first) == parent_id(second) != ""
    assert not first.status.is_ok
    assert attributes(first)[conventions.ERROR_TYPE] == "retryable"
    verdicts = [attributes(span)[conventions.DELIVERY_VERDICT] for span in (first, second)]
    assert verdicts == ["retry", "done"]
    assert [attributes(span)[conventions.DELIVERY_ATTEMPT] for span in (first, second)] == [1, 2]
    assert attributes(second)[conventions.DELIVERY_FOUND] != ""


def _quick_table() -> dict[type[BaseException], Any]:
    from bus import retry

    return retry.TABLE | {Retryable: retry.Rule((0.0, 0.0), retry.DeadLetter)}


async def test_an_agent_that_tells_nothing_passes_the_trace_on(tmp_path: Path) -> None:
    async with dance(tmp_path) as dancing:
        coding = dancing.watcher("coding")
        async with dancing.runs("planning", plans, None), dancing.runs("coding", fails, coding):
            event = await dancing.submit(THEIRS)
            await dancing.ended(event.task_id)
        spans = dancing.settle()
    (process,) = named(spans, "process")
    assert process.name == "process gavotte.planning.events.v1"
    assert (trace_id(process), parent_id(process)) == (THEIRS[3:35], THEIRS[36:52])


async def test_deliveries_may_be_linked_instead(tmp_path: Path) -> None:
    async with dance(tmp_path, GAVOTTE_TELEMETRY__RELATION="link") as dancing:
        watchers = dancing.watcher("planning"), dancing.watcher("coding")
        async with dancing.runs("planning", plans, watchers[0]), dancing.runs("coding", fails, watchers[1]):
            event = await dancing.submit(THEIRS)
            await dancing.ended(event.task_id)
        spans = dancing.settle()
    planning, coding = named(spans, "process gavotte.tasks")[0], named(spans, "process gavotte.planning")[0]
    assert planning.parent is None
    assert coding.parent is None
    assert len({trace_id(planning), trace_id(coding), THEIRS[3:35]}) == 3
    (sent,) = named(spans, "send gavotte.planning")
    assert trace_id(sent) == trace_id(planning)
    assert [hexed(link.context.span_id, 16) for link in planning.links] == [THEIRS[36:52]]
    assert [hexed(link.context.span_id, 16) for link in coding.links] == [span_id(sent)]


@pytest.mark.parametrize(("sampler", "told"), [("", False), ("always_on", True), ("always_off", False)])
async def test_the_sampler_is_the_standard_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str, told: bool
) -> None:
    if sampler:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    async with dance(tmp_path) as dancing:
        watchers = dancing.watcher("planning"), dancing.watcher("coding")
        async with dancing.runs("planning", plans, watchers[0]), dancing.runs("coding", fails, watchers[1]):
            event = await dancing.submit(THEIRS[:-2] + "00")  # whoever asks does not record
            await dancing.ended(event.task_id)
        spans = dancing.settle()
        stream = await dancing.runtime.store.stream(event.task_id)
    assert bool(spans) is told
    assert {recorded.envelope.traceparent[53:] for recorded in stream[1:]} == {"01" if told else "00"}


def test_a_person_s_command_tells_of_its_event(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    monkeypatch.setattr("agents.telemetry._exporter", lambda _: kept)
    sender = Sender(replace(PLACE, role="cli"), {"TRACEPARENT": THEIRS})
    event = sender.context(root(SUBMITTED))
    act = sender.context(
        event.cause(PlanProposed(summary="s", base_commit="0")).sealed(producer="o", index=0, time_us=1)
    )
    sender.sent([event.envelope, act.envelope], (1, 2))
    sender.close()
    first, second = sorted(kept.spans, key=span_id, reverse=span_of(event.id) > span_of(act.id))
    assert (trace_id(first), parent_id(first), span_id(first)) == (THEIRS[3:35], THEIRS[36:52], span_of(event.id))
    assert (trace_id(second), parent_id(second)) == (THEIRS[3:35], span_of(event.id))


def delivered(**fields: Any) -> Passage:
    envelope = root(SUBMITTED).envelope
    record = Record("gavotte.tasks.events.v1", 3, 41, b"", b"", headers_of(envelope), 0)
    return Passage(Work(b"", record, envelope=envelope), 1_000, 9_000, recorded="done", **fields)


def step(**fields: Any) -> Step:
    known: dict[str, Any] = {
        "task_id": "t",
        "cause_id": "c",
        "role": "planning",
        "ordinal": 0,
        "kind": "model",
        "name": "chat",
    }
    known |= {"arguments": "{}", "arguments_digest": "", "state_digest": "", "began_at_us": 2_000, "ended_at_us": 5_000}
    return Step(**known | {"outcome": "ok"} | fields)


def test_a_model_call_is_a_chat_span() -> None:
    asked = step(model="claude-5", tokens_in=900, tokens_out=70, cost_microdollars=2_500_000, prompt="planning.v1")
    failed = step(ordinal=1, outcome="error", error="overloaded: try later", model="claude-5")
    value = step(kind="value", name="now")
    found = {span.name: span for span in spans_of(delivered(handled=(1_500, 8_000), steps=[asked, value]), PLACE)}
    assert set(found) == {"process gavotte.tasks.events.v1", "invoke_agent planning", "chat claude-5"}
    chat = found["chat claude-5"]
    assert chat.kind == "client"
    assert chat.interval == (2_000, 5_000)
    assert chat.parent_id == found["invoke_agent planning"].span_id
    expected = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "anthropic", "gen_ai.usage.input_tokens": 900}
    assert expected.items() <= chat.attributes.items()
    assert chat.attributes["gavotte.cost.usd"] == 2.5
    (*_, told) = spans_of(delivered(handled=(1_500, 8_000), steps=[failed]), PLACE)
    assert (told.attributes["error.type"], told.error) == ("overloaded", "overloaded: try later")


def test_under_a_storm_whole_traces_are_told_and_all_that_went_wrong() -> None:
    kept = Kept()
    telemetry = Telemetry(PLACE, Tracing(PLACE, {}, kept))
    wrong, *storm = (delivered(error=error) for error in (Retryable("later"), *[None] * TOLD_MAX * 20))
    telemetry._passages += [*storm, wrong]
    telemetry.close()
    told = {trace_id(span) for span in kept.spans}
    of_the_storm = told - {trace_of_passage(wrong)}
    assert len(of_the_storm) in range(TOLD_MAX // 4, TOLD_MAX * 4)
    assert of_the_storm == set(sorted(map(trace_of_passage, storm))[: len(of_the_storm)])
    assert trace_of_passage(wrong) in told


def trace_of_passage(passage: Passage) -> str:
    assert passage.work.envelope is not None
    return passage.work.envelope.correlation_id.replace("-", "")


def test_every_name_is_pinned() -> None:
    """What dashboards are made of: a name that changes here changes what users see, so say it in CHANGELOG.md."""
    sent = root(SUBMITTED)
    own = sent.envelope._replace(traceparent=f"00-{'ab' * 16}-{span_of(sent.id)}-01")
    caused = own._replace(causation_id=sent.id)
    failed = step(kind="tool", outcome="error", error="Oops: no")
    passage = delivered(
        handled=(1, 2),
        steps=[step(), failed],
        error=Retryable("x"),
        sent=[((Recorded(caused, b"", 2, 2, 0, "", ""),), (1, 2))],
    )
    spans = spans_of(passage, replace(PLACE, version="1"))
    assert sorted({span.name.partition(" ")[0] for span in spans}) == [
        "chat", "execute_tool", "invoke_agent", "process", "send",
    ]  # fmt: skip
    assert sorted({name for span in spans for name in span.attributes}) == [
        "cloudevents.event_id", "cloudevents.event_source", "cloudevents.event_spec_version",
        "cloudevents.event_subject", "cloudevents.event_type", "error.type", "gavotte.causation.id",
        "gavotte.correlation.id", "gavotte.cost.usd", "gavotte.delivery.attempt", "gavotte.delivery.found",
        "gavotte.delivery.verdict", "gavotte.event.type", "gavotte.prompt.hash", "gavotte.prompt.name",
        "gavotte.step.attempt", "gavotte.step.ordinal", "gavotte.task.id", "gen_ai.agent.name",
        "gen_ai.agent.version", "gen_ai.conversation.id", "gen_ai.operation.name", "gen_ai.provider.name",
        "gen_ai.request.model", "gen_ai.response.model", "gen_ai.tool.call.id", "gen_ai.tool.name",
        "gen_ai.tool.type", "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "messaging.client.id",
        "messaging.consumer.group.name", "messaging.destination.name", "messaging.destination.partition.id",
        "messaging.kafka.message.key", "messaging.kafka.offset", "messaging.message.conversation_id",
        "messaging.message.id", "messaging.operation.name", "messaging.operation.type", "messaging.system",
    ]  # fmt: skip


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, False),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "zipkin"}, False),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "true"}, False),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True),
    ],
)
def test_the_standard_variables_ask_for_spans(environ: dict[str, str], wanted: bool) -> None:
    assert exports_spans(environ) is wanted


def test_whoever_asks_for_nothing_loads_nothing(tmp_path: Path) -> None:
    program = f"""
import asyncio, sys
sys.path.insert(0, {str(ROOT)!r})
from agents.exposure import exposed
from agents.settings import load_settings
from agents.wiring import announce, open_runtime
async def main():
    runtime = await open_runtime(load_settings())
    assert runtime.sender is None
    async with exposed(runtime.settings, runtime, runtime.topology.agent("review"), "review-1", asyncio.Event()) as shown:
        assert shown.observer is None
    await runtime.close()
asyncio.run(main())
print(*sys.modules)
"""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "GAVOTTE_"))}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False,
        env=environ | {"GAVOTTE_DATA": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"opentelemetry", "prometheus_client", "requests", "google"}


def test_a_collector_that_is_down_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Collector() as collector:
        collector.status = 503
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        tracing = Tracing(PLACE, os.environ)
        tracing.tell(spans_of(delivered(handled=(1, 2)), PLACE))
        tracing.close(0.2)
        assert collector.requests > 0
    assert "did not reach their collector within 0.2 s" in caplog.text
