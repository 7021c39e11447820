"""`bench`: what one task costs on this machine, ours beside the bare log."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from console.cli.call import Call, Json, command
from contracts.errors import NotFound

PROGRAM = Path(__file__).resolve().parents[2] / "bench" / "run.py"
"""In a clone, where `make setup` installs from; an installed copy of the packages alone has none."""


def add_to(app: typer.Typer) -> None:
    """Put this command into the program."""
    command(app)(bench)


async def bench(
    call: Call,
    full: Annotated[bool, typer.Option("--full", help="Five rounds of all tasks instead of two of a quarter.")] = False,
    peers: Annotated[
        bool,
        typer.Option("--peers", help="Other systems too; each gets an environment of its own, which is downloaded."),
    ] = False,
    json: Json = False,
) -> int:
    """Measure do-nothing tasks on this machine, beside the bare log that is the limit of it.

    About a minute. Nothing of your data folder is read or written. docs/performance.md explains the figures.
    """
    del call
    if not PROGRAM.exists():
        raise NotFound(
            "the bench is not part of the installed packages", hint="clone the repository, then: make setup bench"
        )
    chosen = [*([] if full else ["--quick"]), *([] if peers else ["--no-peers"]), *(["--json"] if json else [])]
    process = await asyncio.create_subprocess_exec(sys.executable, str(PROGRAM), "--mode", "embedded", *chosen)
    return await process.wait()
