"""A repository proposes, the operator decides, and what was decided is pinned."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from agents.projects import Difference, Proposal, Registry, _Preparation, proposal_from, read_proposal
from agents.tools.workspace import GitStore
from contracts.errors import GavotteError, Refused, Rejected, Retryable
from contracts.project import Project, ProjectSettings, project_id_for

IDENTITY = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@x", "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@x"}
TOML = b"""
[project]
test = "python -m pytest -q"
staging = "../site/staging"
approval = "risky"
health = ["sh", "-c", "test -f app.py"]
"""


class MemoryProjects:
    """Projects by id; found by id, name or path."""

    def __init__(self) -> None:
        self.held: dict[str, Project] = {}

    async def put_project(self, project: Project) -> None:
        self.held[project.project_id] = project

    async def project(self, reference: str) -> Project | None:
        return next((p for p in self.held.values() if reference in {p.project_id, p.name, p.path}), None)

    async def projects(self) -> Sequence[Project]:
        return list(self.held.values())


def git(folder: Path, *arguments: str) -> str:
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_GLOBAL": os.devnull, **IDENTITY}
    return subprocess.run(
        ["git", *arguments], cwd=folder, env=env, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(folder: Path, **files: bytes) -> str:
    if not folder.exists():
        folder.mkdir(parents=True)
        git(folder, "init", "-q", "-b", "main")
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "m")
    return git(folder, "rev-parse", "HEAD")


def detect(tree: Path) -> tuple[str, ...] | None:
    return ("python", "-m", "pytest") if (tree / "test_a.py").exists() else None


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(GitStore(tmp_path / "data" / "git"), MemoryProjects(), tmp_path / "data", detect)


async def test_defaults_are_safe(registry: Registry, tmp_path: Path) -> None:
    commit(tmp_path / "my app", test_a__py=b"", gavotte__toml=TOML)
    project = await registry.add(tmp_path / "my app", Proposal(), time_us=5, follow_repository=False)
    assert project.name == "my-app"
    assert project.settings == ProjectSettings(
        test_command=("python", "-m", "pytest"),
        staging=str(tmp_path / "data/releases/my-app/staging"),
        production=str(tmp_path / "data/releases/my-app/production"),
    )
    assert project.settings.approval == "always"
    assert project.environment == sys.prefix
    assert await registry.store.project(project.project_id) == project


async def test_the_proposal_is_pinned_and_flags_win(registry: Registry, tmp_path: Path) -> None:
    commit(tmp_path / "app", gavotte__toml=TOML)
    project = await registry.add(tmp_path / "app", Proposal(approval="never"), time_us=5)
    assert project.settings.test_command == ("python", "-m", "pytest", "-q")
    assert project.settings.approval == "never"
    assert project.settings.staging == str(tmp_path / "site" / "staging")
    assert project.digest == project.settings.digest


async def test_what_the_repository_says_later_changes_nothing_until_trusted(registry: Registry, tmp_path: Path) -> None:
    commit(tmp_path / "app", gavotte__toml=TOML)
    project = await registry.add(tmp_path / "app", Proposal(), time_us=5)
    head = commit(tmp_path / "app", gavotte__toml=b'[project]\napproval = "never"\ntest = "true"\n')
    await registry.git.import_commit(tmp_path / "app", head)
    assert await registry.store.project("app") == project
    assert await registry.differences(project, head) == (
        Difference("approval", "risky", "never"),
        Difference("test_command", ("python", "-m", "pytest", "-q"), ("true",)),
    )
    trusted = await registry.trust(project, head)
    assert trusted.digest != project.digest
    assert (trusted.settings.approval, trusted.settings.staging) == ("never", project.settings.staging)
    assert await registry.differences(trusted, head) == ()
    assert await registry.store.project("app") == trusted


async def test_two_folders_of_one_name_are_two_projects(registry: Registry, tmp_path: Path) -> None:
    for parent in ("a", "b"):
        commit(tmp_path / parent / "app", f=b"1")
    first = await registry.add(tmp_path / "a" / "app", Proposal(), time_us=1)
    second = await registry.add(tmp_path / "b" / "app", Proposal(), time_us=2)
    assert first.name != second.name
    assert first.settings.production != second.settings.production
    again = await registry.add(tmp_path / "a" / "app", Proposal(approval="risky"), time_us=3)
    assert (again.name, again.project_id, again.registered_at_us) == (first.name, first.project_id, 1)


async def test_the_environment_is_found_or_refused(registry: Registry, tmp_path: Path) -> None:
    commit(tmp_path / "app", f=b"1")
    (tmp_path / "app" / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "app" / ".venv" / "bin" / "python").write_text("")
    assert (await registry.add(tmp_path / "app", Proposal(), time_us=1)).environment == str(tmp_path / "app" / ".venv")
    with pytest.raises(Refused, match="no bin folder"):
        await registry.add(tmp_path / "app", Proposal(environment="nowhere"), time_us=1)


async def test_release_targets_are_checked(registry: Registry, tmp_path: Path) -> None:
    commit(tmp_path / "app", f=b"1")
    with pytest.raises(Refused, match="one folder"):
        await registry.add(tmp_path / "app", Proposal(staging="../x", production="../x"), time_us=1)
    with pytest.raises(Refused, match="files in it"):
        await registry.add(tmp_path / "app", Proposal(production="."), time_us=1)
    assert await registry.store.projects() == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[project", "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"project = 1", "not a table"),
        (b"[project]\ntests = 'x'", "'tests' is unknown"),
        (b"[project]\napproval = 'sometimes'", "'approval' is wrong"),
        (b"[project]\ntest = [1]", "test.0"),
        (b"[project]\ntest = 'a \"b'", "'test' is wrong"),
        (b"[project]\ntest_timeout_seconds = 0", "test_timeout_seconds"),
    ],
)
def test_mistakes_in_a_proposal_are_named(content: bytes, words: str) -> None:
    with pytest.raises(Rejected) as refused:
        read_proposal(content)
    assert words in refused.value.message
    assert refused.value.hint


def test_a_file_of_other_tables_proposes_nothing() -> None:
    assert read_proposal(b"[log]\nlevel = 'info'\n").named() == {}
    assert proposal_from({"test": "a 'b c'"}, "the command line").named() == {"test_command": ("a", "b c")}


async def test_a_broken_file_stops_the_registration(registry: Registry, tmp_path: Path) -> None:
    commit(tmp_path / "app", gavotte__toml=b"[project]\nfoo = 1\n")
    with pytest.raises(Rejected, match="foo"):
        await registry.add(tmp_path / "app", Proposal(), time_us=1)
    await registry.add(tmp_path / "app", Proposal(), time_us=1, follow_repository=False)


async def test_prepare_makes_an_environment_and_shows_its_output(registry: Registry, tmp_path: Path) -> None:
    head = commit(tmp_path / "app", f=b"seen by the command\n")
    command = 'cat f && test -x "$GAVOTTE_ENVIRONMENT/bin/python" && command -v python'
    project = await registry.add(tmp_path / "app", Proposal(prepare=command), time_us=1)
    shown: list[str] = []
    prepared = await registry.prepare(project, head, shown.append, time_us=77)
    assert "seen by the command" in shown
    assert shown[-1] == f"{prepared.environment}/bin/python"
    assert prepared.environment == str(tmp_path / "data" / "environments" / "app" / "77")
    assert await registry.store.project("app") == prepared
    assert prepared.digest == prepared.settings.digest


async def test_a_prepare_that_fails_leaves_nothing(registry: Registry, tmp_path: Path) -> None:
    head = commit(tmp_path / "app", f=b"1")
    project = await registry.add(tmp_path / "app", Proposal(), time_us=1)
    with pytest.raises(Rejected, match="no prepare command"):
        await registry.prepare(project, head, print, time_us=1)
    project = await registry.add(tmp_path / "app", Proposal(prepare="echo reason; exit 3"), time_us=1)
    shown: list[str] = []
    with pytest.raises(Refused, match="ended with 3"):
        await registry.prepare(project, head, shown.append, time_us=2)
    assert shown == ["reason"]
    assert list((tmp_path / "data" / "environments" / "app").iterdir()) == []
    assert await registry.store.project("app") == project


async def test_a_prepare_without_end_is_ended_with_its_children(tmp_path: Path) -> None:
    shown: list[str] = []
    command = ("sh", "-c", "sleep 600 & echo $!; wait")
    with pytest.raises(Retryable, match="did not end"):
        await _Preparation(tmp_path / "env", shown.append, 0.5).run(command, tmp_path)
    while Path(f"/proc/{shown[0]}").exists() and "Z" not in Path(f"/proc/{shown[0]}/stat").read_text():
        await asyncio.sleep(0.01)


async def test_bad_repositories_are_refused(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(GavotteError, match="no folder"):
        await registry.add(tmp_path / "absent", Proposal(), time_us=1)


def test_a_project_is_bound_to_its_settings(tmp_path: Path) -> None:
    settings = ProjectSettings(test_command=("a",))
    values = {"project_id": project_id_for(tmp_path), "name": "n", "path": "/p", "registered_at_us": 1}
    project = Project(**values, settings=settings, digest=settings.digest)  # type: ignore[arg-type]  # mixed values
    assert Project.model_validate_json(project.model_dump_json()) == project
    with pytest.raises(ValueError, match="digest"):
        Project.model_validate({**project.model_dump(), "digest": "sha256:0"})
    assert ProjectSettings(test_command=("b",)).digest != settings.digest
    (tmp_path / "link").symlink_to(tmp_path)
    assert project_id_for(tmp_path / "link") == project_id_for(tmp_path)
