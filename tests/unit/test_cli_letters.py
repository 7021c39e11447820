"""Letters: which one is meant, which is the newest, and what a redrive adds."""

from __future__ import annotations

import pytest

from bus.dead_letters import explain, letter
from bus.port import Record
from contracts.errors import NotFound, Undecodable, Usage
from dlq_tools.letters import Found, newest, pick, read, redriven

TOPIC = "gavotte.tasks.events.v1"
EVENT = "0192b3c4-0000-7000-8000-00000000beef"
HEADERS = (("ce_id", EVENT.encode()), ("ce_type", b"gavotte.TaskSubmitted.v1"))


def lying(offset: int = 0, role: str = "planning", event_id: str = EVENT) -> Found:
    from contracts.envelope import Envelope

    original = Record(TOPIC, 0, 7, b"key", b"value", HEADERS, 1)
    message = letter(original, f"gavotte.{role}", Undecodable("torn"), attempt=1, agent=role)
    record = Record(message.topic, 0, offset, message.key, message.value, message.headers, 2)
    envelope = Envelope(event_id, "TaskSubmitted", 1, EVENT, EVENT, None, 1, "urn:gavotte:client")
    return Found(explain(record), f"{message.topic}/0/{offset}", role, envelope, open=True)


def test_a_letter_is_meant_by_a_part_of_its_event_or_by_its_place() -> None:
    one, other = lying(0), lying(1, event_id=EVENT.replace("beef", "cafe"))
    assert pick([one, other], "beef") is one
    assert pick([one, other], other.place) is other
    with pytest.raises(NotFound):
        pick([one, other], "abc")
    with pytest.raises(NotFound):
        pick([one, other], "")
    with pytest.raises(Usage, match="fits several letters"):
        pick([one, other], "0192")


def test_two_roles_may_fail_on_one_event() -> None:
    one, other = lying(0), lying(1, role="review")
    with pytest.raises(Usage):
        pick([one, other], "beef")
    assert pick([one, other], "beef", "review") is other


def test_a_redrive_that_fails_again_is_one_letter() -> None:
    second, first, other = lying(5), lying(0), lying(1, role="review")
    assert newest([second, first, other]) == [second, other]


def test_a_redrive_keeps_the_record_and_counts() -> None:
    first = redriven(lying().letter, "ann")
    assert first[:2] == HEADERS
    told = {name: value for name, value in first if name.startswith("gavotte.error.redrive-")}
    assert told["gavotte.error.redrive-count"] == b"1"
    assert told["gavotte.error.redrive-by"] == b"ann"
    again = Record(TOPIC, 0, 8, b"key", b"value", first, 3)
    message = letter(again, "gavotte.planning", Undecodable("torn"), attempt=1)
    second = redriven(explain(Record(message.topic, 0, 1, b"key", b"value", message.headers, 4)), "bob")
    assert dict(second)["gavotte.error.redrive-count"] == b"2"
    assert len([name for name, _ in second if name.startswith("gavotte.error.")]) == 3


def test_what_is_no_letter_is_passed_over() -> None:
    assert read(Record(TOPIC, 0, 0, b"", b"", (), 1)) is None
