"""Registering projects: what a repository proposes, what the operator decides, and the environment made for its tests.

A repository's `gavotte.toml` is only ever a proposal. It is read at `project add` and `project trust`, acts of the
operator; what it says later changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import signal
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from agents.settings import MODEL_KEYS
from agents.tools.releases import check_target
from contracts.errors import NotFound, Refused, Rejected, Retryable
from contracts.project import Approval, Project, ProjectSettings, project_id_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agents.tools.workspace import GitStore

PROPOSAL_FILE = "gavotte.toml"
PROPOSAL_BYTES_MAX = 64 * 1024
LINE_BYTES_MAX = 64 * 1024


class ProjectStore(Protocol):
    """Where projects are kept; the state store fulfils it."""

    async def put_project(self, project: Project) -> None:
        """Stores or replaces the project of this id."""

    async def project(self, reference: str) -> Project | None:
        """The project of this id, name or path."""

    async def projects(self) -> Sequence[Project]:
        """All projects."""


class Proposal(BaseModel):
    """Settings that somebody names, the repository or the flags; None where nothing is said."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    test: tuple[str, ...] | None = None
    environment: str | None = None
    prepare: str | None = None
    staging: str | None = None
    production: str | None = None
    health: tuple[str, ...] | None = None
    approval: Approval | None = None
    test_timeout_seconds: int | None = Field(default=None, ge=1, le=24 * 3600)

    @field_validator("test", "health", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        """A command may be one line, split as a shell does, or a list of words."""
        if isinstance(value, str):
            return tuple(shlex.split(value))
        return tuple(value) if isinstance(value, list) else value

    def named(self) -> dict[str, Any]:
        """What is said, by the names of `ProjectSettings`."""
        values = self.model_dump(exclude_none=True)
        if "test" in values:
            values["test_command"] = values.pop("test")
        return values


@dataclass(frozen=True)
class Difference:
    """One setting in which the repository's proposal differs from what is pinned."""

    setting: str
    pinned: Any
    proposed: Any


@dataclass(frozen=True)
class Registry:
    """Registers projects: `data` is the data folder, `detect` finds a tree's test command."""

    git: GitStore
    store: ProjectStore
    data: Path
    detect: Callable[[Path], tuple[str, ...] | None]

    async def add(self, path: Path, flags: Proposal, *, time_us: int, follow_repository: bool = True) -> Project:
        """Registers the repository at `path`, or pins new settings where it is registered; flags win over its proposal.

        With `follow_repository=False` (an unknown path given to `submit`) the repository's proposal is not read.
        """
        facts = await self.git.inspect(path)
        await self.git.import_commit(facts.path, facts.head_commit)
        proposal = await self.proposal(facts.head_commit) if follow_repository else Proposal()
        known = await self.store.project(project_id_for(facts.path))
        name = (
            known.name
            if known
            else _free_name(facts.path.name, {p.name for p in await self.store.projects()}, facts.path)
        )
        settings = await self._settings(facts.path, name, facts.head_commit, {**proposal.named(), **flags.named()})
        project = Project(
            project_id=project_id_for(facts.path),
            name=name,
            path=str(facts.path),
            settings=settings,
            digest=settings.digest,
            environment=resolve_environment(settings, facts.path),
            registered_at_us=known.registered_at_us if known else time_us,
        )
        await self.store.put_project(project)
        return project

    async def proposal(self, commit: str) -> Proposal:
        """What the repository proposes at a commit in the store; nothing where it has no `gavotte.toml`."""
        try:
            content = await self.git.read_file(commit, PROPOSAL_FILE, PROPOSAL_BYTES_MAX)
        except NotFound:
            return Proposal()
        return read_proposal(content)

    async def differences(self, project: Project, commit: str) -> tuple[Difference, ...]:
        """What the repository proposes at `commit` and the operator has not pinned."""
        pinned = project.settings.model_dump()
        proposed = _absolute((await self.proposal(commit)).named(), Path(project.path))
        return tuple(
            Difference(name, pinned[name], value) for name, value in sorted(proposed.items()) if pinned[name] != value
        )

    async def trust(self, project: Project, commit: str) -> Project:
        """Pins what the repository proposes at `commit`; what it does not name stays as it was."""
        values = {
            **project.settings.model_dump(),
            **_absolute((await self.proposal(commit)).named(), Path(project.path)),
        }
        settings = ProjectSettings(**values)
        _check_targets(settings)
        trusted = project.with_settings(settings, resolve_environment(settings, Path(project.path)))
        await self.store.put_project(trusted)
        return trusted

    async def prepare(
        self,
        project: Project,
        commit: str,
        show: Callable[[str], None],
        *,
        time_us: int,
        deadline_seconds: float = 1800,
    ) -> Project:
        """Runs the project's `prepare` command once, outside any sandbox, in a fresh virtual environment, and pins that.

        The command sees a checkout of `commit` as its folder, the environment's `bin` first in PATH and its path as
        GAVOTTE_ENVIRONMENT; each line it prints goes to `show`.
        """
        if not project.settings.prepare:
            raise Rejected(
                f"project {project.name!r} has no prepare command", hint="gavotte project add PATH --prepare CMD"
            )
        folder = self.data / "environments" / project.name / str(time_us)
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        run = _Preparation(folder, show, deadline_seconds)
        try:
            await run.run((sys.executable, "-m", "venv", str(folder)), self.data)
            async with self.git.worktree(commit) as tree:
                await run.run(("sh", "-c", project.settings.prepare), tree)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        settings = project.settings.model_copy(update={"environment": str(folder)})
        prepared = project.with_settings(settings, str(folder))
        await self.store.put_project(prepared)
        return prepared

    async def _settings(self, top: Path, name: str, commit: str, said: dict[str, Any]) -> ProjectSettings:
        values = _absolute(said, top)
        if "test_command" not in values:
            async with self.git.worktree(commit) as tree:
                values["test_command"] = await asyncio.to_thread(self.detect, tree) or ()
        for target in ("staging", "production"):
            values.setdefault(target, str(self.data.absolute() / "releases" / name / target))
        settings = ProjectSettings(**values)
        _check_targets(settings)
        return settings


def read_proposal(content: bytes) -> Proposal:
    """The `[project]` table of a `gavotte.toml`; Rejected with the place of the mistake."""
    try:
        table = tomllib.loads(content.decode("utf-8")).get("project", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Rejected(f"{PROPOSAL_FILE} cannot be read: {error}", hint="mend the file and commit it") from error
    if not isinstance(table, dict):
        raise Rejected(f"{PROPOSAL_FILE}: 'project' is not a table", hint="write [project] on a line of its own")
    return proposal_from(table, PROPOSAL_FILE)


def proposal_from(values: dict[str, Any], origin: str) -> Proposal:
    """A checked proposal; Rejected names the setting and the known ones. `origin` is a file or `the command line`."""
    try:
        return Proposal.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        setting = ".".join(str(part) for part in first["loc"]) or "the value"
        known = ", ".join(Proposal.model_fields)
        reason = "is unknown" if first["type"] == "extra_forbidden" else f"is wrong: {first['msg']}"
        raise Rejected(f"{origin}: setting {setting!r} {reason}", hint=f"known settings: {known}") from error
    except ValueError as error:
        raise Rejected(f"{origin}: a command has an open quote: {error}") from error


def resolve_environment(settings: ProjectSettings, top: Path) -> str:
    """The folder whose `bin` runs the tests: the one named, the project's `.venv`, else the one gavotte runs in."""
    if settings.environment is not None:
        folder = Path(settings.environment)
        if not (folder / "bin").is_dir():
            raise Refused(
                f"the environment {folder} has no bin folder", hint="name a virtual environment, or use --prepare"
            )
        return str(folder)
    own = top / ".venv"
    return str(own) if (own / "bin" / "python").exists() else sys.prefix


def _check_targets(settings: ProjectSettings) -> None:
    if settings.staging == settings.production:
        raise Refused("staging and production are one folder", hint="give each a folder of its own")
    for target in (settings.staging, settings.production):
        if target is not None:
            check_target(Path(target))


def _absolute(values: dict[str, Any], top: Path) -> dict[str, Any]:
    """Folders named relative to the repository become absolute; a link at a release target is kept as it is."""
    folders = {"environment", "staging", "production"} & values.keys()
    return values | {name: os.path.normpath(top / Path(values[name]).expanduser()) for name in folders}


def _free_name(wanted: str, taken: set[str], path: Path) -> str:
    """A name that no other project has; it names folders, so it is plain."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", wanted).strip(".-") or "project"
    return plain if plain not in taken else f"{plain}-{project_id_for(path)[:8]}"


@dataclass(frozen=True)
class _Preparation:
    folder: Path
    show: Callable[[str], None]
    deadline_seconds: float

    async def run(self, command: Sequence[str], at: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if name not in MODEL_KEYS}
        env = {**kept, "VIRTUAL_ENV": str(self.folder), "GAVOTTE_ENVIRONMENT": str(self.folder)}
        env["PATH"] = f"{self.folder / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=at,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=LINE_BYTES_MAX,
        )
        try:
            async with asyncio.timeout(self.deadline_seconds):
                await self._show_lines(process.stdout)
                status = await process.wait()
        except TimeoutError as error:
            raise Retryable(f"prepare did not end within {self.deadline_seconds:g} seconds") from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if status:
            raise Refused(f"prepare ended with {status}: {shlex.join(command)}", hint="its output above says why")

    async def _show_lines(self, stream: asyncio.StreamReader | None) -> None:
        while stream is not None and (part := await stream.read(LINE_BYTES_MAX)):
            for line in part.decode("utf-8", "replace").splitlines():
                self.show(line)
