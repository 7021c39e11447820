"""`log --from-bus`: whatever lies on a topic is shown, as far as it can be read, and nothing on it stops the reader."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import pytest

from bus.dead_letters import letter
from bus.embedded import SCHEMA, EmbeddedBus
from bus.memory import MemoryBroker
from bus.port import Message, Record
from console.cli.main import main
from console.topic import Carried, carried, opened, since
from contracts import ids
from contracts.codec import Codec, headers_of, reframed
from contracts.envelope import Event, root
from contracts.errors import Skew, Unavailable, Undecodable, Usage
from contracts.events import KillRaised, Payload, TaskCancelRequested
from contracts.registry import CommittedIds, SameIds
from embedded.file import Database

TOPIC = "gavotte.operator.events.v1"


def event(payload: Payload | None = None, task_id: str | None = None) -> Event:
    return root(payload or TaskCancelRequested(operator="ann", reason="no more"), task_id=task_id)


def record(codec: Codec, made: Event | None = None, **changes: Any) -> Record:
    wire = codec.encode(made or event())
    return Record(TOPIC, 0, 0, wire.key, wire.value, wire.headers, ids.now_us())._replace(**changes)


@pytest.fixture
def codec() -> Codec:
    return Codec(CommittedIds())


async def test_an_event_is_read_with_its_envelope_and_payload(codec: Codec) -> None:
    found = await opened(codec, record(codec))
    assert (found.problem, found.payload.operator) == ("", "ann")
    fields = found.fields()
    assert fields["type"] == "TaskCancelRequested"
    assert fields["payload"]["reason"] == "no more"
    assert fields["headers"]["ce_specversion"] == "1.0"
    json.dumps(fields)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"value": b""}, "not in the Confluent wire format"),
        ({"value": b"\x01hello"}, "not in the Confluent wire format"),
        ({"value": b"\0\0\0\xff\xffxyz"}, "schema id 65535 is unknown"),
        ({"value": b"\0\0\0\0\x02\xff\xff\xff"}, "the value is no TaskCancelRequested v1"),
        ({"value": b"\0" * (1024 * 1024 + 1)}, "the cap is"),
        ({"carried": ()}, "header ce_type is missing"),
        ({"carried": (("ce_type", b"\xff"),)}, "not UTF-8"),
        ({"key": b"\xff\xfe"}, "is not the task id"),
    ],
)
async def test_what_cannot_be_read_is_shown_as_such(codec: Codec, changes: dict[str, Any], words: str) -> None:
    found = await opened(codec, record(codec, **changes))
    assert words in found.problem
    fields = json.loads(json.dumps(found.fields()))
    assert words in fields["problem"]
    assert ("value_base64" in fields) == (found.payload is None)


async def test_headers_that_lie_leave_the_fields(codec: Codec) -> None:
    other = event(KillRaised(scope="all", operator="ann"))
    found = await opened(codec, record(codec, carried=headers_of(other.envelope), key=other.task_id.encode()))
    assert found.payload == {"operator": "ann", "reason": "no more"}
    assert found.envelope is not None
    assert found.envelope.type == "KillRaised"


async def test_a_letter_is_read_with_what_failed(codec: Codec) -> None:
    sent = letter(record(codec), "gavotte.planning", Undecodable("torn"), attempt=2, agent="planning")
    found = await opened(codec, Record(sent.topic, 3, 4, sent.key, sent.value, sent.headers, 5))
    assert found.letter is not None
    assert found.payload.operator == "ann"
    assert found.fields()["letter"] | {"partition": 0} == {
        "group": "gavotte.planning",
        "code": "undecodable",
        "message": "torn",
        "attempt": 2,
        "topic": TOPIC,
        "partition": 0,
        "offset": 0,
    }


class Asked(SameIds):
    """A registry that knows schema 7 and nothing of ours."""

    def __init__(self, text: str | None) -> None:
        self._text = text

    async def inward(self, value: bytes) -> bytes:
        raise Skew("schema id 7 of the registry is none that this build knows")

    async def text(self, schema_id: int) -> str | None:
        assert schema_id == 7
        return self._text


LATER = {"type": "record", "name": "TaskCancelRequested", "fields": [{"name": "mood", "type": "string"}]}
RECURSIVE = {"type": "record", "name": "R", "fields": [{"name": "r", "type": ["null", "R"]}]}


@pytest.mark.parametrize(
    ("text", "payload", "words"),
    [
        (json.dumps(LATER), {"mood": "gay"}, ""),
        (json.dumps(RECURSIVE), None, "recursive"),
        ("nonsense", None, "is not decoded by"),
        ('"string"', None, "is no record"),
        (None, None, "none that this build knows"),
    ],
)
async def test_a_version_of_tomorrow_is_decoded_by_the_registrys_schema(
    codec: Codec, text: str | None, payload: object, words: str
) -> None:
    tomorrow = Codec(CommittedIds(), Asked(text))
    found = await opened(tomorrow, record(codec, value=reframed(b"\0\0\0\0\0\x06gay", 7)))
    assert found.payload == payload
    assert words in found.problem
    json.dumps(found.fields())


# -- reading on --------------------------------------------------------------------------------------------------------


async def published(broker: MemoryBroker, codec: Codec, count: int, topic: str = TOPIC) -> list[str]:
    sent = [event() for _ in range(count)]
    messages = [Message(topic, wire.key, wire.value, wire.headers) for wire in map(codec.encode, sent)]
    await broker.connect().publish(messages)
    return [each.task_id for each in sent]


async def test_every_page_is_read_and_each_record_once(codec: Codec) -> None:
    broker = MemoryBroker()
    sent = await published(broker, codec, 2500)
    found = [each.key.decode() async for each in carried(broker.connect(), TOPIC)]
    assert sorted(found) == sorted(sent)


async def test_since_leaves_out_what_came_before(codec: Codec) -> None:
    now = 1_000_000

    def clock() -> int:
        return now

    broker = MemoryBroker(clock=clock)
    await published(broker, codec, 3)
    now = 2_000_000
    late = await published(broker, codec, 2)
    found = [each.key.decode() async for each in carried(broker.connect(), TOPIC, 2_000_000)]
    assert sorted(found) == sorted(late)


async def within(question: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not question():
            await asyncio.sleep(0.01)


async def collected(reading: Awaitable[None], found: list[Record], sent: list[str]) -> None:
    task = asyncio.ensure_future(reading)
    try:
        await within(lambda: sorted(each.key.decode() for each in found) == sorted(sent))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_following_goes_on_with_what_comes(codec: Codec) -> None:
    broker, found = MemoryBroker(), list[Record]()
    sent = await published(broker, codec, 2)

    async def follow() -> None:
        async for each in carried(broker.connect(), TOPIC, follow=True):
            found.append(each)
            if len(found) == 2:
                sent.extend(await published(broker, codec, 3))

    await collected(follow(), found, sent)


async def test_following_outlives_a_bus_that_is_away(codec: Codec) -> None:
    broker, found, calls = MemoryBroker(), list[Record](), 0
    sent = await published(broker, codec, 1)
    bus = broker.connect()
    read = bus.read

    async def sometimes(*arguments: Any, **named: Any) -> list[Record]:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise Unavailable("the broker is away")
        return await read(*arguments, **named)

    bus.read = sometimes  # type: ignore[method-assign]  # a broker that comes back

    async def follow() -> None:
        async for each in carried(bus, TOPIC, follow=True):
            found.append(each)

    await collected(follow(), found, sent)
    calls = 0
    with pytest.raises(Unavailable):
        await anext(carried(bus, TOPIC))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-21", 1_795_219_200_000_000),
        ("2026-11-21T08:00:00Z", 1_795_248_000_000_000),
        ("2026-11-21T09:00:00+01:00", 1_795_248_000_000_000),
    ],
)
def test_times_since_when(text: str, expected: int) -> None:
    assert since(text) == expected
    assert abs(ids.now_us() - since("2h") - 2 * 3600 * 1_000_000) < 60_000_000
    assert since("1d") < since("90min") < since("30 s")


@pytest.mark.parametrize("text", ["yesterday", "", "2026-11-21T08:00:00", "h", "-1h", "2026-13-01"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(Usage, match="is no time"):
        since(text)


# -- the command -------------------------------------------------------------------------------------------------------


class Filled:
    """A data folder whose bus carries an event, a torn value and a letter, and whose store knows nothing of them."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.task_id = ids.uuid7()

    async def fill(self) -> Self:
        codec = Codec(CommittedIds())
        (self.data / "run").mkdir(parents=True)
        database = await Database.open(self.data / "gavotte.db", schema=[SCHEMA])
        bus = EmbeddedBus(database, self.data / "run")
        wire = codec.encode(event(task_id=self.task_id))
        torn = Message(TOPIC, wire.key, reframed(wire.value, 40_000), wire.headers)
        failed = letter(record(codec), "gavotte.coding", Undecodable("torn"), attempt=1)
        await bus.publish([Message(TOPIC, wire.key, wire.value, wire.headers), torn, failed])
        await bus.close()
        await database.close()
        return self


