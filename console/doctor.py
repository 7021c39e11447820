"""What this machine has and lacks, in findings a person can act on."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from console.words import count, dollars
from contracts.errors import GavotteError

if TYPE_CHECKING:
    from pathlib import Path

    from agents.settings import Settings

FREE_BYTES_MIN: Final = 1 << 30
MODEL_SECONDS: Final = 30.0
ASK_FOR_KEY: Final = "export ANTHROPIC_API_KEY=... and tasks in words are done too"
MODEL_HINTS: Final = {
    "authentication": "is the key right, and of this server? ANTHROPIC_API_KEY, or model.api_key",
    "billing": "look at the plan and the bill of the account",
    "not_found": "is the url right, and the model one of this server? settings model.url, model.strong",
    "unreachable": "is the network up, and the url right? setting model.url",
}
NETWORK_FILESYSTEMS: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p"})


@dataclass(frozen=True)
class Finding:
    """`ok`; `better`: it works and could be better; `lacks`: something needed is missing."""

    name: str
    verdict: Literal["ok", "better", "lacks"]
    finding: str
    hint: str = ""


async def examine(settings: Settings) -> list[Finding]:
    """All findings, the most needed first."""
    found = [
        python(),
        await git(),
        await sandbox(settings),
        tools(),
        sqlite(),
        data_folder(settings),
        operator(settings),
    ]
    found += [*await model(settings), agents(settings)]
    if settings.has_record:
        found += await record(settings)
    return found


def python() -> Finding:
    """The interpreter."""
    said = f"{sys.version.split()[0]} at {sys.executable}"
    if sys.platform != "linux":
        return Finding("python", "lacks", f"{said}, on {sys.platform}", "Linux, or WSL2 on Windows")
    return Finding("python", "ok", said)


async def git() -> Finding:
    """The git program."""
    if shutil.which("git") is None:
        return Finding("git", "lacks", "git was not found", "apt-get install git, or dnf install git")
    process = await asyncio.create_subprocess_exec("git", "--version", stdout=asyncio.subprocess.PIPE)
    said = (await process.communicate())[0].decode("utf-8", "replace").strip()
    return Finding("git", "ok", said)


async def sandbox(settings: Settings) -> Finding:
    """The sandbox that would be used, after a run that tried to get out of it."""
    from agents.tools.sandbox import INSTALL_HINT, survey

    found = await survey(settings.sandbox.kind)
    notes = f" ({'; '.join(found.notes)})" if found.notes else ""
    if found.chosen is None:
        return Finding("sandbox", "lacks", f"none holds{notes}: tasks that run code are refused", INSTALL_HINT)
    said = f"{found.name}, {found.strength}{notes}"
    return Finding("sandbox", "better" if found.notes else "ok", said, INSTALL_HINT if found.notes else "")


def tools() -> Finding:
    """What runs inside the sandbox where a project brings no environment of its own."""
    from importlib.util import find_spec

    missing = [name for name in ("pytest", "ruff") if find_spec(name) is None]
    if missing:
        return Finding("tools", "better", f"{', '.join(missing)} not installed beside gavotte", "make setup")
    return Finding("tools", "ok", "pytest and ruff stand ready for projects without an environment")


def sqlite() -> Finding:
    """The SQLite library; versions before 3.51.3 need the lock that gavotte takes anyway."""
    return Finding("sqlite", "ok", f"{sqlite3.sqlite_version}, written under gavotte's own lock")


def data_folder(settings: Settings) -> Finding:
    """The data folder: mode, room, kind of file system."""
    folder = settings.data
    if not folder.exists():
        return Finding("data", "ok", f"{folder} is made at first use")
    mode = folder.stat().st_mode & 0o777
    if mode & 0o077:
        return Finding("data", "better", f"{folder} can be entered by others (mode {mode:o})", f"chmod 700 {folder}")
    kind = filesystem(folder)
    if kind in NETWORK_FILESYSTEMS:
        return Finding(
            "data", "lacks", f"{folder} lies on {kind}, whose locks cannot be relied on", "a local disk: --data DIR"
        )
    free = shutil.disk_usage(folder).free
    said = f"{folder}, {free / (1 << 30):.1f} GiB free"
    if free < FREE_BYTES_MIN:
        return Finding("data", "better", said, "make room, or take another disk with --data DIR")
    return Finding("data", "ok", said)


def filesystem(folder: Path) -> str:
    """The kind of file system a folder lies on; empty where the machine does not say."""
    best, kind = "", ""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as file:  # noqa: PTH123  it is no file
            mounts = [line.split() for line in file]
    except OSError:
        return ""
    real = str(folder.resolve())
    for _, place, type_, *_rest in mounts:
        if (real == place or real.startswith(place.rstrip("/") + "/")) and len(place) >= len(best):
            best, kind = place, type_
    return kind


def operator(settings: Settings) -> Finding:
    """Who signs, and what keeps others from signing in their name."""
    from contracts.authority import OperatorKey, public_keys

    path, known = settings.operator_key, public_keys(settings.operators_pub)
    if not path.exists() and known:
        hint = "put its copy back; a new key is one more operator, whom this folder must let in"
        return Finding("operator", "lacks", f"{settings.operator_name}; the key {path} is gone", hint)
    if not path.exists():
        return Finding("operator", "ok", f"{settings.operator_name}; the key {path} is made at first use")
    try:
        key = OperatorKey.load_or_make(path)
    except (GavotteError, OSError, ValueError) as error:
        hint = error.hint if isinstance(error, GavotteError) else f"move {path} away, a new one is made"
        return Finding("operator", "lacks", f"{path}: {getattr(error, 'message', error)}", hint)
    said = f"{settings.operator_name}, key {key.key_id}"
    if known and key.public not in known:
        hint = f"echo {key.public} >> {settings.operators_pub}"
        return Finding("operator", "lacks", f"{said} is not among the operators of {settings.data}", hint)
    if path.is_relative_to(settings.data):
        return Finding("operator", "better", f"{said} lies inside the data folder", "leave operator.key unset")
    return Finding(
        "operator", "ok", f"{said}; it keeps models and repositories out, not other programs of this account"
    )


async def model(settings: Settings) -> list[Finding]:
    """Who writes where nobody gave a command or a patch; a key is tried with a minimal call."""
    chosen = settings.model.chosen
    if chosen == "scripted":
        return [Finding("model", "ok", f"scripted answers from {settings.model.script}, no AI is called")]
    if chosen == "none":
        return [Finding("model", "ok", "none: tasks by --author command and --author patch", ASK_FOR_KEY)]
    from agents.model.anthropic import AnthropicModel
    from agents.model.port import Failure
    from agents.model.prices import PriceTable

    try:
        asked = AnthropicModel(settings, PriceTable.load(settings.model.prices))
    except GavotteError as error:
        return [Finding("model", "lacks", error.message, error.hint)]
    started = time.monotonic()
    try:
        async with asyncio.timeout(MODEL_SECONDS):
            route, reply = await asked.probe()
    except Failure as failure:
        return [Finding("model", "lacks", f"{asked.place}: {failure}", MODEL_HINTS.get(failure.kind, ""))]
    except TimeoutError:
        return [
            Finding("model", "lacks", f"{asked.place}: no answer within {MODEL_SECONDS:g} s", "gavotte doctor again")
        ]
    finally:
        await asked.close()
    took = f"{time.monotonic() - started:.1f} s, {dollars(reply.cost_microdollars)}"
    found = [Finding("model", "ok", f"{route} answers as {reply.model or 'a model without a name'} ({took})")]
    unpriced = [name for name in asked.names() if not asked.knows_price(name)]
    if unpriced:
        said = f"no price is known for {', '.join(unpriced)}: charged like the dearest"
        found.append(Finding("prices", "better", said, "give them in a file: setting model.prices"))
    return found


def agents(settings: Settings) -> Finding:
    """Which agents run on the data folder."""
    from console.supervise import living_roles

    roles = sorted(living_roles(settings.run))
    if not roles:
        return Finding("agents", "ok", "none running", "gavotte up")
    return Finding("agents", "ok", f"running: {', '.join(roles)}")


async def record(settings: Settings) -> list[Finding]:
    """Whether the database opens, what is in it, and what in it waits for a person."""
    from agents.wiring import open_runtime
    from dlq_tools.letters import letters, newest

    try:
        runtime = await open_runtime(settings, create=False)
    except (GavotteError, OSError) as error:
        said = error.message if isinstance(error, GavotteError) else str(error)
        hint = error.hint if isinstance(error, GavotteError) else ""
        return [Finding("record", "lacks", said, hint or "is the disk full, or the file another program's?")]
    try:
        statistics = await runtime.store.statistics()
        kills = [kill for kill in await runtime.store.kills() if not kill.lifted]
        waiting = [each for each in newest(await letters(runtime.bus, runtime.store, runtime.topology)) if each.open]
    except GavotteError as error:
        return [Finding("record", "lacks", error.message, error.hint)]
    finally:
        await runtime.close()
    found = [Finding("record", "ok", count(statistics.get("events", 0), "event"))]
    if waiting:
        said = f"{count(len(waiting), 'letter')}, waiting for somebody"
        found.append(Finding("letters", "better", said, "gavotte dlq list"))
    for kill in kills:
        scope = "everything" if kill.scope == "all" else f"{kill.scope} {kill.target}"
        because = f": {kill.reason}" if kill.reason else ""
        found.append(Finding("kill", "better", f"{scope} is stopped{because}", f"gavotte lift {kill.event_id}"))
    return found
