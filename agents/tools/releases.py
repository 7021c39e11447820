"""Release folders: a link that is switched in one step between versions kept beside it.

`<path>` is a link to `<path>.releases/<version>/`. What was done is written by the target itself to
`<path>.releases/ledger.jsonl`, the outside world's own record: an effect key found there has happened.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from agents.tools.trees import folder_digest
from contracts.errors import Corrupt, Fenced, GavotteError, Refused, Rejected, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

Effect = Literal["release", "confirm", "rollback"]
VERSIONS_KEPT = 5


@dataclass(frozen=True)
class LedgerLine:
    """One thing that happened at a target. `digest` is what is live since then, None for nothing.

    A release is followed by its `confirm` or its `rollback`, under `<effect_id>:confirm` or `<effect_id>:rollback`;
    one that has neither was cut short before its health was known.
    """

    effect: Effect
    effect_id: str
    task_id: str
    digest: str | None
    previous_digest: str | None
    token: int
    time_us: int
    reason: str = ""


@dataclass(frozen=True)
class Health:
    """The verdict on a release that just went live."""

    healthy: bool
    summary: str


@dataclass(frozen=True)
class Released:
    """The end of a release: live and healthy, or rolled back to `previous_digest` because of `health`."""

    line: LedgerLine
    health: Health
    rolled_back: bool
    repeated: bool = False


@dataclass(frozen=True)
class TargetState:
    """What a target says of itself. `live_digest` is None where nothing is released."""

    path: Path
    live_digest: str | None
    live_folder: Path | None
    lines: tuple[LedgerLine, ...]

    def token_of(self, task_id: str) -> int:
        """The highest fencing token seen for a task: leases, and so tokens, are per task."""
        return max((line.token for line in self.lines if line.task_id == task_id), default=0)

    def applied(self, effect_id: str) -> LedgerLine | None:
        """What happened under this effect key, or None."""
        return next((line for line in self.lines if line.effect_id == effect_id), None)

    def outcome(self, effect_id: str) -> Released | None:
        """How the release under this effect key ended; None where it has not: then `release` may be called again."""
        line, back = self.applied(effect_id), self.applied(f"{effect_id}:rollback")
        confirmed = self.applied(f"{effect_id}:confirm")
        if back is not None:
            return Released(back, Health(healthy=False, summary=back.reason), rolled_back=True, repeated=True)
        if line is None or (confirmed is None and line.effect == "release"):
            return None
        summary = confirmed.reason if confirmed else line.reason
        return Released(line, Health(healthy=True, summary=summary), rolled_back=False, repeated=True)


def check_target(path: Path) -> None:
    """Refuses a path that cannot become a release link without losing something."""
    if path.is_symlink():
        target = path.readlink()
        if target.parts[:1] != (_releases(path).name,):
            raise Refused(f"{path} is a link that gavotte did not make", hint="name a path that does not exist yet")
    elif path.is_dir() and any(path.iterdir()):
        hint = "name a path that does not exist yet, or move the folder away: the target becomes a link to a version"
        raise Refused(f"{path} is a folder with files in it", hint=hint)
    elif path.exists() and not path.is_dir():
        raise Refused(f"{path} is a file", hint="name a path that does not exist yet")


class ReleaseTarget:
    """One environment of one project on this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.releases = _releases(self.path)
        self._ledger = self.releases / "ledger.jsonl"

    def describe(self) -> TargetState:
        """What is live and what happened, for reconciling an act whose receipt is missing."""
        lines = self._lines()
        live = self._live()
        digest = next(
            (line.digest for line in reversed(lines) if line.digest and live == self._version(line.digest)), None
        )
        return TargetState(self.path, digest, live, lines)

    async def release(
        self,
        *,
        task_id: str,
        effect_id: str,
        digest: str,
        token: int,
        time_us: int,
        export: Callable[[Path], Awaitable[object]],
        health: Callable[[Path], Awaitable[Health]] | None = None,
    ) -> Released:
        """Makes the tree of `digest` live; `export` writes it into an empty folder. The same effect key acts once.

        The folder's digest must be the approved one before the switch; after it `health` is asked, and where it says
        no, or raises, the version before is live again. Fenced where a higher token was seen.
        """
        with self._writing():
            state = self.describe()
            line = state.applied(effect_id)
            if line is not None and line.digest != digest:
                hint = "an effect key belongs to one digest"
                raise Refused(f"effect {effect_id!r} already released {line.digest}", hint=hint)
            done = state.outcome(effect_id)
            if done is not None:
                return done
            self._check_token(token, state.token_of(task_id))
            if line is None:
                await self._place(digest, export)
                line = LedgerLine("release", effect_id, task_id, digest, state.live_digest, token, time_us)
                self._switch(line)
            elif state.live_digest != digest:
                # cut short before its health was known, and another release is live since: nothing to take back
                return self._settle(line, Health(healthy=True, summary="another release took its place"))
            return self._settle(line, await self._verdict(digest, health))

    async def rollback(self, *, task_id: str, effect_id: str, token: int, time_us: int, reason: str) -> LedgerLine:
        """Makes the version before the live one live again; the same effect key acts once."""
        with self._writing():
            state = self.describe()
            done = state.applied(effect_id)
            if done is not None:
                return done
            self._check_token(token, state.token_of(task_id))
            last = next(
                (
                    line
                    for line in reversed(state.lines)
                    if line.effect == "release" and line.digest == state.live_digest
                ),
                None,
            )
            if last is None:
                raise Rejected(f"{self.path} has no release to take back")
            line = LedgerLine("rollback", effect_id, task_id, last.previous_digest, last.digest, token, time_us, reason)
            self._switch(line)
            return line

    # -- inside

    def _version(self, digest: str) -> Path:
        return self.releases / digest.removeprefix("sha256:")[:16]

    def _folder_of(self, line: LedgerLine) -> Path | None:
        return self._version(line.digest) if line.digest else None

    def _live(self) -> Path | None:
        if not self.path.is_symlink():
            return None
        return self.path.parent / self.path.readlink()

    def _lines(self) -> tuple[LedgerLine, ...]:
        try:
            text = self._ledger.read_bytes()
        except FileNotFoundError:
            return ()
        # a last line without its end is an append that the machine did not survive: it never happened
        complete = text[: text.rfind(b"\n") + 1]
        try:
            return tuple(LedgerLine(**json.loads(line)) for line in complete.splitlines())
        except (ValueError, TypeError) as error:
            raise Corrupt(
                f"{self._ledger} holds a line that is not ours: {error}", hint="move the file away"
            ) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One writer at a time, over processes; every disk error becomes a sentence."""
        try:
            check_target(self.path)
            self.releases.mkdir(parents=True, exist_ok=True)
            with (self.releases / "lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._finish()
                yield
        except BlockingIOError as error:
            raise Unavailable(
                f"another release to {self.path} is under way", hint="try again when it has ended"
            ) from error
        except OSError as error:
            raise _disk_error(self.path, error) from error

    def _settle(self, line: LedgerLine, verdict: Health) -> Released:
        """Writes how a release ended; an unhealthy one gives way to the version before it."""
        if verdict.healthy:
            live = self.describe().live_digest
            self._append(
                replace(
                    line, digest=live, effect="confirm", effect_id=f"{line.effect_id}:confirm", reason=verdict.summary
                )
            )
            self._forget_old()
            return Released(line, verdict, rolled_back=False)
        back = replace(
            line,
            effect="rollback",
            effect_id=f"{line.effect_id}:rollback",
            digest=line.previous_digest,
            previous_digest=line.digest,
            reason=verdict.summary,
        )
        self._switch(back)
        return Released(back, verdict, rolled_back=True)

    def _check_token(self, token: int, seen: int) -> None:
        if token < seen:
            raise Fenced(
                f"{self.path} was released with token {seen}; {token} is stale", hint="another worker took over"
            )

    async def _place(self, digest: str, export: Callable[[Path], Awaitable[object]]) -> None:
        """Puts the version's folder in place whole, and never without the right content."""
        version = self._version(digest)
        if version.is_dir():
            if folder_digest(version) == digest:
                return
            if self._live() == version:
                raise Refused(
                    f"{version} is live and was changed by hand", hint="move the folder away and release again"
                )
            shutil.rmtree(version)
        scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=self.releases))
        try:
            scratch.chmod(0o755)
            await export(scratch)
            found = folder_digest(scratch)
            if found != digest:
                raise Refused(f"the tree to release has digest {found} and not the approved {digest}")
            _sync_tree(scratch)
            scratch.rename(version)
            _sync(self.releases)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _switch(self, line: LedgerLine) -> None:
        """The ledger says what is to be live, then one rename makes it so; `_finish` repairs a death in between."""
        self._append(line)
        self._point(line.digest)

    def _finish(self) -> None:
        """Completes the last switch of the ledger where a process died after its line and before its rename."""
        lines = self._lines()
        if self._ledger.exists():
            self._cut_torn_tail()
        if lines and self._live() != self._folder_of(lines[-1]):
            self._point(lines[-1].digest)

    def _point(self, digest: str | None) -> None:
        if digest is None:
            self.path.unlink(missing_ok=True)
        else:
            link = self.releases / f".link-{os.getpid()}"
            link.unlink(missing_ok=True)
            link.symlink_to(Path(self.releases.name) / self._version(digest).name)
            if self.path.is_dir() and not self.path.is_symlink():
                self.path.rmdir()
            link.replace(self.path)
        _sync(self.path.parent)

    def _append(self, line: LedgerLine) -> None:
        """One durable line; where the disk takes only a part of it, the part is taken back."""
        raw = (json.dumps(asdict(line), sort_keys=True) + "\n").encode()
        handle = os.open(self._ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(handle).st_size
            try:
                if os.write(handle, raw) != len(raw):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301 - met by the same repair
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)
        _sync(self.releases)

    def _cut_torn_tail(self) -> None:
        text = self._ledger.read_bytes()
        if text and not text.endswith(b"\n"):
            os.truncate(self._ledger, text.rfind(b"\n") + 1)

    async def _verdict(self, digest: str, health: Callable[[Path], Awaitable[Health]] | None) -> Health:
        live = self._live()
        if live is None or folder_digest(live) != digest:
            return Health(healthy=False, summary="the live folder does not hold the approved tree")
        if health is None:
            return Health(healthy=True, summary="the live folder holds exactly the approved tree")
        try:
            return await health(live)
        except (GavotteError, OSError) as error:
            return Health(healthy=False, summary=f"the health check failed: {error}")

    def _forget_old(self) -> None:
        """Removes versions that neither are live nor among the last released."""
        recent = [line.digest for line in self._lines() if line.digest]
        kept = {self._version(digest).name for digest in dict.fromkeys(reversed(recent[-VERSIONS_KEPT:]))}
        for folder in self.releases.iterdir():
            if folder.is_dir() and (folder.name not in kept) and folder != self._live():
                shutil.rmtree(folder, ignore_errors=True)


def _releases(path: Path) -> Path:
    return path.with_name(path.name + ".releases")


def _disk_error(path: Path, error: OSError) -> GavotteError:
    hints = {
        errno.ENOSPC: "free some space",
        errno.EROFS: "it is mounted read-only",
        errno.EACCES: "check its permissions",
    }
    hint = hints.get(error.errno or 0, "check the disk and the folder's permissions")
    return Unavailable(
        f"{path} cannot be written: {error.strerror or error}", hint=f"{hint}; what was live is still live"
    )


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_tree(folder: Path) -> None:
    for at, _, files in os.walk(folder):
        for name in files:
            _sync(Path(at) / name)
        _sync(Path(at))