def test_the_command_prints_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    filled = asyncio.run(Filled(tmp_path / "data").fill())
    monkeypatch.setenv("GAVOTTE_DATA", str(filled.data))

    def said(*words: str) -> tuple[int, str, str]:
        code = main(["log", "--from-bus", *words])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    code, out, _ = said("operator")
    assert code == 0
    first, second = out.splitlines()
    assert "TaskCancelRequested v1" in first
    assert "schema id 40000" in second
    assert "unknown" in second
    code, out, _ = said(TOPIC, "--task", filled.task_id[-6:], "--json")
    assert [json.loads(line)["schema_id"] for line in out.splitlines()] == [2, 40_000]
    assert said(TOPIC, "--task", "nobody")[:2] == (0, "")
    code, out, _ = said(f"{TOPIC}.gavotte.coding.dlq")
    assert "letter of gavotte.coding, undecodable: torn" in out
    assert said("coding") == (0, "", "no records\n")
    assert said("nonesuch")[0] == 3
    assert said("operator", "--since", "noon")[0] == 2
    assert main(["log", "--since", "1h"]) == 2


def test_a_line_is_harmless() -> None:
    from console.cli.topic import line

    nasty = "\x1b[31m\u202e"
    one = Carried(
        Record(TOPIC, 0, 0, nasty.encode(), nasty.encode(), ((nasty, nasty.encode()),), 0), None, None, None, nasty
    )
    assert "\x1b" not in line(one)
    assert "\u202e" not in line(one)
