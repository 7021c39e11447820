"""What the servers of this folder have in common: their life, how they fail, where they listen, how they run in the foreground."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, ClassVar, Final, Self, TypeVar

PORTS: Final = (15_000, 30_000)
"""Below the ephemeral ports: nothing else takes a port while its server restarts, and no client meets itself there."""
LACKING: Final = 3
"""The exit code where this machine lacks the program; `up.py` passes over it."""
RESOLVE_SECONDS: Final = 600.0
"""How long a program of others may take to come here and be unpacked."""
WATCH: Final = 'read -r _; kill -9 "$1"'
"""For a shell: however the process at the other end of its input ends, the server does not outlive it."""


class Lacking(RuntimeError):
    """This machine lacks a program that a server needs; the message names it and how to get it."""


class Failed(RuntimeError):
    """A server or one of its tools did not do what it was asked; the message ends with its own last words."""


class Server(ABC):
    """A server in a process of its own, which never outlives this one."""

    name: ClassVar[str]
    """What it is called in what is said of it."""
    start_seconds: ClassVar[float]
    stop_seconds: ClassVar[float]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    look_seconds: ClassVar[float] = 0.05

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def log(self) -> Path:
        """What it says."""

    @abstractmethod
    def environment(self) -> Mapping[str, str]:
        """The GAVOTTE_* variables with which Gavotte uses it."""

    @abstractmethod
    def start(self) -> None:
        """Start, and return when it answers. Raises Lacking and Failed."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether it answers by now."""

    @property
    def pid(self) -> int | None:
        """Its first process, while it runs."""
        return self._process.pid if self._process is not None else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def stop(self) -> None:
        """End in good order. Does nothing when it does not run."""
        if self._process is None:
            return
        self._process.send_signal(self.stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self.stop_seconds)
        self.kill()

    def kill(self) -> None:
        """End all its processes by SIGKILL, as a crash would. Does nothing when it does not run."""
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()
            self._watcher = None
        if self._process is not None:
            members = _children(self._process.pid)
            self._process.kill()
            _signal_all(members, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Stop in good order, and start on the same ports with the same data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop, and leave nothing behind that is not the caller's."""
        self.stop()

    def freeze(self) -> None:
        """Stop answering without ending, as behind a broken network; `thaw` lets it go on."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after `freeze`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            _signal_all((self._process.pid, *_children(self._process.pid)), number)

    def _launch(self, command: Sequence[str], *watching: str, **options: Any) -> None:
        """Begin the process, and a shell that ends it once this process is gone: by the script and arguments given."""
        if self._process is not None:
            raise Failed(f"the {self.name} runs already")
        script, *arguments = watching or (WATCH,)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **options,
            )
        watch = ["sh", "-c", script, "sh", str(self._process.pid), *arguments]
        self._watcher = subprocess.Popen(watch, stdin=subprocess.PIPE, start_new_session=True)

    def _wait_until_ready(self, deadline: float | None = None) -> None:
        """Wait for the first answer; whatever comes in between ends the process, and is raised."""
        deadline = deadline or time.monotonic() + self.start_seconds
        with contextlib.ExitStack() as unless_ready:
            unless_ready.callback(self.kill)
            while not self._is_ready():
                if self._process is None or self._process.poll() is not None:
                    raise Failed(f"the {self.name} ended while starting: {self._last_words()}")
                if time.monotonic() > deadline:
                    words = self._last_words()
                    raise Failed(f"the {self.name} did not answer within {self.start_seconds:g} s: {words}")
                time.sleep(self.look_seconds)
            unless_ready.pop_all()

    def _last_words(self) -> str:
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""


S = TypeVar("S", bound=Server)


def _signal_all(members: Sequence[int], number: signal.Signals) -> None:
    for member in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, number)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


# -- programs of others ---------------------------------------------------------------------------------------------------


def java(heap_mib: int) -> list[str]:
    """The command that begins a server on Java, with options for a small machine.

    A serial collector and no second compiler: it starts in half the time.
    """
    return [program("java"), f"-Xmx{heap_mib}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]


def program(name: str) -> str:
    """The path of a program that servers on Java and their tools need; raises Lacking."""
    found = shutil.which(name)
    if found is None:
        package = "maven" if name == "mvn" else "openjdk-17-jre-headless"
        needed = f"{name} was not found, which Kafka and the schema registry need"
        raise Lacking(f"{needed} (Debian, Ubuntu: apt-get install {package})")
    return found


def run(name: str, *arguments: str, timeout_seconds: float = 60.0) -> None:
    """Run a program to its end; raises Lacking, and Failed with its last words."""
    command = [program(name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    if done.returncode != 0:
        raise Failed(f"{name} ended with {done.returncode}: {(done.stdout + done.stderr)[-3000:]}")


def maven(*goal: str) -> None:
    """Have Maven fetch something; raises likewise."""
    run("mvn", "-q", "-B", *goal, timeout_seconds=RESOLVE_SECONDS)


def fetched(name: str, fetch: Callable[[Path], None]) -> Path:
    """The folder of this name in the cache of this user; where it is not there yet, `fetch` fills it, once for all."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gavotte"
    folder = cache / name
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "fetching.lock").open("w") as lock:  # one at a time: Maven's own store is not made for two
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            fresh = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=cache))
            try:
                fetch(fresh)
                fresh.chmod(0o755)
                fresh.rename(folder)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
    return folder


# -- where they listen ----------------------------------------------------------------------------------------------------


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    for _ in range(200):
        port = random.randrange(*PORTS)  # noqa: S311  # no secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise Failed("no port is free")


def if_free(port: int) -> int | None:
    """The port, where a server could listen on it now."""
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return port
    return None


# -- in the foreground ----------------------------------------------------------------------------------------------------


def end_when_told() -> None:
    """SIGINT and SIGTERM end this program with code 0; while it ends, further ones change nothing."""

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        for each in both:
            signal.signal(each, lambda *_: None)  # of one that is on its way already
        signal.pthread_sigmask(signal.SIG_BLOCK, both)
        sys.exit(0)

    both = (signal.SIGINT, signal.SIGTERM)
    for each in both:
        signal.signal(each, end)


def foreground(name: str, start: Callable[[contextlib.ExitStack], S], said: Callable[[S], str]) -> int:
    """Run one server until SIGINT or SIGTERM, and print the settings that use it; returns the exit code.

    `start` enters what has to be ended into the stack; `said` is a word about the server that runs.
    """
    end_when_told()
    with contextlib.ExitStack() as stack:
        try:
            server = start(stack)
        except (Lacking, Failed) as error:
            print(f"{name}  {error}", file=sys.stderr)
            return LACKING if isinstance(error, Lacking) else 1
        for variable, value in server.environment().items():
            print(f"{variable}={value}", flush=True)
        print(f"{name}  {said(server)}; Ctrl-C ends it", file=sys.stderr)
        signal.pause()
    return 0
