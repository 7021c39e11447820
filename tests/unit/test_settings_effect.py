"""Every setting changes something: none is read nowhere, and those of the sandbox reach the walls."""

from __future__ import annotations

import ast
import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest

from agents import sections as sections_module
from agents import settings as settings_module
from agents.settings import Settings, load_settings
from agents.tools import sandbox
from agents.tools.evidence import choose_project_sandbox, project_environment, run_project_tests
from agents.tools.sandbox import Limits, Ran
from agents.tools.toolbox import Resources
from agents.wiring import limits_of, open_runtime, resources_of
from contracts.errors import Refused
from contracts.project import Project, ProjectSettings

ROOT = Path(__file__).resolve().parent.parent.parent
ROOMS = ("agents", "bus", "console", "contracts", "dlq_tools", "embedded", "evals", "state_store")
OWN = (Path(settings_module.__file__), Path(sections_module.__file__))
Names = set[str]


def attributes(node: ast.AST) -> Names:
    """The names behind the dots in a piece of code."""
    return {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def methods() -> dict[str, dict[str, Names]]:
    """Class -> method -> names that it reads, of the settings' own classes."""
    return {
        node.name: {each.name: attributes(each) for each in node.body if isinstance(each, ast.FunctionDef)}
        for path in OWN
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    }


def keys() -> Iterator[tuple[str, str, str]]:
    """(section, setting, class of the section) of what can have more than one value."""
    for section, outer in Settings.model_fields.items():
        kind: Any = outer.annotation
        for name, field in getattr(kind, "model_fields", {}).items():
            if len(get_args(field.annotation)) != 1:
                yield section, name, kind.__name__


def read_somewhere() -> set[str]:
    """Settings whose section and name meet in one function of the product, or in a method that the product calls."""
    own = methods()
    used = [attributes(f) for room in ROOMS for path in (ROOT / room).rglob("*.py") for f in functions(path)
            if path not in OWN]  # fmt: skip
    everywhere: Names = set().union(*used)
    used += [names for method, names in own["Settings"].items() if method in everywhere]
    found = set()
    for section, name, kind in keys():
        readers = {name} | {method for method, names in own[kind].items() if name in names}
        if any(section in names and names & readers for names in used):
            found.add(f"{section}.{name}")
    return found


def test_each_setting_is_read_somewhere() -> None:
    forgotten = {f"{section}.{name}" for section, name, _ in keys()} - read_somewhere()
    assert sorted(forgotten) == [], "a setting that nobody reads is a promise that nobody keeps"


def chosen(tmp_path: Path, **values: object) -> Settings:
    return load_settings(
        data=tmp_path / "data", environ={f"GAVOTTE_SANDBOX__{k.upper()}": str(v) for k, v in values.items()}
    )


def test_each_setting_of_the_sandbox_moves_its_limit(tmp_path: Path) -> None:
    plain = limits_of(chosen(tmp_path))
    moved = {}
    for name, value in {"wall_seconds": 7, "memory_mib": 99, "processes": 9, "disk_mib": 33, "output_kib": 3}.items():
        limits = limits_of(chosen(tmp_path, **{name: value}))
        moved[name] = {f.name for f in fields(Limits) if getattr(limits, f.name) != getattr(plain, f.name)}
    assert moved == {
        "wall_seconds": {"wall_seconds", "cpu_seconds"},
        "memory_mib": {"memory_bytes"},
        "processes": {"processes"},
        "disk_mib": {"disk_bytes", "file_bytes"},
        "output_kib": {"output_bytes"},
    }


def project_at(path: Path, **values: Any) -> Project:
    pinned = ProjectSettings(**values)
    return Project(project_id="p", name="p", path=str(path), settings=pinned, digest=pinned.digest, registered_at_us=0)


def test_the_shorter_time_counts(tmp_path: Path) -> None:
    resources = Resources.__new__(Resources)
    for cap, asked, taken in ((10, 300, 10), (3600, 300, 300), (3600, 1, 1)):
        object.__setattr__(resources, "limits", Limits(wall_seconds=cap))
        limits = resources.limits_of(project_at(tmp_path, test_timeout_seconds=asked))
        assert (limits.wall_seconds, limits.cpu_seconds) == (taken, taken)


def test_a_run_never_takes_longer_than_its_task_may(tmp_path: Path) -> None:
    resources = Resources.__new__(Resources)
    object.__setattr__(resources, "limits", Limits(wall_seconds=300.0))
    project = project_at(tmp_path, test_timeout_seconds=200)
    assert [resources.limits_of(project, most).wall_seconds for most in (60, 250, 0)] == [60.0, 200.0, 1.0]


async def resources_with(tmp_path: Path, **values: object) -> Resources:
    """What the wiring hands to the tools of an agent under these settings."""
    runtime = await open_runtime(chosen(tmp_path, **values))
    try:
        return resources_of(runtime)
    finally:
        await runtime.close()


EFFECTS = {
    "wall_seconds": (1, "import time; time.sleep(60)"),
    "memory_mib": (128, "len(bytearray(300 << 20))"),
    "processes": (4, "import threading as t\nfor _ in range(20): t.Thread(target=__import__('time').sleep, args=(.3,)).start()"),
    "disk_mib": (16, "for n in range(4): open(f'f{n}', 'wb').write(bytes(8 << 20))"),
    "output_kib": (1, "print('x' * 5000)"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(EFFECTS))
async def test_a_run_feels_each_setting(name: str, tmp_path: Path) -> None:
    value, program = EFFECTS[name]
    (tmp_path / "tree").mkdir()
    project = project_at(tmp_path)

    async def ran(resources: Resources) -> Ran:
        walls = await choose_project_sandbox(resources)
        return await walls.run(
            ["python", "-c", program],
            tree=tmp_path / "tree",
            environment=project_environment(project),
            limits=resources.limits_of(project),
        )

    found = await ran(await resources_with(tmp_path, **{name: value}))
    assert found.exit_code != 0 or found.output_truncated, found.output
    if name == "wall_seconds":
        assert found.timed_out
    else:  # and without the setting all is well
        assert (found := await ran(await resources_with(tmp_path))).exit_code == 0, found.output
        assert not found.output_truncated


def slow_repository(repository: Path) -> Path:
    repository.mkdir()
    (repository / "test_slow.py").write_text("import time\ndef test_slow() -> None:\n    time.sleep(60)\n")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "-qm", "A"]):
        subprocess.run(["git", "-C", str(repository), *words], check=True)
    return repository


