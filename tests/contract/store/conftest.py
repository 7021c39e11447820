"""Every test of the store's contract runs on each backend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.store.world import FileWorld, Place, World, opened, opened_on_server


@pytest.fixture(params=["file", "inline", "postgres"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "postgres":
        async with opened_on_server(Place.of(request.getfixturevalue("postgres")), tmp_path) as on_server:
            yield on_server
    else:
        async with opened(str(request.param), tmp_path) as made:
            yield made


@pytest.fixture
async def file_world(tmp_path: Path) -> AsyncIterator[FileWorld]:
    """For what only a file can show: other processes, tampering from outside."""
    async with opened("file", tmp_path) as made:
        yield made
