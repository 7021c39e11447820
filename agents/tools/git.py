"""Runs git with nothing of the machine's, the user's or a repository's configuration able to start a program.

Only plumbing that executes no configured program is called, always on an explicit `--git-dir`. Transfers go by
`pack-objects` into `index-pack` or `unpack-objects`: a fetch would start `upload-pack` in the other repository, which
drops our `-c` flags and, in a partial clone, obeys the `remote.*.uploadpack` written there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from contracts.errors import GavotteError, Rejected, Retryable, TooLarge, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
    from pathlib import Path

SHA = re.compile(r"[0-9a-f]{40}")
CHUNK_BYTES = 1 << 16
STDERR_BYTES_MAX = 8192


class GitError(GavotteError):
    """A git command ended with an error; `reason` is what git said."""

    code = "git_failed"

    def __init__(self, command: str, status: int, reason: str) -> None:
        super().__init__(f"git {command} ended with {status}: {reason or 'no reason given'}")
        self.status = status
        self.reason = reason


def checked_sha(text: str) -> str:
    """The text, if it is a full object name; nothing else ever stands where git expects one."""
    if not SHA.fullmatch(text):
        raise Rejected(f"{text!r} is not a full commit id of 40 hexadecimal digits")
    return text


def environment() -> dict[str, str]:
    """The whole environment of every git call."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        # a replaced object would show reviewers another content than the one that is deployed
        "GIT_NO_REPLACE_OBJECTS": "1",
        # a partial clone would otherwise start its remote's program to fetch what is missing
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none",
        "GIT_LITERAL_PATHSPECS": "1",
    }


@dataclass(frozen=True)
class Git:
    """Git on one git directory. `hooks` is an empty folder that nobody but the operator can write."""

    git_dir: Path
    hooks: Path
    deadline_seconds: float = 120.0

    def argv(self, *arguments: str) -> list[str]:
        """The full command line of one call."""
        flags = (
            f"core.hooksPath={self.hooks}",
            "core.fsmonitor=false",
            "core.untrackedCache=false",
            "core.quotePath=false",
            f"core.attributesFile={os.devnull}",
            f"core.excludesFile={os.devnull}",
            "safe.bareRepository=explicit",
            "safe.directory=*",
            "protocol.allow=never",
            "gc.auto=0",
            "maintenance.auto=false",
        )
        return [
            "git",
            "--no-pager",
            *(part for flag in flags for part in ("-c", flag)),
            f"--git-dir={self.git_dir}",
            *arguments,
        ]

    async def run(
        self, *arguments: str, stdin: bytes = b"", extra: Mapping[str, str] | None = None, bytes_max: int = 64 << 20
    ) -> bytes:
        """What the command printed; GitError on a non-zero end, TooLarge past `bytes_max`."""
        async with self._process(arguments, extra) as process:
            output, error, _ = await asyncio.gather(
                self._read(process.stdout, bytes_max, arguments[0]), _tail(process.stderr), _feed(process.stdin, stdin)
            )
            status = await process.wait()
        if status:
            raise GitError(arguments[0], status, error)
        return output

    async def succeeds(self, *arguments: str) -> bool:
        """Whether the command ends with status 0."""
        try:
            await self.run(*arguments)
        except GitError:
            return False
        return True

    async def blobs(self, names: Sequence[str]) -> AsyncGenerator[tuple[str, bytes]]:
        """The content of each named blob, in order, through one `cat-file --batch`."""
        for name in names:
            checked_sha(name)
        if not names:
            return
        async with self._process(("cat-file", "--batch"), None) as process:
            feeding = asyncio.create_task(_feed(process.stdin, "".join(f"{name}\n" for name in names).encode()))
            try:
                assert process.stdout is not None  # noqa: S101 - it was asked for
                for name in names:
                    header = (await process.stdout.readline()).split()
                    if len(header) != 3:
                        raise GitError("cat-file", 1, f"object {name} is missing")
                    content = await process.stdout.readexactly(int(header[2]) + 1)
                    yield name, content[:-1]
                await feeding
            finally:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)

    async def send_pack(self, receiver: Git, objects: Sequence[str], *unpack: str, bytes_max: int) -> None:
        """Copies the objects into the receiver's object store; `unpack` is the receiving command."""
        reading, writing = os.pipe()
        try:
            sender = self._process(("pack-objects", "--stdout", "-q", "--no-reuse-delta"), None, stdout=writing)
            taker = receiver._process((unpack[0], f"--max-input-size={bytes_max}", *unpack[1:]), None, stdin=reading)
            async with sender as source, taker as sink:
                os.close(writing)
                os.close(reading)
                reading = writing = -1
                listing = "".join(f"{name}\n" for name in objects).encode()
                sent, taken, _, _ = await asyncio.gather(
                    _tail(source.stderr), _tail(sink.stderr), _feed(source.stdin, listing), _drain(sink.stdout)
                )
                sent_status, taken_status = await source.wait(), await sink.wait()
        finally:
            for end in (reading, writing):
                if end >= 0:
                    os.close(end)
        if taken_status and "exceeds maximum allowed size" in taken:
            raise TooLarge(
                f"the repository's files exceed {bytes_max >> 20} MiB packed",
                hint="register a smaller repository, or raise the limit",
            )
        if sent_status:
            raise GitError("pack-objects", sent_status, sent)
        if taken_status:
            raise GitError(unpack[0], taken_status, taken)

    @contextlib.asynccontextmanager
    async def _process(
        self,
        arguments: Sequence[str],
        extra: Mapping[str, str] | None,
        *,
        stdin: int | None = None,
        stdout: int | None = None,
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """A running git that is dead when the block is left, whatever the reason."""
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *self.argv(*arguments),
                stdin=pipe if stdin is None else stdin,
                stdout=pipe if stdout is None else stdout,
                stderr=pipe,
                env={**environment(), **(extra or {})},
                cwd="/",
                limit=CHUNK_BYTES * 16,
            )
        except FileNotFoundError as error:
            raise Unavailable("git is not installed", hint="install git 2.39 or newer") from error
        try:
            async with asyncio.timeout(self.deadline_seconds):
                yield process
        except TimeoutError as error:
            raise Retryable(f"git {arguments[0]} did not end within {self.deadline_seconds:g} seconds") from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)  # Popen's own would reap it behind asyncio's back
            await _drain(process.stdout)
            await _drain(process.stderr)
            if process.stdin is not None:
                process.stdin.close()
            await process.wait()

    @staticmethod
    async def _read(stream: asyncio.StreamReader | None, bytes_max: int, command: str) -> bytes:
        parts: list[bytes] = []
        size = 0
        while stream is not None and (part := await stream.read(CHUNK_BYTES)):
            size += len(part)
            if size > bytes_max:
                raise TooLarge(f"git {command} printed more than {bytes_max} bytes", hint="make the change smaller")
            parts.append(part)
        return b"".join(parts)


async def _feed(stream: asyncio.StreamWriter | None, content: bytes) -> None:
    if stream is None:
        return
    # a command that refuses early closes its input: its status says why, not this pipe
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stream.write(content)
        await stream.drain()
        stream.close()
        await stream.wait_closed()


async def _drain(stream: asyncio.StreamReader | None) -> None:
    while stream is not None and await stream.read(CHUNK_BYTES):
        pass


async def _tail(stream: asyncio.StreamReader | None) -> str:
    kept = b""
    while stream is not None and (part := await stream.read(CHUNK_BYTES)):
        kept = (kept + part)[:STDERR_BYTES_MAX]
    return kept.decode("utf-8", "replace").strip()
