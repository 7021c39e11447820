"""Where output goes: pipes whose reader leaves, full disks, plain locales, folders that cannot be written."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.commands import FIX, GAVOTTE, Person, repository


@pytest.fixture
def ann(tmp_path: Path) -> Person:
    person = Person(tmp_path / "ann")
    path = repository(person.home / "größe repo")
    person.told("submit", "--repo", str(path), "--patch", "-", "--title", "größe \u202e └", stdin=FIX)
    return person


def run(person: Person, *words: str, stdout: int) -> tuple[int, str]:
    done = subprocess.run([*GAVOTTE, *words], stdout=stdout, stderr=subprocess.PIPE, env=person.environ, check=False)
    return done.returncode, done.stderr.decode()


def test_a_reader_that_leaves_is_no_error(ann: Person) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert run(ann, "log", "--all", "--json", stdout=writing) == (141, "")
    finally:
        os.close(writing)


def test_a_full_disk_is_said(ann: Person) -> None:
    with Path("/dev/full").open("wb") as full:
        code, said = run(ann, "log", "--all", stdout=full.fileno())
    assert code == 5
    assert said.startswith("error: No space left on device\n")


def test_a_database_that_cannot_grow_is_said_and_loses_nothing(ann: Person) -> None:
    limited = ["sh", "-c", 'ulimit -f 1 && exec "$@"', "sh", *GAVOTTE, "cancel", ann.told("tasks")[0]["task_id"]]
    done = subprocess.run(limited, capture_output=True, env=ann.environ, check=False)
    assert done.returncode == 5, done
    assert done.stderr.startswith(b"error: ")
    assert [event["type"] for event in ann.lines("log", "--all")] == ["TaskSubmitted"]


def test_a_plain_locale_gets_escapes(ann: Person) -> None:
    ann.environ |= {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = ann.says("tasks")
    assert done.returncode == 0
    assert "gr\\xf6\\xdfe \\u202e \\u2514" in done.stdout


def test_a_folder_that_cannot_be_written_is_named(ann: Person) -> None:
    done = ann.says("submit", "--repo", "größe repo", "--patch", "-", "--data", "/proc/gavotte", stdin=FIX)
    assert done.returncode == 5
    assert "the data folder /proc/gavotte cannot be written" in done.stderr


def test_it_works_from_any_folder(ann: Person, tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").write_text("raise SystemExit('the wrong agents')")
    done = ann.says("tasks", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
