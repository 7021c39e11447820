"""One contained run: the steward is started, listened to under caps, and ended with all it started."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from agents.tools import confinement
from agents.tools.changes import SMALLER, Changed, LeftBehind, read_stream, refusal
from agents.tools.environment import Environment
from contracts.errors import Refused

REPORT_BYTES_MAX = 16 << 20
STREAM_SLACK_BYTES = 4 << 20
DRAIN_FACTOR = 16  # output past the cap is thrown away up to this many caps, then the command is ended
ENDED = 137  # the exit code of what was killed
GRACE_SECONDS = 15.0  # for the steward to end and clean up what it started


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use. Memory holds for each process and, looked at a few times a second, for all together."""

    wall_seconds: float = 300.0
    cpu_seconds: int = 300
    memory_bytes: int = 2 << 30
    processes: int = 256
    file_bytes: int = 64 << 20
    disk_bytes: int = 256 << 20
    output_bytes: int = 1 << 20
    changes_bytes: int = 32 << 20


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Ran:
    """How a contained command ended.

    `exit_code` is the shell's (128 + n after signal n; 137 where the harness ended it). `output` is standard output and
    error as they came, bounded, without control characters. `stopped` says which limit the harness ended it at.
    `changed` and `deleted` hold paths relative to the tree, only where changes were asked for. `report` holds the bytes
    of the report file, if the command wrote one.
    """

    exit_code: int
    timed_out: bool
    output: str
    output_truncated: bool
    duration_ms: int
    stopped: str = ""
    changed: dict[str, Changed] = field(default_factory=dict)
    deleted: tuple[str, ...] = ()
    report: bytes | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One run's arguments, as every backend gets them."""

    argv: tuple[str, ...]
    tree: Path
    environment: Environment
    limits: Limits
    env: dict[str, str]
    collect: bool
    report: str | None


