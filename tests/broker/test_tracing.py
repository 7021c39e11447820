"""One task is one trace: four real agent processes and a person's commands, told of to a real OTLP receiver."""

from __future__ import annotations

import secrets
from collections import Counter
from pathlib import Path

import pytest

from contracts.topology import Topology
from deploy.local.kafka import Kafka
from tests.acceptance.commands import FIX, Person, ready_pids, repository, until
from tests.broker.collector import Collector, Told, tree

ROLES = ("planning", "coding", "review", "deploy")


@pytest.fixture(params=["embedded", "kafka"])
def bus(request: pytest.FixtureRequest) -> dict[str, str]:
    """The variables that choose a bus."""
    if request.param == "embedded":
        return {}
    kafka: Kafka = request.getfixturevalue("kafka")
    prefix = f"{secrets.token_hex(4)}."
    return {"GAVOTTE_BUS__BACKEND": "kafka", "GAVOTTE_BUS__SERVERS": kafka.servers, "GAVOTTE_BUS__PREFIX": prefix}


@pytest.mark.timeout(600)
def test_a_whole_run_is_one_trace_and_no_span_is_without_its_parent(tmp_path: Path, bus: dict[str, str]) -> None:
    ann = Person(tmp_path / "ann")
    (tmp_path / "fix.patch").write_text(FIX)
    with Collector() as collector:
        ann.environ |= bus | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}
        with ann.starts("up"):
            until(lambda: len(ready_pids(ann.heard())) == len(ROLES))
            wish = ("submit", "--repo", str(repository(tmp_path / "repo")), "--author", "patch")
            task = ann.told(*wish, "--patch", str(tmp_path / "fix.patch"))["task_id"]
            ann.waits_for(task, "waiting")
            ann.told("approve", task, "--yes")
            ann.waits_for(task, "succeeded")
        spans = collector.spans  # who is stopped exports what is left
    events = ann.lines("log", task)
    seen = tree(spans)
    assert {span.trace_id for span in spans} == {events[0]["correlation_id"].replace("-", "")}, seen
    ids = {span.span_id for span in spans}
    assert len(ids) == len(spans), seen
    roots = [span for span in spans if not span.parent_id]
    assert [(span.name, span.service) for span in roots] == [(sends(bus, "tasks"), "gavotte-cli")], seen
    assert all(span.parent_id in ids for span in spans if span not in roots), seen
    assert all(span.attributes["gavotte.correlation.id"] == events[0]["correlation_id"] for span in spans)
    assert all(span.attributes["gavotte.task.id"] == task for span in spans)
    assert {span.service for span in spans} == {"gavotte-cli", *(f"gavotte-{role}" for role in ROLES)}
    assert_events_are_told_of(bus, events, spans)
    assert_work_is_told_of(spans, seen)


def sends(bus: dict[str, str], producer: str) -> str:
    return f"send {bus.get('GAVOTTE_BUS__PREFIX', '')}gavotte.{producer}.events.v1"


def assert_events_are_told_of(bus: dict[str, str], events: list[dict[str, str]], spans: list[Told]) -> None:
    """Each event was sent once and its `traceparent` names that span; whoever consumes it has a span below."""
    topology, by_id = Topology(), {span.span_id: span for span in spans}
    for event in events:
        sent = by_id[event["traceparent"][36:52]]
        assert sent.kind == "producer"
        assert sent.name.startswith("send ")
        assert sent.attributes["messaging.message.id"] == event["event_id"]
        assert sent.attributes["messaging.system"] == ("kafka" if bus else "gavotte")
        readers = {span.service for span in spans if span.parent_id == sent.span_id and span.kind == "consumer"}
        assert readers == {f"gavotte-{role}" for role in topology.consumers(event["type"])}, event
    offsets = [span.attributes.get("messaging.kafka.offset") for span in spans if span.kind == "consumer"]
    assert (None in offsets) is not bool(bus)


def assert_work_is_told_of(spans: list[Told], seen: str) -> None:
    """Each role's own time lies inside its delivery, and its tools inside that."""
    by_id = {span.span_id: span for span in spans}
    operations = Counter(span.name.partition(" ")[0] for span in spans)
    assert operations["invoke_agent"] == operations["process"], seen
    assert operations["execute_tool"] >= len(ROLES), seen
    for span in spans:
        if span.kind == "internal":
            parent = by_id[span.parent_id]
            assert parent.service == span.service, seen
            assert parent.began_ns <= span.began_ns <= span.ended_ns <= parent.ended_ns, (span, parent)
    assert not any(span.failed for span in spans), seen


@pytest.mark.timeout(600)
def test_a_collector_that_is_down_holds_up_nobody(tmp_path: Path) -> None:
    ann = Person(tmp_path / "ann")
    ann.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"  # nobody listens at `discard`
    done = ann.says(
        "submit", "--repo", str(repository(tmp_path / "repo")), "--author", "command", "--command", "true", "--json"
    )
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == "the last spans did not reach their collector within 1 s"
    assert "HTTPConnection" not in done.stderr
    assert len(ann.lines("log", "--all")) == 1
