"""What this machine has and lacks, in findings a person can act on."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from console.supervise import living_roles
from console.words import MICRO, count, dollars, span
from contracts import ids
from contracts.errors import GavotteError
from contracts.topology import CORE_AGENTS

if TYPE_CHECKING:
    from pathlib import Path

    from agents.settings import Settings
    from agents.wiring import Runtime
    from state_store.port import Kill, Recorded

FREE_BYTES_BETTER: Final = 1 << 30
FREE_BYTES_MIN: Final = 64 << 20
OPEN_FILES_MIN: Final = 256
ANSWER_SECONDS_MAX: Final = 30.0
CLOCK_SECONDS_MAX: Final = 60
MODEL_SECONDS: Final = 30.0
ASK_FOR_KEY: Final = "export ANTHROPIC_API_KEY=... and tasks in words are done too"
MODEL_HINTS: Final = {
    "authentication": "is the key right, and of this server? ANTHROPIC_API_KEY, or model.api_key",
    "billing": "look at the plan and the bill of the account",
    "not_found": "is the url right, and the model one of this server? settings model.url, model.strong",
    "unreachable": "is the network up, and the url right? setting model.url",
    "unpriced": "give its price in a file: setting model.prices",
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
        limits(),
        data_folder(settings),
        operator(settings),
    ]
    found += await model(settings)
    if settings.registry.url:
        found.append(await tried("registry", lambda: registry(settings)))
    roles = living_roles(settings.run)
    kept = await record(settings, roles) if settings.has_record else []
    return [*found, agents(roles), *kept]


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


def limits() -> Finding:
    """What this account lets a process have: each task at work needs a dozen files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    size, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if 0 <= files < OPEN_FILES_MIN:
        return Finding("limits", "better", f"{files} open files a process are few", f"ulimit -n {4 * OPEN_FILES_MIN}")
    if size != resource.RLIM_INFINITY:
        return Finding("limits", "better", f"no file may grow beyond {size >> 20} MiB", "ulimit -f unlimited")
    return Finding("limits", "ok", f"{files} open files a process")


def data_folder(settings: Settings) -> Finding:
    """The data folder: whether it can be written, room, mode, kind of file system."""
    folder = settings.data
    if not folder.exists():
        return Finding("data", "ok", f"{folder} is made at first use")
    if not folder.is_dir():
        return Finding("data", "lacks", f"{folder} is not a folder", "name another one with --data DIR")
    there, other = os.statvfs(folder), "make room, or take another disk with --data DIR"
    if there.f_flag & os.ST_RDONLY or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        hint = f"ls -ld {folder}; is its disk mounted read-only, after an error perhaps? dmesg"
        return Finding("data", "lacks", f"{folder} cannot be written by this user", hint)
    free = there.f_bavail * there.f_frsize
    if free < FREE_BYTES_MIN:
        return Finding(
            "data", "lacks", f"{folder} has {free >> 20} MiB free: agents wait for room, nothing is lost", other
        )
    if there.f_files and not there.f_favail:
        return Finding("data", "lacks", f"the disk of {folder} can hold no more files (df -i)", other)
    mode = folder.stat().st_mode & 0o777
    if mode & 0o077:
        return Finding("data", "better", f"{folder} can be entered by others (mode {mode:o})", f"chmod 700 {folder}")
    kind = filesystem(folder)
    if kind in NETWORK_FILESYSTEMS:
        return Finding(
            "data", "lacks", f"{folder} lies on {kind}, whose locks cannot be relied on", "a local disk: --data DIR"
        )
    said = f"{folder}, {free / (1 << 30):.1f} GiB free"
    if free < FREE_BYTES_BETTER:
        return Finding("data", "better", said, other)
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
        said = f"no price is known for {', '.join(unpriced)}: they are not asked"
        found.append(Finding("prices", "better", said, "give them in a file: setting model.prices"))
    return found


def agents(roles: set[str]) -> Finding:
    """Which agents run on the data folder."""
    if not roles:
        return Finding("agents", "ok", "none running", "gavotte up")
    missing = [agent.role for agent in CORE_AGENTS if agent.role not in roles]
    if missing:
        said = f"running: {', '.join(sorted(roles))}; not here: {', '.join(missing)}"
        return Finding("agents", "better", said, "gavotte up, unless they run on another machine")
    return Finding("agents", "ok", f"running: {', '.join(sorted(roles))}")


