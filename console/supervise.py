"""`up`: the agents as separate processes, started, watched, restarted with back-off, stopped in order.

An agent says `ready ROLE PID` on its standard output once it listens; everything else it says goes to `logs/ROLE.log`.
It dies with its supervisor, however that ends: the kernel is asked to see to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from contracts.errors import GavotteError, Unavailable, Usage
from contracts.topology import CORE_AGENTS

if TYPE_CHECKING:
    from types import TracebackType

    from agents.settings import Settings
    from embedded.liveness import Presence

BACKOFF_SECONDS: Final = 0.5
BACKOFF_SECONDS_MAX: Final = 30.0
CALM_SECONDS: Final = 60.0
"""A process that lived so long is not held against the next one."""
STILLBORN_MAX: Final = 5
"""A process that dies so often before it ever listened will not do better next time."""
READY_SECONDS: Final = 60.0
STOP_EXTRA_SECONDS: Final = 5.0
LOG_BYTES_MAX: Final = 5 * 1024 * 1024
LOG_LOOK_SECONDS: Final = 10.0
LINE_BYTES_MAX: Final = 1024 * 1024
PRESENCE: Final = "up"
PR_SET_PDEATHSIG: Final = 1

_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Post:
    """One process to be kept alive: a core role or the file of a further agent, and which of several it is."""

    role: str
    number: int = 1

    @property
    def name(self) -> str:
        """Unique in a crew, and good for a file name: `coding`, `coding-2`."""
        stem = Path(self.role).stem if self.role.endswith(".py") else self.role
        return stem if self.number == 1 else f"{stem}-{self.number}"


@dataclass
class Member:
    """The process at a post, as it is now. `pid` is 0 while there is none."""

    post: Post
    pid: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    restarts: int = 0
    stillborn: int = 0


Notice = Callable[[str, Member, str], None]
"""Told of `ready`, `died` and `gave up`, with words: of one that is ready, where its metrics are, if anywhere."""


def silent(_what: str, _member: Member, _words: str) -> None:
    """The notice for callers that watch the members themselves."""


def posts(
    roles: Sequence[str] = (), scale: Mapping[str, int] | None = None, also: Sequence[str] = ()
) -> tuple[Post, ...]:
    """What shall run; raises Usage for an unknown role."""
    known = [agent.role for agent in CORE_AGENTS]
    wanted = list(roles) or known
    for role in [*wanted, *(scale or {})]:
        if role not in known:
            raise Usage(f"no agent has the role {role!r}", hint=f"known: {', '.join(known)}; others by --also FILE")
    for file in also:
        if not Path(file).is_file():
            raise Usage(f"there is no agent file {file}", hint="give the path of a .py file")
    counts = [(role, (scale or {}).get(role, 1)) for role in wanted]
    found = [Post(role, number) for role, count in counts for number in range(1, count + 1)]
    return (*found, *(Post(str(Path(file).absolute())) for file in also))


class Crew:
    """The processes of one data folder: `async with Crew(settings, posts()) as crew`. One crew a folder (Busy)."""

    def __init__(
        self,
        settings: Settings,
        wanted: Sequence[Post],
        notice: Notice = silent,
        *,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.settings = settings
        inherited = os.environ if environ is None else environ
        self.environ = {**inherited, **settings.environment(), "GAVOTTE_LOG__STREAM": "stderr"}
        self.members = [Member(post) for post in wanted]
        self.failed = asyncio.Event()
        self.failure = ""
        self._notice = notice
        self._token = secrets.token_hex(3)  # other crews may serve the same bus
        self._opened = contextlib.ExitStack()
        self._keepers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        from embedded.liveness import Presence

        self.settings.make_folders()
        try:
            presence = self._opened.enter_context(Presence(self.settings.run, PRESENCE))
        except GavotteError as error:
            raise type(error)(
                f"agents run on {self.settings.data} already: {error.message}",
                hint="stop that one with Ctrl-C, or work on another folder with --data DIR",
            ) from None
        self._keepers = [asyncio.create_task(self._keep(member)) for member in self.members]
        self._keepers += [asyncio.create_task(self._guard(presence)), asyncio.create_task(self._rotate_logs())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._opened.close()

    async def ready(self, timeout_seconds: float = READY_SECONDS) -> None:
        """Wait until every process listens; raises Unavailable naming the one that does not."""
        waits = [asyncio.create_task(member.ready.wait()) for member in self.members]
        everyone = asyncio.create_task(asyncio.wait(waits))
        failed = asyncio.create_task(self.failed.wait())
        try:
            both: list[asyncio.Task[Any]] = [everyone, failed]
            await asyncio.wait(both, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in (*waits, everyone, failed):
                wait.cancel()
            await asyncio.gather(*waits, everyone, failed, return_exceptions=True)
        missing = [member.post.name for member in self.members if not member.ready.is_set()]
        if self.failed.is_set():
            raise Unavailable(self.failure, hint=f"look into {self.settings.logs}")
        if missing:
            raise Unavailable(
                f"{', '.join(missing)} did not start within {timeout_seconds:g} s",
                hint=f"look into {self.settings.logs}",
            )

    async def _rotate_logs(self) -> None:
        while True:
            await asyncio.sleep(LOG_LOOK_SECONDS)
            for member in self.members:
                rotate(self.settings.logs / f"{member.post.name}.log")

    async def _guard(self, presence: Presence) -> None:
        """Agents on a folder that is no longer there would work for nobody."""
        from agents.upkeep import gone

        await gone(presence)
        self.failure = f"the data folder {self.settings.data} was removed or replaced while agents ran on it"
        self.failed.set()

    async def _keep(self, member: Member) -> None:
        """Start the process, wait for its end, start it again."""
        loop = asyncio.get_running_loop()
        pause_seconds = BACKOFF_SECONDS
        while True:
            began = loop.time()
            try:
                listened, words = await self._once(member)
            except OSError as error:  # no process, no log file: it is the machine that lacks something
                listened, words = False, f"could not be started: {error.strerror or error}"
            member.restarts += 1
            member.stillborn = 0 if listened else member.stillborn + 1
            if member.stillborn >= STILLBORN_MAX:
                self._give_up(member, words)
                return
            if loop.time() - began > CALM_SECONDS:
                pause_seconds = BACKOFF_SECONDS
            self._notice("died", member, f"{words}; again in {pause_seconds:g} s")
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, BACKOFF_SECONDS_MAX)

    def _give_up(self, member: Member, words: str) -> None:
        self.failure = f"{member.post.name} does not start: {words}"
        self.failed.set()
        self._notice("gave up", member, words)

    async def _once(self, member: Member) -> tuple[bool, str]:
        """One life of the process: whether it ever listened, and how it ended."""
        path = self.settings.logs / f"{member.post.name}.log"
        rotate(path)
        with path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "agents", member.post.role, f"{self._token}-{member.post.number}"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd="/",
                env=environment_of(member.post, self.environ),
                start_new_session=True,
                limit=LINE_BYTES_MAX,
                preexec_fn=_dies_with(os.getpid()),
            )
            member.pid = process.pid
            try:
                await self._listen(process, member, log.fileno())
                code = await process.wait()
            finally:
                await self._stop(process)
                listened = member.ready.is_set()
                member.ready.clear()
                member.pid = 0
        return listened, f"{ended(code)}{last_words(path) if code > 0 else ''}"

    async def _listen(self, process: asyncio.subprocess.Process, member: Member, log: int) -> None:
        assert process.stdout is not None  # noqa: S101  it was asked for
        async for line in process.stdout:
            if line.startswith(b"ready "):
                member.ready.set()
                self._notice("ready", member, " ".join(line.decode("utf-8", "replace").split()[3:]))
            else:
                os.write(log, line)

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        """SIGTERM, a while to leave in order, then SIGKILL."""
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)  # Popen's own would reap it behind asyncio's back
        try:
            async with asyncio.timeout(self.settings.worker.stop_seconds + STOP_EXTRA_SECONDS):
                await process.communicate()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            await process.wait()


def environment_of(post: Post, environ: Mapping[str, str]) -> dict[str, str]:
    """What a process gets: who deploys asks no model, and has no key of one."""
    from agents.settings import MODEL_KEYS

    hidden = MODEL_KEYS if post.role == "deploy" else frozenset()
    return {name: value for name, value in environ.items() if name not in hidden}


def _dies_with(parent: int) -> Callable[[], None]:
    """What a child does first: it asks the kernel to end it when its parent is gone."""

    def ask() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it went before the kernel was asked
            os._exit(1)

    return ask


def rotate(path: Path) -> None:
    """Put what a log has grown to aside and let it begin anew; whoever writes it appends and need not know."""
    with contextlib.suppress(OSError):
        if path.stat().st_size <= LOG_BYTES_MAX:
            return
        aside = path.with_suffix(".log.1")
        aside.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # on a full disk the room counts more
            shutil.copyfile(path, aside)
        os.truncate(path, 0)


def ended(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with {code}"
    return f"was killed by {signal.Signals(-code).name}"


def last_words(path: Path) -> str:
    """The last line of a log, and the one before a hint, as ` (…)`."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
        if lines:
            said = lines[-2:] if lines[-1].startswith("try: ") else lines[-1:]
            return f" ({'; '.join(line[:300] for line in said)})"
    return ""


def living_agents(settings: Settings) -> list[str] | None:
    """The names of all live agent processes, `coding-host-4711`; None where they may run on machines we do not see."""
    return _living(settings.run) if settings.store.backend == "sqlite" else None


def living_roles(run_folder: Path) -> set[str]:
    """The roles of which an agent process is alive on this data folder."""
    from agents.watch import roles_of

    return roles_of(_living(run_folder))


def _living(run_folder: Path) -> list[str]:
    from embedded.liveness import living

    return [name for name in living(run_folder) if "-" in name] if run_folder.is_dir() else []
