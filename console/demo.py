"""The demo: the whole dance on a bundled sample, told as it happens. Nothing is printed that was not observed."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from console.cli.output import on_terminal, put, say, styled
from console.cli.watch import put_event, put_heading
from console.harmless import clipped, harmless
from console.servers import NAMED_BY, started, unnamed
from console.words import MICRO, count, dollars, short_id
from contracts.errors import Busy, Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agents.settings import Settings
    from agents.wiring import Runtime
    from console.following import Seen
    from console.supervise import Crew
    from state_store.fold import TaskState

FOLDER: Final = ".demo"
MARKER: Final = ".gavotte-demo"
SCHEMA: Final = "gavotte_demo"
SAMPLE: Final = Path("sample", "moneybag")
TITLE: Final = "split() loses a cent: 100.00 / 3 = 99.99"
DESCRIPTION: Final = (
    "The shares of split(10000, 3) come to 99.99. Hand the left-over cents out; test_no_cent_is_lost shows it."
)
QUESTION: Final = "Deploy this to production?"
ANSWER_SECONDS: Final = 20
PATIENCE_SECONDS: Final = 120
SERVER_WORDS: Final = {"kafka": "Kafka", "postgres": "PostgreSQL"}
LOOK: Final = "import money; print(money.show(money.total(money.split(10000, 3))))"
GIT_DATE: Final = "2024-01-15T09:00:00+00:00"
DIFF_LINES_MAX: Final = 10


@dataclass(frozen=True)
class Proof:
    """What was observed of a finished run; `faults` says what was not as it should be."""

    before: str
    after: str
    events: int
    processes: int
    faults: tuple[str, ...]


async def run(folder: Path, *, yes: bool = False, bus: str = "embedded", store: str = "sqlite") -> int:
    """Build the sample, start the four, submit, watch, ask, prove. Exit code 0 only if all of it was observed."""
    environ = environment(bus, store)
    prepare_folder(folder)
    wanted = [name for name in (bus, store) if name in NAMED_BY]
    missing = unnamed(wanted, environ)
    if missing:
        say(f"Starting {' and '.join(SERVER_WORDS[name] for name in missing)} for this demo ...")
    async with started(missing) as found:
        return await dance(folder, environ | found, yes=yes, store=store, lasting=not missing)


async def dance(folder: Path, environ: dict[str, str], *, yes: bool, store: str, lasting: bool) -> int:
    """All of it with servers that are there; `lasting` says whether they still are when it is over."""
    from agents.settings import load_settings
    from agents.wiring import open_runtime
    from console.acts import enrol
    from console.supervise import Crew, posts

    repository = build_sample(folder)
    settings = load_settings(data=folder, environ=environ)
    if store == "postgres":
        environ["GAVOTTE_STORE__URL"] = await own_schema(settings)
        settings = load_settings(data=folder, environ=environ)
    await put_header(settings, folder)
    enrol(settings)
    began = time.monotonic()
    async with Crew(settings, posts(), environ=environ) as crew:
        await crew.ready()
        pids = {member.post.role: member.pid for member in crew.members}
        said = "   ".join(f"{role} {pid}" for role, pid in pids.items())
        put(f"\n  {said}      up in {time.monotonic() - began:.1f} s\n")
        runtime = await open_runtime(settings)
        try:
            task_id = await ask_for_the_fix(runtime, repository)
            seen = await told(runtime, crew, task_id, ask=on_terminal() and not yes)
            proof = prove(seen, repository, pids, crew)
        finally:
            await runtime.close()
    return put_end(folder, seen, proof, lasting=lasting)


def environment(bus: str, store: str) -> dict[str, str]:
    """Nobody's settings but, for servers, where they are and as whom to ask: topics and tables are this demo's own."""
    kept = (*(["GAVOTTE_BUS__"] if bus == "kafka" else ()), *(["GAVOTTE_STORE__"] if store == "postgres" else ()))
    inherited = os.environ.items()
    environ = {name: value for name, value in inherited if not name.startswith("GAVOTTE_") or name.startswith(kept)}
    if bus == "kafka":
        prefix = environ.get("GAVOTTE_BUS__PREFIX", "")
        environ |= {"GAVOTTE_BUS__BACKEND": bus, "GAVOTTE_BUS__PREFIX": f"{prefix}demo-{secrets.token_hex(3)}."}
    if store == "postgres":
        environ["GAVOTTE_STORE__BACKEND"] = store
    return environ


async def own_schema(settings: Settings) -> str:
    """The address of tables that are the demo's alone, empty; as with its folder, the next demo starts over."""
    from agents.record import postgres_url
    from state_store.postgres.migrations import start_over

    url = await start_over(postgres_url(settings, owner=True), SCHEMA)
    file = settings.data / "gavotte.toml"
    file.write_text(f'{file.read_text()}\n[store]\nbackend = "postgres"\nurl = "{url}"\n')  # for who looks later
    return url


