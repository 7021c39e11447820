"""What the command line says of models: the doctor's call, the log, the server's words."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agents.model.faults import parse
from agents.model.script import Script, ScriptAnswers
from agents.model.server import ModelServer, serving
from agents.settings import load_settings
from agents.wiring import open_runtime
from console.cli.main import main
from contracts.codec import Codec
from contracts.envelope import root
from contracts.registry import CommittedIds
from state_store.port import Encoded
from tests.contract.store.world import submitted

KEY = "sk-ant-planted-2323"
Said = tuple[int, str, str]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    for name in list(os.environ):
        if name.startswith(("ANTHROPIC_", "GAVOTTE_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GAVOTTE_DATA", str(tmp_path / "data"))

    def call(*words: str) -> Said:
        code = main(list(words))
        out, err = capfd.readouterr()
        assert KEY not in out + err
        return code, out, err

    return call


@contextmanager
def beside(*faults: str, key: str = "") -> Iterator[str]:
    """A model server in a thread of its own; gives its URL."""
    server = ModelServer(ScriptAnswers(Script()), [parse(words) for words in faults], key=key)
    urls: list[str] = []
    up, loop, done = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def run() -> None:
        async with serving(server) as url:
            urls.append(url)
            up.set()
            await done.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    assert up.wait(10)
    try:
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()
        loop.close()


def finding(said: Said, name: str = "model") -> dict[str, Any]:
    return next((found for found in json.loads(said[1]) if found["name"] == name), {})


def test_the_doctor_tries_the_key(cli: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with beside(key=KEY) as url:
        monkeypatch.setenv("GAVOTTE_MODEL_URL", url)
        said = cli("doctor", "--json")
        assert finding(said)["verdict"] == "ok"
        assert f"claude-sonnet-5-5 at {url} answers as claude-sonnet-5-5 (" in finding(said)["finding"]
        assert finding(said, "prices") == {}
        monkeypatch.setenv("GAVOTTE_MODEL__CODING", "mystery-9")
        assert finding(cli("doctor", "--json"), "prices")["finding"].startswith("no price is known for mystery-9")


@pytest.mark.parametrize(
    ("fault", "said", "hint"),
    [
        ("401", "401 invalid api key", "is the key right"),
        ("529", "529 Overloaded", ""),
        ("malformed", "the answer is no JSON", ""),
        ("cut", "peer closed connection", ""),
    ],
)
def test_the_doctor_says_where_and_what(
    cli: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, fault: str, said: str, hint: str
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with beside(fault) as url:
        monkeypatch.setenv("GAVOTTE_MODEL_URL", url)
        found = finding(cli("doctor", "--json"))
    assert found["verdict"] == "lacks"
    assert found["finding"].startswith(f"{url}: ")
    assert said in found["finding"]
    assert hint in found["hint"]


def test_the_doctor_names_a_server_that_is_not_there(cli: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAVOTTE_MODEL_URL", "http://127.0.0.1:9")
    code, out, _ = cli("doctor")
    assert "http://127.0.0.1:9: " in out
    assert "is the network up, and the url right?" in out
    assert code == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("model-server", "--script", "a.json", "--cassette", "t"), 2, "two sources of answers"),
        (("model-server", "--script", "absent.json"), 2, "cannot be read"),
        (("model-server", "--fault", "flood"), 2, "kind: Input should be"),
        (("model-server", "--host", "192.0.2.1"), 5, "cannot listen on 192.0.2.1"),
        (("llm", "show"), 2, "name a task, or `show`"),
        (("llm", "a", "b"), 2, "name a task, or `show`"),
        (("llm", "a", "--request"), 2, "name a task, or `show`"),
        (("llm", "a"), 3, "nothing was ever recorded"),
    ],
)
def test_what_cannot_be_done_is_said(cli: Callable[..., Said], words: tuple[str, ...], code: int, said: str) -> None:
    done = cli(*words)
    assert done[0] == code
    assert said in done[2]


async def recorded(data: Path) -> str:
    """A task that nobody has worked on."""
    runtime = await open_runtime(load_settings(data=data, environ={}))
    event = root(submitted())
    await runtime.store.append([Encoded(event, Codec(CommittedIds()).encode_payload(event.payload))])
    await runtime.close()
    return event.task_id


def test_a_task_without_calls_says_so(cli: Callable[..., Said], tmp_path: Path) -> None:
    task = asyncio.run(recorded(tmp_path / "data"))
    assert cli("llm", task)[2] == "this task has asked no model\n"
    assert cli("llm", task, "--json")[1] == "[]\n"
    assert "none has the number 1" in cli("llm", "show", f"{task}.1")[2]
    assert "is no id of a call" in cli("llm", "show", task)[2]
    assert "the journal of this task has no reply" in cli("model-server", "--cassette", task)[2]
    shown = json.loads(cli("show", task, "--json")[1])
    empty = {"input_tokens": 0, "output_tokens": 0, "steps": 0, "tool_calls": [], "end": None, "error": None}
    assert {name: shown[name] for name in empty} == empty
