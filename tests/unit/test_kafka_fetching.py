"""Fetch sessions: what a question names, what an answer says, records as they come out."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from aiokafka import TopicPartition, errors
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from bus.kafka.fetching import EPOCH_MAX, Answer, News, Session, answered, filled, records_in

ONE, TWO = TopicPartition("p.t", 1), TopicPartition("p.u", 2)
HEADERS = [("ce_id", b"1"), ("empty", None)]


def batch(*values: bytes, base: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 24)
    for offset, value in enumerate(values):
        builder.append(offset, 1_700_000_000_000, key=b"k", value=value, headers=HEADERS)
    made = bytearray(builder.build())
    struct.pack_into(">q", made, 0, base)
    return bytes(made)


def text(name: str) -> bytes:
    return struct.pack(">h", len(name)) + name.encode()


def answer(*news: News, error: int = 0, session: int = 7) -> bytes:
    out = struct.pack(">ihii", 0, error, session, len(news))
    for one in news:
        out += text(one.place.topic) + struct.pack(">i", 1)
        out += struct.pack(">ihqqqi", one.place.partition, one.error, 9, 9, 0, 1) + bytes(16)
        out += struct.pack(">i", len(one.data) or -1) + one.data
    return out


def asked(session: Session, wanted: dict[TopicPartition, int]) -> tuple[Any, ...]:
    number, epoch, changed, gone = session.question(wanted).values
    return number, epoch, dict(changed), list(gone)


def test_a_question_names_what_has_changed_since_the_last_one() -> None:
    session = Session()
    assert asked(session, {ONE: 5, TWO: 8}) == (0, 0, {ONE: 5, TWO: 8}, [])
    session.heard(Answer(0, 7, []))
    assert asked(session, {ONE: 5, TWO: 8}) == (7, 1, {}, [])
    session.heard(Answer(0, 7, []))
    assert asked(session, {ONE: 6}) == (7, 2, {ONE: 6}, [TWO])
    session.epoch = EPOCH_MAX
    session.heard(Answer(0, 7, []))
    assert session.epoch == 1, "0 would begin another session"


def test_a_broker_that_keeps_no_session_is_asked_for_all_each_time() -> None:
    session = Session()
    for _ in range(2):
        assert asked(session, {ONE: 5}) == (0, 0, {ONE: 5}, [])
        session.heard(Answer(0, 0, []))


def test_a_question_has_the_bytes_of_the_protocol() -> None:
    session = Session(7, 3, {TWO: 8})
    head = struct.pack(">iiiibii", -1, 500, 1, 16 << 20, 0, 7, 3)
    place = struct.pack(">i", 1) + text("p.t") + struct.pack(">iiqqi", 1, 1, 5, -1, 1 << 20)
    forgotten = struct.pack(">i", 1) + text("p.u") + struct.pack(">ii", 1, 2)
    assert session.question({ONE: 5}).encode() == head + place + forgotten


def test_an_answer_is_taken_apart() -> None:
    news = [News(ONE, 0, b"bytes"), News(TWO, 1, b"")]
    assert answered(answer(*news)) == Answer(0, 7, news)
    assert answered(answer(error=70, session=0)) == Answer(70, 0, [])


def test_records_begin_where_they_were_asked_for() -> None:
    data = batch(b"a", b"b", base=4) + batch(b"c", base=6) + batch(b"half")[:40]
    found = records_in("t", ONE, data, 5)
    assert [(one.offset, one.value) for one in found.records] == [(5, b"b"), (6, b"c")]
    assert (found.asked, found.following) == (5, 7)
    assert found.records[0].headers == (("ce_id", b"1"), ("empty", b""))
    assert found.records[0].timestamp_us == 1_700_000_000_000_000


def test_a_damaged_batch_is_no_record() -> None:
    data = bytearray(batch(b"abc"))
    data[-3] ^= 1
    with pytest.raises(errors.CorruptRecordException):
        records_in("t", ONE, bytes(data), 0)


def test_headers_without_an_empty_one_stay_as_they_are() -> None:
    whole = (("a", b"1"), ("b", b""))
    assert filled(whole) is whole
