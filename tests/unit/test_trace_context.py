"""The trace that events carry: one for all that grew out of a submission, whoever exports spans and whoever does not."""

from __future__ import annotations

import pytest

from contracts import ids
from contracts.codec import headers_of, read_envelope
from contracts.envelope import Envelope, is_open, open_trace, root, span_of
from contracts.events import KillLifted

PAYLOAD = KillLifted(kill_id=ids.uuid7(), operator="ann")
THEIRS = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def read(envelope: Envelope, traceparent: str | None) -> Envelope:
    headers = [(name, raw) for name, raw in headers_of(envelope) if name != "traceparent"]
    if traceparent is not None:
        headers.append(("traceparent", traceparent.encode()))
    return read_envelope(envelope.task_id.encode(), headers)


def test_a_trace_that_nobody_exports_has_the_digits_of_its_correlation() -> None:
    event = root(PAYLOAD)
    correlation = event.envelope.correlation_id.replace("-", "")
    assert event.envelope.traceparent == f"00-{correlation}-{correlation[16:]}-01"
    assert is_open(event.envelope.traceparent)
    child = event.cause(PAYLOAD).sealed(producer="planning", index=0, time_us=1)
    assert child.envelope.traceparent == event.envelope.traceparent, "who exports no span passes the context on"


def test_a_span_is_found_from_its_event() -> None:
    assert span_of("0193a2f4-7c1e-7abc-8def-0123456789ab") == "8def0123456789ab"


def test_somebody_elses_trace_is_kept() -> None:
    envelope = read(root(PAYLOAD).envelope, THEIRS)
    assert envelope.traceparent == THEIRS
    assert not is_open(THEIRS)


@pytest.mark.parametrize(
    "said",
    [
        None,
        "",
        "hello",
        THEIRS.upper(),
        THEIRS.replace("00-", "ff-", 1),
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
    ],
)
def test_without_a_context_every_reader_finds_the_same_trace(said: str | None) -> None:
    sent = root(PAYLOAD).envelope
    first, second = read(sent, said), read(sent, said)
    assert first.traceparent == second.traceparent == open_trace(sent.correlation_id)
