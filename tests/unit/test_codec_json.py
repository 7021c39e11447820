"""Submissions that plain producers write as JSON: stored as any other, or refused with the reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bus.port import Record
from console.topic import opened
from contracts import ids
from contracts.codec import VALUE_BYTES_MAX, Codec, read_envelope
from contracts.envelope import CLIENT_SOURCE
from contracts.errors import GavotteError, Skew, TooLarge, Undecodable
from contracts.events import TaskSubmitted
from contracts.registry import CommittedIds

TASK = ids.uuid7()
SAID: dict[str, Any] = {
    "title": "mend it",
    "repository": "/srv/app",
    "project_id": "p",
    "project_digest": "d",
    "base_commit": "c",
    "author": "command",
    "command": ["ruff", "check"],
}


@pytest.fixture
def codec() -> Codec:
    return Codec(CommittedIds())


def headers(type_: str = "TaskSubmitted", version: int = 1, kind: str = "application/json") -> tuple[Any, ...]:
    said = {
        "ce_id": ids.uuid7(),
        "ce_type": f"gavotte.{type_}.v{version}",
        "ce_source": CLIENT_SOURCE,
        "content-type": kind,
    }
    return tuple((name, text.encode()) for name, text in said.items())


async def stored(codec: Codec, value: bytes, sent: tuple[Any, ...]) -> bytes:
    return await codec.inward(read_envelope(TASK.encode(), sent), sent, value)


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8"])
async def test_a_submission_in_json_is_stored_as_any_other(codec: Codec, kind: str) -> None:
    value = await stored(codec, json.dumps(SAID).encode(), headers(kind=kind))
    assert value == codec.encode_payload(TaskSubmitted.model_validate(SAID | {"command": ("ruff", "check")}))
    assert codec.decode(read_envelope(TASK.encode(), headers()), value).payload == TaskSubmitted.model_validate(SAID)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (b"", Undecodable, "JSON"),
        (b"nonsense", Undecodable, "JSON"),
        (b"[]", Undecodable, "in JSON"),
        (b"[" * 100_000, Undecodable, "in JSON"),
        (b'"\xff"', Undecodable, "in JSON"),
        (json.dumps(SAID | {"titel": "x"}).encode(), Undecodable, "titel: Extra inputs"),
        (json.dumps({"title": "x"}).encode(), Undecodable, "repository: Field required"),
        (json.dumps(SAID | {"title": "x"}).replace('"x"', '"\\ud800"').encode(), Undecodable, "in JSON"),
        (json.dumps(SAID | {"budget": {"tokens": 10**30}}).encode(), Undecodable, "in JSON"),
        (b'{"title": "' + b"x" * VALUE_BYTES_MAX + b'"}', TooLarge, "the cap is"),
    ],
)
async def test_json_that_is_no_submission_is_refused(
    codec: Codec, value: bytes, error: type[GavotteError], words: str
) -> None:
    with pytest.raises(error, match=words):
        await stored(codec, value, headers())


async def test_a_version_of_tomorrow_waits(codec: Codec) -> None:
    with pytest.raises(Skew, match="TaskSubmitted v9"):
        await stored(codec, json.dumps(SAID).encode(), headers(version=9))


async def test_only_submissions_may_be_json(codec: Codec) -> None:
    value = json.dumps({"reason": "no more", "operator": "eve"}).encode()
    assert await stored(codec, value, headers("TaskCancelRequested")) == value  # the decoder refuses it then
    with pytest.raises(Undecodable, match="Confluent wire format"):
        codec.decode_plain(value)


async def test_it_is_shown_on_its_topic(codec: Codec) -> None:
    sent = headers()
    found = await opened(
        codec, Record("gavotte.tasks.events.v1", 0, 0, TASK.encode(), json.dumps(SAID).encode(), sent, 0)
    )
    assert found.problem == ""
    assert found.fields()["payload"]["command"] == ["ruff", "check"]


def test_identity_that_is_said_twice_or_in_a_circle_is_refused() -> None:
    sent = headers()
    with pytest.raises(Undecodable, match="'ce_source' stands there twice"):
        read_envelope(TASK.encode(), (*sent, ("ce_source", b"urn:gavotte:operator")))
    event_id = dict(sent)["ce_id"]
    with pytest.raises(Undecodable, match="names itself as its cause"):
        read_envelope(TASK.encode(), (*sent, ("ce_causationid", event_id)))
    assert read_envelope(TASK.encode(), (*sent, ("x-twice", b"a"), ("x-twice", b"b"))).id == event_id.decode()


@pytest.mark.parametrize("raw", [b"\xff\xfe", None])
def test_a_header_that_is_no_text_is_named(raw: bytes | None) -> None:
    with pytest.raises(Undecodable, match="'x-odd' is not UTF-8 text"):
        read_envelope(TASK.encode(), (*headers(), ("x-odd", raw)))  # type: ignore[arg-type]  # as a plain client may give it


def test_headers_that_are_too_large_are_refused() -> None:
    with pytest.raises(TooLarge, match="headers exceed 16384 bytes"):
        read_envelope(TASK.encode(), (*headers(), *((f"x-{number}", b"a" * 1000) for number in range(17))))
