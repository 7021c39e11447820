"""`make setup` on machines that lack something: it says what is missing and how to get it, and touches nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDED = "sh cat cmp date dirname find flock git grep head mktemp rm sed uname wc".split()  # noqa: SIM905  reads as words


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone in a folder with a space in its name, and beside it the `bin` of a bare machine."""
    place = tmp_path / "my clone"
    (place / "deploy").mkdir(parents=True)
    shutil.copy(ROOT / "deploy" / "setup.sh", place / "deploy")
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, place)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in NEEDED:
        if found := shutil.which(name):
            (programs / name).symlink_to(found)
    return place


def program(clone: Path, name: str, text: str) -> None:
    path = clone.parent / "bin" / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def setup(clone: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [clone / "deploy" / "setup.sh", "requirements.lock"],
        env={"PATH": str(clone.parent / "bin"), **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd=clone,
    )


def test_without_git(clone: Path) -> None:
    (clone.parent / "bin" / "git").unlink()
    done = setup(clone)
    assert done.returncode == 1
    assert "git is needed" in done.stderr
    assert "apt-get install git" in done.stderr


def test_without_python(clone: Path) -> None:
    done = setup(clone)
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed; found: no python3 at all" in done.stderr


def test_with_a_python_that_is_too_old(clone: Path) -> None:
    program(clone, "python3", 'case "$1" in --version) echo Python 3.9.2;; *) exit 1;; esac')
    done = setup(clone)
    assert done.returncode == 1
    assert "found: Python 3.9.2" in done.stderr


def test_a_newer_python_is_found_by_its_name(clone: Path) -> None:
    program(clone, "python3", "exit 1")
    program(
        clone,
        "python3.12",
        'case "$*" in *"-m venv"*) echo no ensurepip; exit 1;; *-venv*) echo python3.12-venv;; esac',
    )
    done = setup(clone)
    assert done.returncode == 1
    assert "python3.12 cannot make virtual environments" in done.stderr
    assert "apt-get install python3-venv   (or python3.12-venv)" in done.stderr
    assert not (clone / ".venv").exists()


def test_a_named_python_that_is_none(clone: Path) -> None:
    done = setup(clone, GAVOTTE_PYTHON="/nowhere/python")
    assert done.returncode == 1
    assert "GAVOTTE_PYTHON=/nowhere/python is no Python 3.11" in done.stderr


def test_a_second_call_does_nothing(clone: Path) -> None:
    """With the stamp of the first, not even pip is there to be called."""
    packages = clone / ".venv" / "lib" / "python3.11" / "site-packages"
    (packages / "gavotte-0.1.0.dist-info").mkdir(parents=True)
    (clone / ".venv" / "bin").mkdir()
    for name, text in {"gavotte": "exit 1", "python": 'case "$2" in "") exit 0;; *) echo 3.11;; esac'}.items():
        path = clone / ".venv" / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    stamp = (
        os.fsdecode(clone) + "\n" + (clone / "requirements.lock").read_text() + (clone / "pyproject.toml").read_text()
    )
    (clone / ".venv" / "requirements.lock").write_text(stamp)
    done = setup(clone)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "setup  .venv ready (Python 3.11, 1 packages, 0 s)\n"
