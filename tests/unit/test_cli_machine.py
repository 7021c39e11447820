"""The commands about the data folder itself: what goes with `prune`, and when."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.test_cli import Cli, cli, repo, submit

__all__ = ["cli", "repo"]
HOUR_US = 3_600_000_000


def aged(data: Path, hours: float) -> None:
    """All records of the bus are older by some hours."""
    with closing(sqlite3.connect(data / "gavotte.db")) as connection, connection:
        connection.execute("UPDATE bus_log SET time_us = time_us - ?", (int(hours * HOUR_US),))


@pytest.mark.usefixtures("repo")
def test_pruning_follows_the_settings_and_says_what_goes(cli: Cli, tmp_path: Path) -> None:
    assert cli("prune").code == 3, "there is nothing to prune"
    submit(cli)
    submit(cli)  # the newest record always stays, for its number
    with closing(sqlite3.connect(tmp_path / "data" / "gavotte.db")) as connection, connection:
        connection.execute("INSERT INTO bus_groups SELECT 'gavotte.gone', id FROM bus_topics")  # it never read anything
    assert cli("prune", "--unread", "--json").json["bus"] == {"records": 0, "older_than_hours": 168}
    aged(tmp_path / "data", 100)
    assert cli("prune", "--unread", "--json").json["bus"]["records"] == 0
    aged(tmp_path / "data", 100)
    assert cli("prune", "--json").json["bus"]["records"] == 0, "a group has not read it"
    would = cli("prune", "--unread", "--dry-run", "--json").json
    assert would == {
        "dry_run": True,
        "bus": {"records": 1, "older_than_hours": 168},
        "journal": {"tasks": 0, "steps": 0, "older_than_days": 90},
        "bodies": {"files": 0, "bytes": 0},
    }
    (tmp_path / "data" / "gavotte.toml").write_text("[bus]\nretention_hours = 300\n[store]\njournal_days = 31\n")
    kept = cli("prune", "--unread", "--json").json
    assert (kept["bus"], kept["journal"]["older_than_days"]) == ({"records": 0, "older_than_hours": 300}, 31)
    (tmp_path / "data" / "gavotte.toml").unlink()
    said = cli("prune", "--unread")
    assert "1 record older than 7 d" in said.out
    assert "removed" in said.err
    assert [task["status"] for task in cli("tasks", "--json").json] == ["running", "running"]
    assert cli("audit", "verify").code == 0


@pytest.mark.parametrize("line", ["[store]\njournal_days = 29\n", "[bus]\nretention_hours = 0.5\n"])
def test_what_is_needed_cannot_be_set_to_go_at_once(cli: Cli, tmp_path: Path, line: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "gavotte.toml").write_text(line)
    said = cli("prune")
    assert said.code == 2
    assert "greater than or equal to" in said.err