def prepare_folder(folder: Path) -> None:
    """An empty folder with our mark in it; one that is not ours is never touched."""
    from console.supervise import living_roles

    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise Refused(f"{folder} is not a folder", hint="move it away, or name another with --data")
    if folder.exists() and not (folder / MARKER).exists() and any(folder.iterdir()):
        raise Refused(
            f"{folder} is not the demo's: it holds no {MARKER}", hint="move it away, or name another with --data"
        )
    if living_roles(folder / "run"):
        raise Busy(f"a demo runs on {folder} already", hint="end that one, or name another folder with --data")
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, mode=0o700)
    (folder / MARKER).write_text("Made by `gavotte demo`, which wipes this folder when it starts.\n")
    bundled = resources.files("console").joinpath("demo_script.json")
    (folder / "script.json").write_bytes(bundled.read_bytes())
    lines = ["[model]", 'provider = "scripted"', 'script = "script.json"', "", "[operator]", 'key = "operator.key"']
    (folder / "gavotte.toml").write_text("\n".join([*lines, ""]))


def build_sample(folder: Path) -> Path:
    """The bundled sample as a git repository; dates are fixed, so its commit is the same everywhere."""
    repository = folder / SAMPLE
    repository.mkdir(parents=True)
    for entry in resources.files("console").joinpath("demo_sample").iterdir():
        if entry.is_file():
            (repository / entry.name).write_bytes(entry.read_bytes())
    git(repository, "init", "--quiet", "--initial-branch=main", "--template=")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "Divide a bill among friends")
    return repository