async def test_the_tests_of_a_project_run_under_the_settings(tmp_path: Path) -> None:
    repository = slow_repository(tmp_path / "repository")
    resources = await resources_with(tmp_path, wall_seconds=2)
    facts = await resources.git.inspect(repository)
    await resources.git.import_commit(facts.path, facts.head_commit)
    project = project_at(repository, test_command=("python", "-m", "pytest", "-q"))
    assert (await run_project_tests(resources, project, facts.head_commit)).timed_out


def test_whoever_runs_code_names_its_limits() -> None:
    faults = []
    for path in (ROOT / "agents").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                named = {word.arg for word in node.keywords}
                runs = "environment" in named and "tree" in named and ast.unparse(node.func).endswith(".run")
                if (runs or ast.unparse(node.func) == "run_tests") and "limits" not in named:
                    faults.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert faults == [], "give it `resources.limits_of(project)`"


@pytest.mark.parametrize("kind", ["bubblewrap", "landlock"])
async def test_the_kind_that_is_set_is_taken_or_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_surveyed", {})
    resources = await resources_with(tmp_path, kind=kind)
    with contextlib.suppress(Refused):  # where this machine has it not
        assert (await choose_project_sandbox(resources)).name.startswith(kind)
    monkeypatch.setattr(sandbox, "_surveyed", {})

    async def missing() -> sandbox.Sandbox:
        raise Refused("not there")

    monkeypatch.setattr(sandbox, f"find_{kind}", missing)
    with pytest.raises(Refused, match=f"{kind}, which is set, does not hold: not there"):
        await choose_project_sandbox(resources)
