"""Changes written by a command: what is taken of them, and why a task ends without."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.commands import Person, git, repository

GREEN = """import pytest

@pytest.mark.parametrize("address", ["http://ann:s3cr3t-w0rd@host.example"])
def test_one(address: str) -> None:
    assert address
"""
"""One test, and its id looks as if it held a login: recorded without it, it is still the same test after the change."""


@pytest.fixture
def ann(tmp_path: Path) -> Person:
    return Person(tmp_path / "ann")


def test_what_a_command_leaves_is_taken_or_the_reason_is_said(ann: Person) -> None:
    repo = repository(ann.home / "repo", {"test_a.py": GREEN, ".gitignore": "dist/\n", "notes.txt": "a\n"})
    wanted = {
        "true": ("failed", "the command changed nothing (exit 0)"),
        "sh -c 'echo why; exit 3'": ("failed", "the command changed nothing (exit 3): why"),
        "sh -c 'mkdir dist; echo > dist/out'": ("failed", "the command changed nothing but files that git ignores"),
        "sh -c 'echo b > notes.txt; kill -9 $$'": ("failed", "the command was cut short (exit 137)"),
        "sh -c 'yes; echo b > notes.txt'": ("failed", "the command was stopped: more than 16 MiB of output"),
        "no-such-tool .": ("failed", "--prepare 'pip install -e . pytest no-such-tool'"),
        "sh -c 'mkdir dist; echo > dist/out; echo b >> notes.txt; exit 1'": ("waiting", None),
        "chmod +x notes.txt": ("waiting", None),
    }
    with ann.starts("up"):
        tasks = {
            command: ann.told("submit", "--repo", "repo", "--author", "command", "--command", command)["task_id"]
            for command in wanted
        }
        ended = {command: ann.waits_for(tasks[command], status) for command, (status, _) in wanted.items()}
    for command, (_, said) in wanted.items():
        outcome = ended[command]["outcome"]
        assert outcome is said or said in outcome, command
        assert "\n" not in (outcome or "")
    change = ann.says("diff", tasks["sh -c 'mkdir dist; echo > dist/out; echo b >> notes.txt; exit 1'"]).stdout
    assert [line for line in change.splitlines() if line.startswith("diff")] == ["diff --git a/notes.txt b/notes.txt"]
    log = ann.says("log", tasks["chmod +x notes.txt"]).stdout
    assert "by command: chmod +x notes.txt" in log
    assert "notes.txt changed" in log
    assert git(repo, "status", "--short", "--ignored") == ""
