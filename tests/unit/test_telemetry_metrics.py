"""What an agent answers over HTTP: metrics for Prometheus, whether it lives, and whether it is ready and why not."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agents import conventions
from agents.health import Health, HealthServer, check
from agents.settings import load_settings
from agents.telemetry import Metrics
from bus.port import Lag
from contracts.errors import Retryable, Unavailable
from contracts.topology import Topology
from state_store.port import Kill, OpenWork
from tests.unit.test_telemetry import PLACE, delivered, step
from tests.unit.watched import dance, fails, plans

ROOT = Path(__file__).resolve().parents[2]
PLANNING = Topology().agent("planning")


@dataclass
class Neighbours:
    """A bus and a store that answer what a test says, or not at all."""

    down: set[str] = field(default_factory=set)
    slow: set[str] = field(default_factory=set)
    asked: int = 0

    async def _answers(self, name: str) -> None:
        self.asked += 1
        if name in self.down:
            raise Unavailable(f"the {name} went away")
        if name in self.slow:
            await asyncio.Event().wait()

    async def lag(self, _group: str, _topics: Any) -> list[Lag]:
        await self._answers("bus")
        return [Lag("a", 0, 1, 5, 4), Lag("a", 1, None, 2, 2), Lag("b", 0, 7, 7, 0)]

    async def open_work(self, _role: str) -> OpenWork:
        await self._answers("store")
        return OpenWork({"running": 3}, {"retry": 1})

    async def kills(self) -> list[Kill]:
        await self._answers("store")
        return [Kill(1, "e", "role", "coding", "", lifted=False), Kill(2, "f", "all", "", "", lifted=True)]


def health(neighbours: Neighbours) -> Health:
    found: Any = neighbours
    return Health(PLANNING, ("a", "b"), found, found, Metrics(PLACE), asyncio.Event(), taking=True)


def samples(page: str) -> dict[str, float]:
    """`name{label="value"}` -> value."""
    return {
        one.name + "".join(f" {key}={value}" for key, value in sorted(one.labels.items())): one.value
        for family in text_string_to_metric_families(page)
        for one in family.samples
    }


async def asked(url: str, request: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of one raw request."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request.encode())
    raw = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    await writer.wait_closed()
    head, _, body = raw.decode().partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    return int(first.split(" ")[1]), dict(line.split(": ", 1) for line in lines), body


def get(path: str) -> str:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_a_ready_agent_says_so() -> None:
    well = health(Neighbours())
    async with HealthServer(well.answer, "127.0.0.1", 0) as server:
        for path, status in (("/healthz", "ok"), ("/readyz", "ready")):
            code, headers, body = await asked(server.address, get(path))
            assert (code, json.loads(body)["status"]) == (200, status)
            assert headers["Content-Type"] == "application/json"
        code, headers, body = await asked(server.address, get("/metrics?x=1"))
        assert code == 200
        assert headers["Content-Type"].startswith("text/plain")
    found = samples(body)
    assert found["gavotte_ready role=planning"] == 1
    assert found["gavotte_consumer_lag_messages role=planning topic=a"] == 6
    assert found["gavotte_consumer_lag_messages role=planning topic=b"] == 0
    assert found["gavotte_open_tasks status=running"] == 3
    assert found["gavotte_open_tasks status=escalated"] == 0, "a series that is missing is no zero"
    assert found["gavotte_inbox_deliveries role=planning status=retry"] == 1
    assert [found[f"gavotte_kills_active scope={scope}"] for scope in ("all", "role", "task")] == [0, 1, 0]


async def test_what_is_down_is_named_and_its_numbers_are_left_out() -> None:
    ill = health(Neighbours(down={"store"}))
    answer = await ill.answer("/readyz", "")
    assert answer.status == 503
    assert json.loads(answer.body)["causes"] == {"store": "the store went away"}
    assert (await ill.answer("/healthz", "")).status == 200, "an agent is not restarted for what others lack"
    page = samples((await ill.answer("/metrics", "")).body.decode())
    assert page["gavotte_ready role=planning"] == 0
    assert "gavotte_open_tasks status=running" not in page
    assert page["gavotte_consumer_lag_messages role=planning topic=a"] == 6


async def test_what_does_not_answer_counts_as_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.health.LOOK_SECONDS", 0.05)
    answer = await health(Neighbours(slow={"bus"})).answer("/readyz", "")
    assert json.loads(answer.body)["causes"] == {"bus": "no answer within 0.05 s"}


async def test_starting_and_stopping_are_not_ready() -> None:
    state = health(Neighbours())
    state.taking = False
    assert json.loads((await state.answer("/readyz", "")).body)["causes"] == {"process": "it is starting"}
    state.taking = True
    state.stop.set()
    assert json.loads((await state.answer("/readyz", "")).body)["causes"] == {"process": "it is stopping"}


async def test_many_readers_at_once_are_one_look() -> None:
    neighbours = Neighbours()
    well = health(neighbours)
    await asyncio.gather(*(well.answer(path, "") for path in ("/readyz", "/metrics") * 20))
    assert neighbours.asked == 3


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("POST /metrics HTTP/1.1\r\n\r\n", 405),
        (get("/secrets"), 404),
        ("hello\r\n\r\n", 400),
        ("HEAD /healthz HTTP/1.0\r\n\r\n", 200),
    ],
)
async def test_nothing_else_is_answered(request_: str, status: int) -> None:
    async with HealthServer(health(Neighbours()).answer, "127.0.0.1", 0) as server:
        code, headers, body = await asked(server.address, request_)
    assert code == status
    assert headers["Connection"] == "close"
    assert bool(body) is not request_.startswith("HEAD")


async def test_endless_requests_are_cut() -> None:
    async with HealthServer(health(Neighbours()).answer, "127.0.0.1", 0) as server:
        host, _, port = server.address.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 100_000)
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()


async def test_a_taken_port_is_named() -> None:
    answer = health(Neighbours()).answer
    async with HealthServer(answer, "127.0.0.1", 0) as first:
        port = int(first.address.rpartition(":")[2])
        with pytest.raises(Unavailable, match=f"telemetry.port: 127.0.0.1:{port} cannot be listened on"):
            async with HealthServer(answer, "127.0.0.1", port):
                pass


def test_a_delivery_is_counted() -> None:
    metrics = Metrics(PLACE)
    asked_model = step(model="m", tokens_in=10, tokens_out=4, cost_microdollars=1_500_000)
    tool = step(kind="tool", name="survey", outcome="error", error="Oops: no")
    metrics.delivered(delivered(handled=(0, 30_000), committed=(0, 2_000), steps=[asked_model, tool]))
    again, dead = delivered(error=Retryable("x")), delivered(error=Retryable("y"))
    again.recorded, dead.recorded = "retry", "dead"
    metrics.delivered(again)
    metrics.delivered(dead)
    page = samples(metrics.page("")[1].decode())
    deliveries = {v: page[f"gavotte_deliveries_total role=planning verdict={v}"] for v in ("done", "retry", "dead")}
    assert deliveries == {"done": 1, "retry": 1, "dead": 1}
    assert page["gavotte_retries_total role=planning"] == 1
    assert page["gavotte_dead_letters_total role=planning"] == 1
    assert page["gavotte_handle_duration_seconds_sum role=planning"] == 0.03
    assert page["gavotte_commit_duration_seconds_sum role=planning"] == 0.002
    assert page["gavotte_model_tokens_total direction=input model=m role=planning"] == 10
    assert page["gavotte_model_cost_dollars_total model=m role=planning"] == 1.5
    assert page["gen_ai_client_token_usage_sum gen_ai_request_model=m gen_ai_token_type=output"] == 4
    assert page["gen_ai_execute_tool_duration_seconds_count error_type=Oops gen_ai_tool_name=survey"] == 1
    where = "messaging_destination_name=gavotte.tasks.events.v1"
    assert page[f"messaging_process_duration_seconds_count error_type=Retryable {where}"] == 2
    assert page[f"messaging_client_consumed_messages_total {where}"] == 3


async def test_an_agent_at_work_counts(tmp_path: Path) -> None:
    async with dance(tmp_path) as dancing:
        watchers = dancing.watcher("planning"), dancing.watcher("coding")
        async with dancing.runs("planning", plans, watchers[0]), dancing.runs("coding", fails, watchers[1]):
            event = await dancing.submit()
            await dancing.ended(event.task_id)
        dancing.settle()
        assert watchers[0].metrics is not None
        page = samples(watchers[0].metrics.page("")[1].decode())
    assert page["gavotte_deliveries_total role=planning verdict=done"] == 1
    assert page["gavotte_commit_duration_seconds_count role=planning"] == 1
    assert page["gen_ai_execute_tool_duration_seconds_count error_type= gen_ai_tool_name=survey"] == 1
    assert page["messaging_client_sent_messages_total messaging_destination_name=gavotte.planning.events.v1"] == 1


def _labels_of(metrics: Metrics, name: str) -> tuple[str, ...]:
    found: Any = metrics.registry._names_to_collectors[name]
    return tuple(found._labelnames)


def test_every_metric_is_pinned_and_alerts_ask_for_those_alone() -> None:
    metrics = Metrics(PLACE)
    declared = {
        value
        for name, value in vars(conventions).items()
        if name.isupper() and isinstance(value, str) and re.fullmatch(r"(gavotte|messaging|gen_ai)_\w+", value)
    }
    shown = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(metrics.page("")[1].decode())
    }
    assert shown == declared
    spoken = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text() + (ROOT / "docs" / "telemetry.md").read_text()
    found = set(re.findall(r"\b(?:gavotte|messaging|gen_ai)_[a-z_]+", spoken))
    labels = {label for family in metrics.registry.collect() for label in _labels_of(metrics, family.name)}
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in found} <= declared | labels
    page = (ROOT / "docs" / "telemetry.md").read_text()
    assert [name for name in sorted(declared) if name not in page] == [], "say in docs/telemetry.md what these are"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A real agent process on a free port; the variables that describe it."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "GAVOTTE_"))}
    environ |= {"GAVOTTE_DATA": str(tmp_path / "data"), "GAVOTTE_TELEMETRY__PORT": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", "agents", "planning"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ, cwd=tmp_path) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(rf"ready planning {process.pid} http://127\.0\.0\.1:(\d+)\n", line)
            assert found is not None, line
            yield environ | {"GAVOTTE_TELEMETRY__PORT": found[1]}
        finally:
            process.terminate()
            assert process.wait(30) == 0


def test_the_health_check_asks_the_process_that_the_settings_describe(served: dict[str, str]) -> None:
    for path, code in (("/healthz", 0), ("/readyz", 0), ("/nowhere", 1)):
        command = [sys.executable, "-P", "-m", "agents.health", path]
        done = subprocess.run(command, env=served, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
    well, words = check(load_settings(environ=served | {"GAVOTTE_TELEMETRY__PORT": "1"}), "/healthz")
    assert not well
    assert "127.0.0.1:1 does not answer" in words
    assert check(load_settings(environ=served | {"GAVOTTE_TELEMETRY__PORT": "0"}), "/healthz") == (
        False,
        "telemetry.port names no port to ask at",
    )
