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