class Run:
    """One steward: started, listened to, ended."""

    def __init__(self, job: Job, command: list[str], config: dict[str, Any], fds: list[int]) -> None:
        self.job, self.command, self.config, self.fds = job, command, config, fds
        self.output = _Output(job.limits.output_bytes)
        self.stream = bytearray()
        self.stream_bytes_max = REPORT_BYTES_MAX + STREAM_SLACK_BYTES + (job.limits.changes_bytes if job.collect else 0)
        self.overflow = asyncio.Event()

    async def ran(self) -> Ran:
        began = time.monotonic()
        with contextlib.ExitStack() as opened:
            config_fd = memory_file(json.dumps(self.config).encode(), opened)
            control_read, control_write = pipe(opened)
            life_read, life_write = pipe(opened)
            process = await asyncio.create_subprocess_exec(
                *self.command, str(config_fd), str(control_write.fileno()), str(life_read.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={},  # bubblewrap's own environment can be read from inside; secrets must not be in it
                pass_fds=(config_fd, control_write.fileno(), life_read.fileno(), *self.fds),
                start_new_session=True,
            )  # fmt: skip
            control_write.close()
            life_read.close()
            listening = [
                asyncio.create_task(self._read_output(process)),
                asyncio.create_task(self._read_control(control_read)),
            ]
            try:
                timed_out = await self._wait(process)
            finally:
                await asyncio.shield(asyncio.ensure_future(self._end(process, life_write, listening)))
        return self._result(began, timed_out=timed_out)

    async def _wait(self, process: asyncio.subprocess.Process) -> bool:
        """Until the steward ends, the time is up, or too much came out. True if the time was up."""
        ended = asyncio.create_task(process.wait())
        overflow = asyncio.create_task(self.overflow.wait())
        try:
            done, _ = await asyncio.wait(
                {ended, overflow}, timeout=self.job.limits.wall_seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            ended.cancel()
            overflow.cancel()
        return not done

    async def _end(
        self, process: asyncio.subprocess.Process, life_write: FileIO, listening: list[asyncio.Task[None]]
    ) -> None:
        """No process is left afterwards. In a PID namespace a kill is enough; on the host the steward ends the others."""
        life_write.close()
        if process.returncode is None and self.config["pid_namespace"]:
            _kill(process)
        try:
            await asyncio.wait_for(process.wait(), GRACE_SECONDS)
        except TimeoutError:
            _kill(process)
            await process.wait()
        _, late = await asyncio.wait(listening, timeout=2.0)
        for task in late:
            task.cancel()

    async def _read_output(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101 - it was asked for as a pipe
        while chunk := await process.stdout.read(1 << 16):
            self.output.add(chunk)
            if self.output.total > DRAIN_FACTOR * self.job.limits.output_bytes:
                self.overflow.set()

    async def _read_control(self, pipe: FileIO) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            while chunk := await reader.read(1 << 18):
                self.stream += chunk
                if len(self.stream) > self.stream_bytes_max:
                    self.overflow.set()
                    return
        finally:
            transport.close()

    def _result(self, began: float, *, timed_out: bool) -> Ran:
        killed = timed_out or self.overflow.is_set()
        if len(self.stream) > self.stream_bytes_max:
            raise refusal(f"more than {self.job.limits.changes_bytes} bytes of changes", hint=SMALLER)
        flood = f"more than {DRAIN_FACTOR * self.job.limits.output_bytes >> 20} MiB of output"
        left = LeftBehind({"exit_code": ENDED, "stopped": "" if timed_out else flood}, None, {}, ())
        if not killed:
            left = self._left_behind()
        output, truncated = self.output.text()
        stopped = str(left.status.get("stopped") or "")
        if stopped:
            output += f"\n[stopped: {stopped}]\n"
        return Ran(
            exit_code=ENDED if stopped else int(left.status["exit_code"]),
            timed_out=timed_out,
            output=output,
            output_truncated=truncated,
            duration_ms=int((time.monotonic() - began) * 1000),
            stopped=stopped,
            changed=left.changed,
            deleted=left.deleted,
            report=left.report,
        )

    def _left_behind(self) -> LeftBehind:
        """The steward's answer. None at all: the walls did not stand. None after the start: the command ended its sandbox."""
        started = self.stream.startswith(confinement.STARTED)
        answer = bytes(self.stream[len(confinement.STARTED) :] if started else self.stream)
        if started and not answer:
            return LeftBehind({"exit_code": ENDED, "stopped": "the command ended its own sandbox"}, None, {}, ())
        if not answer:
            raise Refused(
                f"the sandbox did not come up: {self.output.text()[0].strip()[-500:] or 'it said nothing'}",
                hint="gavotte doctor says what this machine lacks",
                code="sandbox_failed",
            )
        left = read_stream(answer, self.job.tree)
        if "refused" in left.status:
            raise Refused(f"the command was not run: {left.status['refused']}", code="sandbox_failed")
        if "excess" in left.status:
            raise refusal(str(left.status["excess"]), hint=SMALLER)
        return left


def _kill(process: asyncio.subprocess.Process) -> None:
    """End it; by its number, for `process.kill` would reap it behind asyncio's back."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)


class _Output:
    """The first and the last half of what a command says, and nothing between."""

    def __init__(self, bytes_max: int) -> None:
        self.half = bytes_max // 2
        self.head = bytearray()
        self.tail = bytearray()
        self.total = 0

    def add(self, chunk: bytes) -> None:
        self.total += len(chunk)
        room = self.half - len(self.head)
        if room > 0:
            self.head += chunk[:room]
            chunk = chunk[room:]
        self.tail += chunk
        if len(self.tail) > 2 * self.half:
            del self.tail[: len(self.tail) - self.half]

    def text(self) -> tuple[str, bool]:
        """The text with control characters made visible, and whether some is missing."""
        tail = self.tail[-self.half :]
        missing = self.total - len(self.head) - len(tail)
        middle = f"\n[... {missing} bytes left out ...]\n" if missing else ""
        return harmless(self.head) + middle + harmless(tail), bool(missing)


# Control characters, line separators, and the marks that turn or hide text on a screen.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")


def harmless(raw: bytes | bytearray) -> str:
    """Text that can be printed on a terminal: colours are left out, what else steers one is spelled out."""
    text = _COLOUR.sub("", raw.decode("utf-8", "replace").replace("\r\n", "\n"))
    return _HARMFUL.sub(lambda found: ascii(found[0])[1:-1], text)


def pipe(opened: contextlib.ExitStack) -> tuple[FileIO, FileIO]:
    """Both ends as objects, for a number that is closed twice may by then be another run's."""
    read, write = os.pipe()
    return opened.enter_context(FileIO(read, "rb")), opened.enter_context(FileIO(write, "wb"))


def memory_file(content: bytes, opened: contextlib.ExitStack) -> int:
    file = opened.enter_context(FileIO(os.memfd_create("gavotte"), "r+b"))
    file.write(content)
    file.seek(0)
    return file.fileno()
