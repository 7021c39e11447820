"""Proof that the record is whole: `audit export` signs how far it goes, `audit verify` shows what was changed since."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from console.cli.call import EXIT_FAILED, Call, Json, command
from console.cli.output import put, put_json, say, warn
from console.harmless import harmless
from console.words import count

if TYPE_CHECKING:
    from console.exports import Export
    from state_store.port import Ends

audit = typer.Typer(help="Proof that the record is whole.", no_args_is_help=True, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Put these commands into the program."""
    app.add_typer(audit, name="audit")
    command(audit)(verify)
    command(audit)(export)


async def verify(
    call: Call,
    against: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An earlier export: shows also what was cut off or written anew."),
    ] = None,
    key: Annotated[
        str, typer.Option(metavar="KEY", help="The public key, or a file of such, that must have signed the export.")
    ] = "",
    json: Json = False,
) -> int:
    """Check the hash chain of every task: edits, insertions, deletions and reordering show; exit 1 where one does.

    It needs no agent and changes nothing: a copy of the data folder will do.
    """
    from console.exports import read, trusted_keys

    earlier = None if against is None else read(against, trusted_keys(call.settings, key))
    events, wrong = await faults(call, None if earlier is None else earlier.ends)
    if json:
        put_json({"wrong": wrong, "events": events, "against": None if earlier is None else described(earlier)})
    else:
        for line in wrong:
            put(harmless(line))
        if earlier is not None:
            when = earlier.made_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
            who = f"{harmless(earlier.operator)}, key {earlier.key_id}"
            say(f"against the export of {when} by {who}: {count(earlier.ends.events, 'event')}")
        say(f"{count(events, 'event')}, {count(len(wrong), 'fault')}")
    return EXIT_FAILED if wrong else 0


async def export(
    call: Call,
    to: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to; one that is there must still hold, then it is replaced."),
    ] = None,
) -> int:
    """Sign how far the record goes now, for `audit verify --against`: keep it where agents cannot write.

    A record with a fault is not signed.
    """
    from console.exports import made, read, trusted_keys, write
    from contracts.authority import OperatorKey

    settings = call.settings
    earlier = None
    if to is not None and to.exists():
        earlier = read(to, trusted_keys(settings, "")).ends
    _, wrong = await faults(call, earlier)
    if wrong:
        for line in wrong:
            say(harmless(line))
        warn("nothing was signed: the record is not whole")
        return EXIT_FAILED
    ends = await (await call.runtime()).store.ends()
    signer = OperatorKey.load_or_make(settings.operator_key)
    document = made(ends, signer, settings.operator_name)
    if to is None:
        put(document.rstrip("\n"))
        return 0
    write(to, document)
    if to.absolute().is_relative_to(settings.data):
        warn(f"{to} lies in the data folder: who can change the record there can change the proof")
    put(f"{count(ends.events, 'event')} of {count(len(ends.heads), 'stream')}, signed with key {signer.key_id}")
    return 0


async def faults(call: Call, earlier: Ends | None) -> tuple[int, list[str]]:
    """How many events the record has and all that is wrong with it; a file is read as it lies there."""
    from state_store.sqlite import verify_file

    settings = call.settings
    backend: str = settings.store.backend
    if backend == "sqlite" and settings.database.exists():
        return await asyncio.to_thread(verify_file, settings.database, earlier)
    runtime = await call.runtime()
    wrong = await runtime.store.verify_chain(earlier)
    return (await runtime.store.statistics())["events"], wrong


def described(earlier: Export) -> dict[str, object]:
    """An export for programs."""
    return {
        "made_at": earlier.made_at.isoformat(),
        "operator": earlier.operator,
        "key_id": earlier.key_id,
        "events": earlier.ends.events,
    }
