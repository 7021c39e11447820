"""The commands about the machine and the data folder: what goes with `prune` and when, what the doctor sees."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

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


def findings(cli: Cli) -> dict[str, dict[str, str]]:
    said = cli("doctor", "--json")
    return {found["name"]: found for found in json.loads(said.out)}


@pytest.mark.usefixtures("repo")
def test_the_doctor_sees_that_the_clock_was_set_back(cli: Cli, tmp_path: Path) -> None:
    submit(cli)
    with closing(sqlite3.connect(tmp_path / "data" / "gavotte.db")) as connection, connection:
        connection.execute("DROP TRIGGER events_no_update")
        connection.execute("UPDATE events SET recorded_at_us = recorded_at_us + ?", (3 * HOUR_US,))
    assert "from now: this machine's clock was set back" in findings(cli)["clock"]["finding"]


def test_the_doctor_sees_limits_and_places_that_cannot_be(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (findings(cli)["limits"]["verdict"], findings(cli)["data"]["verdict"]) == ("ok", "ok")
    with monkeypatch.context() as machine:
        machine.setattr(resource, "getrlimit", lambda _: (100, 100))
        assert findings(cli)["limits"]["hint"] == "ulimit -n 1024"
    (tmp_path / "data").mkdir(mode=0o700)
    there = os.statvfs(tmp_path)
    fields = {name: getattr(there, name) for name in dir(there) if name.startswith("f_")}
    for changed, words in (
        ({"f_bavail": 1}, "agents wait for room, nothing is lost"),
        ({"f_files": 9, "f_favail": 0}, "can hold no more files"),
        ({"f_flag": os.ST_RDONLY}, "cannot be written"),
    ):
        with monkeypatch.context() as machine:
            machine.setattr(os, "statvfs", lambda _, now=fields | changed: SimpleNamespace(**now))
            found = findings(cli)["data"]
            assert (found["verdict"], words in found["finding"], bool(found["hint"])) == ("lacks", True, True)
            assert cli("doctor").code == 1
    (tmp_path / "file").write_text("")
    said = cli("doctor", "--json", "--data", str(tmp_path / "file"))
    assert (said.code, "is not a folder" in said.out) == (1, True)