def git(repository: Path, *arguments: str) -> None:
    """One git command on the sample, with nobody's configuration."""
    who = {"NAME": "Moneybag", "EMAIL": "moneybag@example.org", "DATE": GIT_DATE}
    env = {f"GIT_{role}_{field}": value for role in ("AUTHOR", "COMMITTER") for field, value in who.items()}
    env |= {"PATH": os.environ.get("PATH", os.defpath), "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(["git", "-C", str(repository), *arguments], env=env, capture_output=True, check=False)
    if done.returncode:
        raise Unavailable(f"git {arguments[0]} failed: {done.stderr.decode('utf-8', 'replace').strip()}")


async def put_header(settings: Settings, folder: Path) -> None:
    """What this is, and what it is not."""
    from agents.tools.sandbox import choose_sandbox

    sandbox = await choose_sandbox(settings.sandbox.kind)
    put(f"{styled('Gavotte demo', 'bold')} · four independent processes, one bus, one store, no key")
    put(f"  {'model':<8} SCRIPTED: answers come from a file, no AI is called")
    if settings.bus.backend == "kafka":
        put(f"  {'bus':<8} Kafka at {settings.bus.servers}, topics {settings.bus.prefix}*")
    if settings.store.backend == "postgres":
        put(f"  {'store':<8} PostgreSQL at {host_of(settings)}, schema {SCHEMA}")
    put(f"  {'sandbox':<8} {sandbox.name} (no network, a copy of the tree)")
    put(f"  {'data':<8} {shown_path(settings.data, folder)}")


def host_of(settings: Settings) -> str:
    """Where the database is, without the login."""
    from agents.record import postgres_url

    parts = urlsplit(postgres_url(settings))
    return f"{parts.hostname or 'a socket'}:{parts.port}" if parts.port else parts.hostname or "a socket"


def shown_path(path: Path, folder: Path) -> str:
    """A path as it was named: relative folders stay relative."""
    return str(path) if folder.is_absolute() else f"./{folder}"


async def ask_for_the_fix(runtime: Runtime, repository: Path) -> str:
    """Register the sample as its repository proposes, and submit the task."""
    from agents.projects import Proposal
    from console.submission import Wish, git_store, registry, submit
    from contracts import ids

    await registry(runtime, git_store(runtime)).add(repository, Proposal(), time_us=ids.now_us())
    made = await submit(runtime, Wish(repository=repository, author="model", title=TITLE, description=DESCRIPTION))
    return made.task_id


async def told(runtime: Runtime, crew: Crew, task_id: str, *, ask: bool) -> list[Seen]:
    """The timeline until the end, with one question in it. Raises Unavailable where nothing happens any more."""
    from contextlib import aclosing

    from console.following import follow

    found: list[Seen] = []
    async with aclosing(follow(runtime, task_id)) as events:
        while True:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    seen = await anext(events)
            except TimeoutError:
                raise Unavailable(
                    f"nothing has happened for {PATIENCE_SECONDS} s", hint=f"look into {crew.settings.logs}"
                ) from None
            found.append(seen)
            if len(found) == 1:
                put_heading(seen.state)
            put_event(seen, runtime.settings.operator_name)
            if seen.state.ended or seen.state.status == "escalated":
                return found
            if seen.recorded.envelope.type == "ApprovalRequested":
                await decide(runtime, seen.state, ask=ask)


async def decide(runtime: Runtime, state: TaskState, *, ask: bool) -> None:
    """Show the change and ask; where nobody can answer, yes is said for them, and that is said too."""
    from console import acts
    from console.cli.events import change_of, diff_text

    put()
    put_diff(await diff_text(runtime, await change_of(runtime, state.task_id, None)))
    if ask:
        approved = await answer()
    else:
        put(f"  {QUESTION} Nobody is asked here: the demo says yes.")
        approved = True
    what = await acts.asked(runtime, state.task_id)
    if approved:
        await acts.approve(runtime, what)
    else:
        await acts.deny(runtime, what, reason="the person at the demo said no")


def put_diff(diff: str) -> None:
    """The changed lines, as many as fit."""
    lines = [line for line in diff.splitlines() if line[:1] in {"+", "-"} and not line.startswith(("+++", "---"))]
    for line in lines[:DIFF_LINES_MAX]:
        put(f"  {'money.py':<10} {styled(harmless(line), 'green' if line[0] == '+' else 'red')}")
    if len(lines) > DIFF_LINES_MAX:
        put(f"  {'':<10} and {count(len(lines) - DIFF_LINES_MAX, 'line')} more")


async def answer() -> bool:
    """Yes or no, with a countdown on the line; silence is yes."""
    from console.cli.asking import ask

    for left in range(ANSWER_SECONDS, 0, -1):
        start = "\r" if left < ANSWER_SECONDS else ""
        try:
            typed = await ask(f"{start}  {QUESTION} [Enter = yes, n = no; yes in {left:>2} s] ", timeout_seconds=1)
        except TimeoutError:
            continue
        if typed is None:
            put()
        if (typed or "y").lower() in {"y", "yes"}:
            return True
        if typed is not None and typed.lower() in {"n", "no"}:
            return False
    put("yes")
    return True


def prove(seen: Sequence[Seen], repository: Path, pids: dict[str, int], crew: Crew) -> Proof:
    """Look at the world and at the record: is everything as the demo is about to say?"""
    state = seen[-1].state
    release = state.releases.get("production")
    before = looked(repository)
    after = looked(Path(release.path)) if release is not None else "not released"
    ids_so_far = {each.recorded.envelope.id for each in seen}
    causes = [each.recorded.envelope.causation_id for each in seen]
    types = [each.recorded.envelope.type for each in seen]
    wanted = {
        f"the task has {state.status}": state.step == "succeeded",
        f"before the change the sum was {before}": before == "99.99",
        f"in production the sum is {after}": after == "100.00",
        "an event names no stored cause": causes[0] is None and all(cause in ids_so_far for cause in causes[1:]),
        "there is more than one correlation": len({each.recorded.envelope.correlation_id for each in seen}) == 1,
        "no change was turned down": "ChangesRequested" in types,
        "the roles were not four processes": len(set(pids.values()) - {0}) == len(crew.members) == 4,
    }
    return Proof(
        before, after, len(seen), len(set(pids.values())), tuple(said for said, held in wanted.items() if not held)
    )


def looked(folder: Path) -> str:
    """What python says in a folder: the last line it prints."""
    env = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", LOOK]
    try:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not to be had ({type(error).__name__})"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return clipped(lines[-1], 100) if lines else "nothing"


def put_end(folder: Path, seen: Sequence[Seen], proof: Proof, *, lasting: bool) -> int:
    """What came of it, and where to look next."""
    state = seen[-1].state
    program, id_, data = program_name(), short_id(state.task_id), folder
    if state.step == "succeeded" and not proof.faults:
        took = ((state.ended_at_us or 0) - state.submitted_at_us) / MICRO
        facts = f"{proof.events} events, one unbroken lineage, {proof.processes} processes, {dollars(0)}"
        put(f"\n{styled(f'Done in {took:.1f} s.', 'green')} {facts}")
        call = 'python -c "import money; …"'
        put(f"  {'before':<7} {call}   {proof.before}")
        put(f"  {'now':<7} {'the same, in production':<{len(call)}}   {styled(proof.after, 'green')}")
    elif state.approval is not None and state.approval.decision == "denied":
        put("\nYou said no: nothing was released.")
    else:
        say(f"\n{styled('not as it should be:', 'red', sys.stderr)} {'; '.join(proof.faults)}")
        if state.outcome or state.pause:
            say(f"  {clipped(state.outcome or (state.pause.reason if state.pause else ''), 300)}")
    if lasting:
        put(f"\n{'Look:':<8} {program} log  {id_} --data {data}     every event and its cause")
        put(f"{'':<8} {program} why  {id_} --data {data}     what was awaited, and why")
    else:
        put(
            f"\n{'Look:':<8} this demo's servers ended with it; make kafka runs some that stay, for a demo to look into"
        )
    put(f'{"Yours:":<8} {program} submit --repo ~/code/app --author command --command "ruff check --fix ." --watch')
    return 0 if state.step == "succeeded" and not proof.faults else 1


def program_name() -> str:
    """How the person can call gavotte from here."""
    if shutil.which("gavotte"):
        return "gavotte"
    beside = Path(sys.executable).with_name("gavotte")
    here = Path.cwd()
    return str(beside.relative_to(here)) if beside.is_relative_to(here) else str(beside)
