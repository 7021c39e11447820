"""The demo, as a newcomer runs it: everything that it says is looked up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.commands import Person, alive, git


@pytest.fixture
def ann(tmp_path: Path) -> Person:
    return Person(tmp_path / "ann")


def pids_in(text: str) -> list[int]:
    line = next(line for line in text.splitlines() if " up in " in line).split(" up in ")[0].split()
    return [int(word) for word in line if word.isdecimal()]


def test_the_demo_shows_what_it_did(ann: Person) -> None:
    done = ann.says("demo")
    assert done.returncode == 0, done.stdout + done.stderr
    text = done.stdout
    assert "SCRIPTED: answers come from a file, no AI is called" in text
    assert "ChangesRequested" in text
    assert "one unbroken lineage, 4 processes" in text
    assert "\x1b" not in text
    assert "\r" not in text
    pids = pids_in(text)
    assert len(set(pids)) == 4
    assert not any(alive(pid) for pid in pids), "agents are left behind"

    data = ann.home / ".demo"
    events = ann.lines("log", "--all", "--data", str(data))
    known = {event["event_id"] for event in events}
    assert [event["causation_id"] for event in events[:1]] == [None]
    assert all(event["causation_id"] in known for event in events[1:])
    assert len({event["correlation_id"] for event in events}) == 1
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))

    released = data / "releases" / "moneybag" / "production"
    look = [sys.executable, "-c", "import money; print(money.total(money.split(10000, 3)), money.split(-100, 3))"]
    said = subprocess.run(look, cwd=released, capture_output=True, text=True, check=True).stdout
    assert said == "10000 [-34, -33, -33]\n"
    task = ann.told("tasks", "--data", str(data))[0]
    sample = data / "sample" / "moneybag"
    assert git(sample, "rev-parse", task["branch"]).strip() == task["head_commit"]
    assert git(sample, "rev-parse", "HEAD").strip() == task["base_commit"], "the sample's own branch was moved"


def test_the_sample_is_the_same_commit_everywhere(ann: Person, tmp_path: Path) -> None:
    from console.demo import build_sample

    commits = {git(build_sample(tmp_path / name), "rev-parse", "HEAD") for name in ("one", "two")}
    assert len(commits) == 1


def test_a_folder_of_somebody_else_is_left_alone(ann: Person) -> None:
    (ann.home / ".demo").mkdir()
    (ann.home / ".demo" / "thesis.txt").write_text("years of work")
    done = ann.says("demo")
    assert done.returncode == 4
    assert ".demo is not the demo's" in done.stderr
    assert (ann.home / ".demo" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_folder_is_left_alone(ann: Person, kind: str) -> None:
    other = ann.home / "other"
    other.mkdir()
    (ann.home / ".demo").write_text("notes") if kind == "file" else (ann.home / ".demo").symlink_to(other)
    done = ann.says("demo")
    assert done.returncode == 4
    assert ".demo is not a folder" in done.stderr


@pytest.mark.parametrize(
    ("key", "code", "said"),
    [("\n", 0, "now"), ("n\n", 1, "You said no"), ("quit\nn\n", 1, "You said no"), ("\x03", 130, "")],
)
def test_a_person_at_a_terminal_is_asked(ann: Person, key: str, code: int, said: str) -> None:
    with ann.sits_at("demo") as terminal:
        terminal.sees("Enter = yes, n = no; yes in")
        assert "\x1b[" in terminal.text
        terminal.types(key)
        assert terminal.ends() == code, terminal.text
    assert said in terminal.text
    assert not any(alive(pid) for pid in pids_in(terminal.text)), "agents are left behind"
