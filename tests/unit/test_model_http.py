"""The client against the server, over a real socket: every kind of trouble, the bytes, the key, streams and caches."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agents.model.anthropic import AnthropicModel, place_of, seconds_of
from agents.model.faults import parse
from agents.model.port import Call, Failure, Question, Reply, Said, ToolOffer
from agents.model.prices import PriceTable
from agents.model.script import Script, ScriptAnswers
from agents.model.server import ModelServer, serving
from agents.settings import load_settings
from contracts.errors import Refused, Unavailable

KEY = "sk-ant-planted-0815"
OFFER = ToolOffer("plan_draft", "The answer.", {"type": "object", "properties": {"summary": {"type": "string"}}})


def question(*said: Said, instructions: str = "You plan.", **fields: Any) -> Question:
    messages = said or (Said.by_us("split() loses a cent"),)
    fields = {"tools": (OFFER,), "answer_tool": OFFER.name} | fields
    return Question("planning", "t1", 0, ("planning.v1", "h"), instructions, messages, **fields)


class Line:
    """A client and its server."""

    def __init__(self, url: str, server: ModelServer, folder: Path, environ: dict[str, str]) -> None:
        self.url, self.server = url, server
        given = {"ANTHROPIC_API_KEY": KEY, "GAVOTTE_MODEL_URL": url} | environ
        self.model = AnthropicModel(load_settings(data=folder, environ=given), PriceTable.load())

    def call(self, asked: Question | None = None) -> Call:
        asked = asked or question()
        return self.model.call(asked, self.model.routes(asked)[0])

    async def send(self, asked: Question | None = None) -> Reply:
        return await self.model.send(self.call(asked))

    async def fails(self, asked: Question | None = None) -> Failure:
        with pytest.raises(Failure) as failed:
            await self.send(asked)
        return failed.value


@asynccontextmanager
async def line(folder: Path, *faults: str, key: str = "", **environ: str) -> AsyncIterator[Line]:
    rules = [{"when": {"tool": "plan_draft"}, "input": {"summary": "fine"}}]
    answers = ScriptAnswers(Script.parse({"answers": rules}, "test"))
    server = ModelServer(answers, [parse(words) for words in faults], key=key)
    async with serving(server) as url:
        made = Line(url, server, folder, environ)
        try:
            yield made
        finally:
            await made.model.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_comes_back_with_its_tokens_and_cost(tmp_path: Path, stream: bool) -> None:
    async with line(tmp_path) as on:
        reply = await on.send(question(tokens_max=16_000 if stream else 500))
        (seen,) = on.server.seen
    assert seen.stream is stream
    assert reply.content[0]["input"] == {"summary": "fine"}
    assert (reply.model, reply.asked, reply.stop_reason) == ("claude-sonnet-5-5", "claude-sonnet-5-5", "tool_use")
    assert (reply.usage.tokens_in_all, reply.usage.tokens_out) == (seen.tokens_in, seen.tokens_out)
    assert reply.cost_microdollars == seen.tokens_in * 2 + seen.tokens_out * 10
    assert reply.request_id == seen.request_id
    assert not reply.estimated


async def test_the_server_receives_the_very_bytes_of_the_call(tmp_path: Path) -> None:
    async with line(tmp_path) as on:
        call = on.call(question(Said.by_us('späte "Größe" \u2028 \x7f 🐢')))
        await on.model.send(call)
        assert on.server.seen[0].sha256 == call.sha256
        assert on.server.seen[0].bytes == len(call.body)
    body = json.loads(call.body)
    assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}, (
        "newer models refuse to be forced"
    )
    assert body["system"][-1]["cache_control"] == body["tools"][-1]["cache_control"] == {"type": "ephemeral"}


async def test_what_is_said_again_is_read_from_the_cache(tmp_path: Path) -> None:
    async with line(tmp_path) as on:
        long = question(instructions="You plan with care. " * 400)
        first, second = [(await on.send(long)).usage for _ in range(2)]
    assert first.cache_write == second.cache_read > 1000
    assert first.cache_read == second.cache_write == 0


async def test_only_what_was_answered_counts_as_the_nth(tmp_path: Path) -> None:
    async with line(tmp_path, "529:at=2", "empty:at=4") as on:
        rules = [{"when": {"nth": n}, "input": {"summary": str(n)}} for n in (1, 2, 3)]
        on.server._answers = ScriptAnswers(Script.parse({"answers": rules}, "test"))
        told = [(await on.send()).content[0]["input"]["summary"]]
        assert (await on.fails()).kind == "overloaded"
        told.append((await on.send()).content[0]["input"]["summary"])
        assert (await on.send()).content == ()
        told.append((await on.send()).content[0]["input"]["summary"])
    assert told == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("fault", "kind", "status", "retry_after", "charged"),
    [
        ("429:retry_after=7", "rate_limit", 429, 7.0, False),
        ("429", "rate_limit", 429, None, False),
        ("529:retry_after=1.5", "overloaded", 529, 1.5, False),
        ("500", "server_error", 500, None, False),
        ("401", "authentication", 401, None, False),
        ("cut", "cut", 0, None, True),
        ("malformed", "malformed", 0, None, True),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_trouble_is_told_apart(
    tmp_path: Path, fault: str, kind: str, status: int, retry_after: float | None, charged: bool, stream: bool
) -> None:
    async with line(tmp_path, f"{fault}{',' if ':' in fault else ':'}times=1") as on:
        asked = question(tokens_max=16_000 if stream else 500)
        failure = await on.fails(asked)
        assert (failure.kind, failure.status, failure.retry_after_seconds) == (kind, status, retry_after)
        assert failure.means.charged is charged
        assert failure.request_id == on.server.seen[0].request_id
        assert len(on.server.seen) == 1, "the client tried by itself"
        assert (await on.send(asked)).content, "the line is good again"


async def test_a_slow_drip_ends_at_the_time_limit(tmp_path: Path) -> None:
    async with line(tmp_path, "drip:seconds=60", GAVOTTE_MODEL__TIMEOUT_SECONDS="0.5") as on:
        failure = await on.fails()
    assert (failure.kind, failure.means.charged) == ("timeout", True)
    assert "no whole answer within 0.5 s" in str(failure)


async def test_a_drip_that_is_fast_enough_is_an_answer(tmp_path: Path) -> None:
    async with line(tmp_path, "drip:seconds=0.2") as on:
        for tokens_max in (16_000, 500):
            assert (await on.send(question(tokens_max=tokens_max))).content[0]["input"] == {"summary": "fine"}


async def test_nobody_there_is_not_charged(tmp_path: Path) -> None:
    async with line(tmp_path) as on:
        gone = Line("http://127.0.0.1:9", on.server, tmp_path, {})
        failure = await gone.fails()
        await gone.model.close()
    assert (failure.kind, failure.means.charged, failure.means.counts) == ("unreachable", False, True)


async def test_a_request_that_the_api_refuses_needs_a_person(tmp_path: Path) -> None:
    async with line(tmp_path) as on:
        failure = await on.fails(question(Said("assistant", ({"type": "text", "text": "I"},))))
    assert (failure.kind, failure.status, failure.means.person) == ("request", 400, True)
    assert "prefill" in str(failure)


async def test_a_wrong_key_is_named_and_never_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with line(tmp_path, key="another") as on:
            failure = await on.fails()
    assert failure.kind == "authentication"
    assert KEY not in caplog.text
    assert on.model.redacted(f"bad key {KEY}!") == "bad key ********!"


async def test_an_error_in_the_middle_of_a_stream_is_told(tmp_path: Path) -> None:
    from agents.model.anthropic import assembled

    class Sent:
        def __init__(self, event: str, data: dict[str, Any]) -> None:
            self.event, self.data = event, json.dumps(data)

    async def events() -> AsyncIterator[Sent]:
        yield Sent("message_start", {"type": "message_start", "message": {"content": []}})
        yield Sent("ping", {"type": "ping"})
        yield Sent("error", {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}})

    with pytest.raises(Failure) as failed:
        await assembled(events())
    assert (failed.value.kind, str(failed.value)) == ("overloaded", "overloaded_error: busy")


async def test_each_purpose_has_its_model_and_each_server_its_breaker_and_key(tmp_path: Path) -> None:
    async with line(
        tmp_path,
        GAVOTTE_MODEL__FALLBACK="spare,local@http://user:pw@127.0.0.1:9/x,spare",
        GAVOTTE_MODEL__CODING="coder",
    ) as on:
        coding = on.model.routes(question(purpose="coding"))
        assert [(route.model, route.place) for route in coding] == [
            ("coder", on.url), ("spare", on.url), ("local", "http://127.0.0.1:9/x"),
        ]  # fmt: skip
        assert coding[0].breaker is coding[1].breaker
        assert coding[0].breaker is not coding[2].breaker
        assert on.model.routes(question(purpose="triage"))[0].model == "claude-haiku-5-5"
        assert on.model._providers[coding[2].place].api_key == "", "the key went to another server"
        assert on.model.names() == ["claude-haiku-5-5", "claude-sonnet-5-5", "coder", "local", "spare"]


async def test_the_thinking_of_another_model_is_left_out(tmp_path: Path) -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    call = {"type": "tool_use", "id": "a", "name": "plan_draft", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": "no"}
    async with line(tmp_path) as on:
        for author, kept in (("claude-sonnet-5-5", True), ("claude-opus-5-5", False)):
            asked = question().then(Said("assistant", (thought, call), author), Said("user", (result,)))
            sent = json.loads(on.call(asked).body)["messages"]
            assert (thought in sent[1]["content"]) is kept
            assert sent[2]["content"][-1]["cache_control"], "the end of a conversation is cached"


async def test_the_worst_case_covers_what_is_billed(tmp_path: Path) -> None:
    async with line(tmp_path) as on:
        call = on.call()
        reply = await on.model.send(call)
    assert reply.usage.tokens_in_all + reply.usage.tokens_out <= call.tokens_reserved
    assert reply.cost_microdollars <= call.cost_reserved_microdollars


async def test_a_probe_is_small(tmp_path: Path) -> None:
    async with line(tmp_path) as on:
        route, reply = await on.model.probe()
    assert (route.model, reply.text) == ("claude-sonnet-5-5", "ready")
    assert reply.cost_microdollars < 1000


def test_without_a_key_or_a_server_it_refuses_at_once(tmp_path: Path) -> None:
    settings = load_settings(data=tmp_path, environ={"GAVOTTE_MODEL__PROVIDER": "anthropic"})
    with pytest.raises(Refused, match="there is no key"):
        AnthropicModel(settings, PriceTable.load())


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    async with line(tmp_path) as on:
        with pytest.raises(Unavailable, match="cannot listen"):
            async with serving(on.server, port=int(on.url.rpartition(":")[2])):
                pass


async def test_a_call_that_is_cancelled_is_on_the_log_of_the_server(tmp_path: Path) -> None:
    async with line(tmp_path, "drip:seconds=60") as on:
        sending = asyncio.create_task(on.send())
        while not on.server.seen:
            await asyncio.sleep(0.01)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert (len(on.server.seen), on.server.seen[0].finished) == (1, False)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("soon", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ],
)
def test_retry_after_is_read(header: str | None, seconds: float | None) -> None:
    assert seconds_of(header) == seconds


def test_places_are_shown_without_passwords() -> None:
    assert place_of("https://me:secret@gate.example:8443/llm/") == "https://gate.example:8443/llm"


async def test_a_model_without_a_price_is_not_asked(tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    async with line(tmp_path, GAVOTTE_MODEL__PLANNING="mystery-9") as on:
        failure = await on.fails()
        assert (failure.kind, failure.means.person, on.server.seen) == ("unpriced", True, [])
        assert "no price is known for mystery-9" in str(failure)
        rates = "input = 0\noutput = 0\ncache_write = 0\ncache_write_1h = 0\ncache_read = 0\n"
        prices.write_text(f'[[price]]\nmodel = "mystery-9"\nsince = 2026-01-01\n{rates}')
        on.model._prices = PriceTable.load(prices)
        assert on.call().cost_reserved_microdollars == 0
