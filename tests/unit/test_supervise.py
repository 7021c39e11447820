"""What `up` does when the machine has no process or no file for an agent: it says so, and gives up in the end."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from agents.settings import load_settings
from console import supervise
from console.supervise import Crew, Member, posts


async def test_an_agent_that_cannot_be_started_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "BACKOFF_SECONDS", 0.001)
    said: list[tuple[str, str]] = []

    def notice(what: str, _member: Member, words: str) -> None:
        said.append((what, words))

    settings = load_settings(data=tmp_path / "data", environ={})
    async with Crew(settings, posts(["planning"]), notice) as crew:
        shutil.rmtree(settings.logs)
        async with asyncio.timeout(30):
            await crew.failed.wait()
    assert [what for what, _ in said] == ["died"] * 4 + ["gave up"]
    assert all("could not be started: No such file" in words for _, words in said)
    assert "planning does not start" in crew.failure


def test_a_log_that_grew_begins_anew_under_its_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "LOG_BYTES_MAX", 10)
    path = tmp_path / "coding.log"
    supervise.rotate(path)
    with path.open("ab", buffering=0) as log:
        log.write(b"short\n")
        supervise.rotate(path)
        assert path.read_bytes() == b"short\n"
        log.write(b"much longer\n")
        supervise.rotate(path)
        log.write(b"new\n")
    assert path.read_bytes() == b"new\n"
    assert (tmp_path / "coding.log.1").read_bytes() == b"short\nmuch longer\n"


async def test_logs_are_looked_at_while_agents_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "LOG_BYTES_MAX", 10)
    monkeypatch.setattr(supervise, "LOG_LOOK_SECONDS", 0.001)
    settings = load_settings(data=tmp_path / "data", environ={})
    async with Crew(settings, posts(["planning"])), asyncio.timeout(30):
        (settings.logs / "planning.log").write_text("x" * 100)
        while not (settings.logs / "planning.log.1").exists():
            await asyncio.sleep(0.001)


def test_last_words_hold_the_error_and_its_hint(tmp_path: Path) -> None:
    path = tmp_path / "coding.log"
    assert supervise.last_words(path) == ""
    path.write_text("one\nerror: it is damaged\n  try: restore it\n\n")
    assert supervise.last_words(path) == " (error: it is damaged; try: restore it)"
    path.write_text("one\ntwo\n")
    assert supervise.last_words(path) == " (two)"
