"""Letters: the record byte for byte, and headers that explain what happened."""

from __future__ import annotations

import pytest

from bus.dead_letters import (
    MESSAGE_BYTES_MAX,
    STACKTRACE_BYTES_MAX,
    explain,
    letter,
    letter_topic,
    redacted,
)
from bus.port import Message, Record
from contracts.errors import NotAllowed, Unavailable, Undecodable

RECORD = Record("t", 3, 17, b"task", b"\x00\xffvalue", (("ce_id", b"1"), ("x", b"\x80")), 1_700_000_000_000_000)


def raised(error: Exception) -> Exception:
    """The error with a trace, as it comes out of a handler."""

    def handle() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        handle()
    return caught.value


def as_record(message: Message) -> Record:
    return Record(message.topic, 0, 0, message.key, message.value, message.headers, 0)


def test_a_letter_says_everything_in_text() -> None:
    error = raised(NotAllowed("review may not say PlanProposed", hint="see the topology"))
    made = letter(
        RECORD,
        "gavotte-coding",
        error,
        attempt=4,
        stage="policy",
        agent="coding",
        version="1.2",
        first_at_us=5,
        now_us=9,
    )
    assert made.topic == letter_topic("t", "gavotte-coding") == "t.gavotte-coding.dlq"
    assert (made.key, made.value) == (RECORD.key, RECORD.value)
    assert made.headers[:2] == RECORD.headers
    found = {name.removeprefix("gavotte.error."): value.decode() for name, value in made.headers[2:]}
    trace = found.pop("stacktrace")
    assert "test_letters.py" in trace
    instance = found.pop("instance")
    assert "/" in instance
    assert found == {
        "topic": "t",
        "partition": "3",
        "offset": "17",
        "timestamp": "1700000000000000",
        "group": "gavotte-coding",
        "agent": "coding",
        "version": "1.2",
        "stage": "policy",
        "class": "contracts.errors.NotAllowed",
        "message": "review may not say PlanProposed (see the topology)",
        "code": "not_allowed",
        "retryable": "false",
        "attempt": "4",
        "first-at": "5",
        "last-at": "9",
    }


def test_reading_a_letter_gives_the_record_back() -> None:
    found = explain(as_record(letter(RECORD, "g", Unavailable("down"), attempt=1, code="other", now_us=9)))
    assert (found.topic, found.partition, found.offset, found.timestamp_us) == ("t", 3, 17, RECORD.timestamp_us)
    assert (found.key, found.value, found.headers) == (RECORD.key, RECORD.value, RECORD.headers)
    assert (found.code, found.retryable, found.first_at_us, found.last_at_us) == ("other", True, 9, 9)
    assert (found.stage, found.agent, found.stacktrace, found.redrive_count) == ("handle", "", "", 0)


def test_what_fails_again_after_a_redrive_keeps_its_count_and_gets_the_rest_anew() -> None:
    first = letter(RECORD, "g", Unavailable("down"), attempt=1)
    redriven = Record(
        *("t", 3, 18), RECORD.key, RECORD.value, (*first.headers, ("gavotte.error.redrive-count", b"2")), 0
    )
    again = letter(redriven, "g", NotAllowed("no"), attempt=2)
    names = [name for name, _ in again.headers]
    assert len(names) == len(set(names))
    found = explain(as_record(again))
    assert (found.redrive_count, found.offset, found.message, found.attempt) == (2, 18, "no", 2)


def test_long_messages_and_traces_are_cut_at_whole_characters() -> None:
    found = explain(as_record(letter(RECORD, "g", raised(ValueError("ü" * 50_000)), attempt=1)))
    assert found.message == "ü" * (MESSAGE_BYTES_MAX // 2)
    assert len(found.stacktrace.encode()) <= STACKTRACE_BYTES_MAX
    assert "\ufffd" not in found.stacktrace


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("api_key=sk-ant-1234567890", "api_key=***"),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ('{"password": "hunter2"}', '{"password": "***"}'),
        ("https://user:hunter2@host/x", "https://user:***@host/x"),
        ("key sk-abcdefghijkl used", "key sk-*** used"),
        ("nothing to hide: 7 tokens left", "nothing to hide: 7 tokens left"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, clean: str) -> None:
    assert redacted(text).replace("Bearer ***", "***") == clean
    message = explain(as_record(letter(RECORD, "g", ValueError(text), attempt=1))).message
    assert "hunter2" not in message


@pytest.mark.parametrize("headers", [(), (("gavotte.error.topic", b"t"),), (("gavotte.error.partition", b"x"),)])
def test_what_is_no_letter_says_so(headers: tuple[tuple[str, bytes], ...]) -> None:
    with pytest.raises(Undecodable, match="t/3/17 is no letter"):
        explain(Record("t", 3, 17, b"", b"", headers, 0))
