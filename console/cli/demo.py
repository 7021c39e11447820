"""`demo`: the whole dance on a bundled sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from console.cli.call import Call, command


def add_to(app: typer.Typer) -> None:
    """Put this command into the program."""
    command(app)(demo)


async def demo(
    call: Call,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Approve without asking.")] = False,
    bus: Annotated[
        Literal["embedded", "kafka"],
        typer.Option(
            "--bus", help="Through a file, or through the brokers that GAVOTTE_BUS__SERVERS names, else one of its own."
        ),
    ] = "embedded",
    store: Annotated[
        Literal["sqlite", "postgres"],
        typer.Option("--store", help="In a file, or in the database of GAVOTTE_STORE__URL, else in one of its own."),
    ] = "sqlite",
) -> int:
    """Watch the dance on a bundled sample: four processes fix, review and deploy it in ./.demo; no key, no AI."""
    from console.demo import FOLDER, run

    return await run(call.data or Path(FOLDER), yes=yes, bus=bus, store=store)
