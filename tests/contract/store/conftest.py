"""Every test of the store's contract runs on each backend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.store.world import World, opened


@pytest.fixture(params=["file", "inline"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with opened(str(request.param), tmp_path) as made:
        yield made


@pytest.fixture
async def file_world(tmp_path: Path) -> AsyncIterator[World]:
    """For what only a file can show: other processes, tampering from outside."""
    async with opened("file", tmp_path) as made:
        yield made
