"""The machine and the data folder: `doctor`, `rebuild`, `prune`, `version`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from console.cli.call import EXIT_FAILED, Call, Json, command
from console.cli.output import put, put_hanging, put_json, say, styled
from console.harmless import harmless
from console.words import DAY, HOUR, MICRO, count, span

if TYPE_CHECKING:
    from console.doctor import Finding

STYLES = {"ok": "green", "better": "yellow", "lacks": "red"}


def add_to(app: typer.Typer) -> None:
    """Put these commands into the program."""
    command(app)(doctor)
    command(app)(rebuild)
    command(app)(prune)
    command(app)(version)


async def doctor(call: Call, json: Json = False) -> int:
    """Look at what this machine has and lacks; exit 1 where something needed is missing."""
    from console.doctor import examine

    return put_findings(await examine(call.settings), json=json)


def put_findings(found: list[Finding], *, json: bool) -> int:
    """Findings as lines, or JSON; returns the exit code."""
    if json:
        put_json([{"name": f.name, "verdict": f.verdict, "finding": f.finding, "hint": f.hint} for f in found])
    else:
        for each in found:
            head = f"{each.verdict:<7} {each.name:<10} "
            shown = styled(head[:8], STYLES[each.verdict]) + head[8:]
            put_hanging(head, harmless(each.finding), shown)
            if each.hint:
                put_hanging(f"{'':<19}try: ", harmless(each.hint))
    return EXIT_FAILED if any(each.verdict == "lacks" for each in found) else 0


async def rebuild(call: Call, json: Json = False) -> None:
    """Fold all views anew from the events, and put right what differs."""
    runtime = await call.runtime()
    tasks = await runtime.store.rebuild_views()
    if json:
        put_json({"tasks": tasks})
    else:
        put(f"rebuilt the views of {count(tasks, 'task')}")


async def prune(
    call: Call,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    unread: Annotated[
        bool, typer.Option("--unread", help="Also what a group has not read, such as an agent that is gone.")
    ] = False,
    json: Json = False,
) -> None:
    """Let go of what has outlived its time: records that every group has read, words of old steps. Events stay."""
    from bus.port import Prunable
    from contracts.ids import now_us

    runtime = await call.runtime()
    hours, days = call.settings.bus.retention_hours, call.settings.store.journal_days
    records = 0
    if isinstance(runtime.bus, Prunable):
        records = await runtime.bus.prune(hours * 3600, beyond_groups=unread, dry_run=dry_run)
    gone = await runtime.store.prune_journal(now_us() - days * DAY * MICRO, dry_run=dry_run)
    if json:
        bus = {"records": records, "older_than_hours": hours}
        journal = {"tasks": gone.tasks, "steps": gone.steps, "older_than_days": days}
        bodies = {"files": gone.bodies, "bytes": gone.body_bytes}
        put_json({"dry_run": dry_run, "bus": bus, "journal": journal, "bodies": bodies})
        return
    whose = "whether every group has read them or not" if unread else "which every group has read"
    if isinstance(runtime.bus, Prunable):
        put(f"bus      {count(records, 'record')} older than {span(hours * HOUR)}, {whose}")
    else:
        put(f"bus      {call.settings.bus.backend} lets go of its records by itself")
    put(
        f"journal  {count(gone.steps, 'step')} of {count(gone.tasks, 'task')} that ended more than {days} days ago: words, not lines"
    )
    put(f"bodies   {count(gone.bodies, 'file')} that nothing names any more, {gone.body_bytes / (1 << 20):.1f} MiB")
    say(
        "nothing was removed: this was a dry run"
        if dry_run
        else "removed; the file keeps its size and uses the room again"
    )


def version(_call: Call, json: Json = False) -> None:
    """Print the version of gavotte and of what it stands on."""
    if json:
        put_json(versions())
    else:
        put(version_line())


def versions() -> dict[str, str]:
    """What is running: names are stable."""
    import platform
    import sqlite3
    from importlib import metadata

    return {
        "gavotte": metadata.version("gavotte"),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "platform": f"{platform.system()} {platform.machine()}",
    }


def version_line() -> str:
    """The same for people."""
    found = versions()
    return f"gavotte {found['gavotte']} (Python {found['python']}, SQLite {found['sqlite']}, {found['platform']})"