async def record(settings: Settings, roles: set[str]) -> list[Finding]:
    """Whether store and bus answer, what is in them, and what in them waits for a person."""
    from agents.wiring import open_runtime
    from dlq_tools.letters import letters, newest

    try:
        runtime = await open_runtime(settings, create=False)
    except (GavotteError, OSError) as error:
        said = error.message if isinstance(error, GavotteError) else str(error)
        hint = error.hint if isinstance(error, GavotteError) else ""
        return [Finding("record", "lacks", said, hint or "is the disk full, or the file another program's?")]
    try:
        found = [await tried("record", lambda: store(runtime)), await tried("bus", lambda: bus(runtime))]
        if any(each.verdict == "lacks" for each in found):
            return found
        statistics = await runtime.store.statistics()
        last = await runtime.store.tail(statistics["events"] - 1, 1)
        kills = [kill for kill in await runtime.store.kills() if not kill.lifted]
        waiting = [each for each in newest(await letters(runtime.bus, runtime.store, runtime.topology)) if each.open]
    except GavotteError as error:
        return [Finding("record", "lacks", error.message, error.hint)]
    finally:
        await runtime.close()
    found += [*clock(last), *work(statistics["tasks"], roles)]
    if waiting:
        said = f"{count(len(waiting), 'letter')}, waiting for somebody"
        found.append(Finding("letters", "better", said, "gavotte dlq list"))
    return found + [stopped(kill) for kill in kills]


def clock(last: Sequence[Recorded]) -> list[Finding]:
    """Whether the clock was set back: leases, retries and deadlines are measured by it."""
    ahead_seconds = (last[-1].recorded_at_us - ids.now_us()) / MICRO if last else 0.0
    if ahead_seconds < CLOCK_SECONDS_MAX:
        return []
    said = f"the last event was recorded {span(ahead_seconds)} from now: this machine's clock was set back"
    return [Finding("clock", "better", said, "timedatectl; what is due waits until the clock has caught up")]


def work(tasks: Mapping[str, int], roles: set[str]) -> list[Finding]:
    """Tasks that wait for a person, or for agents that do not run."""
    found = []
    if tasks.get("running") and not roles:
        said = f"{count(tasks['running'], 'task')} at work, and no agent runs here"
        found.append(Finding("tasks", "better", said, "gavotte up, unless agents run on another machine"))
    if tasks.get("waiting"):
        said = f"{count(tasks['waiting'], 'task')} waiting for an answer"
        found.append(Finding("tasks", "ok", said, "gavotte tasks --status waiting"))
    if tasks.get("escalated"):
        said = f"{count(tasks['escalated'], 'task')} waiting for help"
        found.append(Finding("tasks", "better", said, "gavotte tasks --status escalated, then gavotte why TASK"))
    return found


def stopped(kill: Kill) -> Finding:
    """A kill that holds."""
    scope = "everything" if kill.scope == "all" else f"{kill.scope} {kill.target}"
    because = f": {kill.reason}" if kill.reason else ""
    return Finding("kill", "better", f"{scope} is stopped{because}", f"gavotte lift {kill.event_id}")


async def registry(settings: Settings) -> str:
    """That the schema registry answers and knows our events."""
    from agents.wiring import registry_of
    from contracts.confluent import subject_of
    from contracts.registry import CommittedIds

    there = registry_of(settings)
    if there is None:
        return "none: the committed ids travel"
    try:
        first = CommittedIds().all()[0]
        known = await there.lookup(subject_of(first), first.text)
    finally:
        await there.close()
    return f"{there.url} answers" + ("" if known else "; our events are not there yet: gavotte contracts push")


async def store(runtime: Runtime) -> str:
    """That the store answers."""
    events = (await runtime.store.statistics()).get("events", 0)
    return f"{runtime.settings.store.backend} answers: {count(events, 'event')}"


async def bus(runtime: Runtime) -> str:
    """That the bus answers."""
    topics = runtime.topology.topics()
    for topic in topics:
        await runtime.bus.read(topic, records_max=1)
    said = f"{runtime.settings.bus.backend} answers: {count(len(topics), 'topic')}"
    if runtime.settings.bus.backend != "kafka":
        return said
    from agents.transport import absent_topics

    absent = await absent_topics(runtime.settings, [*topics, *runtime.topology.letter_topics()])
    return f"{said}; {len(absent)}, letters included, are not made yet: gavotte topics create" if absent else said


async def tried(name: str, question: Callable[[], Awaitable[str]]) -> Finding:
    """A finding of what was answered, or of why there was no answer."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            return Finding(name, "ok", await question())
    except GavotteError as error:
        return Finding(name, "lacks", error.message, error.hint)
    except TimeoutError:
        return Finding(name, "lacks", f"no answer within {ANSWER_SECONDS_MAX:g} s", "gavotte doctor")
