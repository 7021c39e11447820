"""Servers for the demo where nobody named one: a checkout can start a broker and a database of its own."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final, cast

from contracts.errors import Unavailable

PROGRAM: Final = Path(__file__).parents[1] / "deploy" / "local" / "up.py"
START_SECONDS: Final = 660
"""The first start fetches the broker."""
NAMED_BY: Final = {"kafka": "GAVOTTE_BUS__SERVERS", "postgres": "GAVOTTE_STORE__URL"}
"""The setting that says where a server is."""


def unnamed(wanted: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Of the wanted servers those that no setting names, where this is a checkout that can start them."""
    return [name for name in wanted if not environ.get(NAMED_BY[name])] if PROGRAM.is_file() else []


@contextlib.asynccontextmanager
async def started(names: Sequence[str]) -> AsyncIterator[dict[str, str]]:
    """The settings of servers that run for as long as the context, or until this process is gone.

    Raises Unavailable, with their own words, where one does not start.
    """
    if not names:
        yield {}
        return
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAM), "--while-read", *names),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is ours to answer: agents leave before their servers do
    )
    said = cast("asyncio.StreamReader", process.stdout)
    try:
        yield await _settings(said, names)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await said.read()
        await process.wait()


async def _settings(said: asyncio.StreamReader, names: Sequence[str]) -> dict[str, str]:
    """What the servers print once they answer."""
    found: dict[str, str] = {}
    words: list[str] = []
    async with asyncio.timeout(START_SECONDS):
        while any(NAMED_BY[name] not in found for name in names):
            line = (await said.readline()).decode("utf-8", "replace")
            if not line:
                raise Unavailable(f"the demo's own servers did not start: {' '.join(words)}", hint=_hint(names))
            name, is_setting, value = line.strip().partition("=")
            if is_setting and name.startswith("GAVOTTE_"):
                found[name] = value
            else:
                words += line.split()
    return found


def _hint(names: Sequence[str]) -> str:
    return f"install what is missing, or name servers by {' and '.join(NAMED_BY[name] for name in names)}"
