"""Exported ends of the record: a forger with the file, the code and time computes a perfect chain, and is found."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from contracts.authority import OperatorKey
from state_store.audit import GENESIS, chained_hash, recorded
from state_store.queries import SQL
from tests.unit.test_cli import Cli, cli, repo, submit

__all__ = ["cli", "repo"]
COLUMNS = (
    "event_id, type, version, task_id, correlation_id, causation_id, time_us, source, traceparent, tracestate, tenant,"
    " trust, value, sequence, position, recorded_at_us, prev_hash, hash"
)

Forgery = Callable[[sqlite3.Connection, list[str]], object]


_made: list[tuple[Path, list[str]]] = []
"""The folder of the first test with what `tasks` made in it: the others start from a copy."""


@pytest.fixture
def tasks(cli: Cli, repo: Path, tmp_path: Path) -> list[str]:
    """Three tasks with two events each, the ends exported to a place outside."""
    del repo
    if _made:
        first, found = _made[0]
        shutil.copytree(first, tmp_path, dirs_exist_ok=True)
        return found
    found = [submit(cli, "--json").json["task_id"] for _ in range(3)]
    for task in found:
        assert cli("cancel", task).code == 0
    said = cli("audit", "export", "--to", "ends.json")
    assert "6 events of 3 streams" in said.out
    assert cli("audit", "verify", "--against", "ends.json").code == 0
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    kept = tmp_path.with_name(f"{tmp_path.name}.made")
    shutil.copytree(tmp_path, kept)
    _made.append((kept, found))
    return found


def forge(database: Path, forgery: Forgery, tasks: list[str]) -> None:
    """Change the file, then make all that follows from it fit: positions, sequences, hashes, views."""
    with closing(sqlite3.connect(database)) as connection, connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        forgery(connection, tasks)
        order = connection.execute("SELECT position FROM events ORDER BY position").fetchall()
        for position, (old,) in enumerate(order, 1):
            connection.execute("UPDATE events SET position = ? WHERE position = ?", (position, old))
        connection.execute("DELETE FROM tasks WHERE task_id NOT IN (SELECT task_id FROM events)")
        for (task,) in connection.execute("SELECT DISTINCT task_id FROM events").fetchall():
            rechain(connection, task)


def rechain(connection: sqlite3.Connection, task: str) -> None:
    hash_, sequence = GENESIS, 0
    rows = connection.execute(f"SELECT {COLUMNS} FROM events WHERE task_id = ? ORDER BY position", (task,)).fetchall()
    connection.execute("UPDATE events SET sequence = -position WHERE task_id = ?", (task,))
    for sequence, row in enumerate(rows, 1):
        event = recorded(row)
        previous = hash_
        hash_ = chained_hash(previous, event.envelope, sequence, event.recorded_at_us, event.value)
        fields = (sequence, previous, hash_, event.position)
        connection.execute("UPDATE events SET sequence = ?, prev_hash = ?, hash = ? WHERE position = ?", fields)
    connection.execute("UPDATE tasks SET sequence = ?, head_hash = ? WHERE task_id = ?", (sequence, hash_, task))


def swap(connection: sqlite3.Connection, one: int, other: int) -> None:
    for old, new in ((one, -1), (other, one), (-1, other)):
        connection.execute("UPDATE events SET position = ? WHERE position = ?", (new, old))


def insert_task(connection: sqlite3.Connection, tasks: list[str]) -> None:
    """A task that was never there, between the others."""
    connection.execute("UPDATE events SET position = -position - 1 WHERE position > 1")
    connection.execute("UPDATE events SET position = -position WHERE position < 0")
    names = COLUMNS.replace("event_id, type", "'forged', type").replace(
        "task_id,", "'0192b3c4-0000-7000-8000-000000000001',"
    )
    connection.execute(
        f"INSERT INTO events ({COLUMNS}) SELECT {names.replace('position', '2')} FROM events WHERE task_id = ? LIMIT 1",
        (tasks[0],),
    )


PERFECT: dict[str, Forgery] = {
    "an edit": lambda c, _: c.execute("UPDATE events SET value = CAST(value || x'00' AS BLOB) WHERE position = 1"),
    "another author": lambda c, _: c.execute("UPDATE events SET source = 'urn:gavotte:operator' WHERE position = 1"),
    "another time": lambda c, _: c.execute("UPDATE events SET recorded_at_us = recorded_at_us + 1 WHERE position = 6"),
    "the last event cut off": lambda c, _: c.execute("DELETE FROM events WHERE position = 6"),
    "all ends cut off": lambda c, _: c.execute("DELETE FROM events WHERE sequence > 1"),
    "a task taken out": lambda c, tasks: c.execute("DELETE FROM events WHERE task_id = ?", (tasks[1],)),
    "everything taken out": lambda c, _: c.execute("DELETE FROM events"),
    "an event taken out of a stream": lambda c, _: c.execute("DELETE FROM events WHERE position = 1"),
    "a stream in another order": lambda c, _: swap(c, 1, 4),
    "tasks in another order": lambda c, _: swap(c, 1, 2),
    "a task put in": insert_task,
}


@pytest.mark.parametrize("name", PERFECT)
def test_a_perfect_forgery_shows_against_the_export(cli: Cli, tasks: list[str], tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    forge(copy / "gavotte.db", PERFECT[name], tasks)
    alone = cli("--data", "copy", "audit", "verify")
    assert alone.code == 0, f"the forgery is not perfect: {alone.out}"
    before = (copy / "gavotte.db").read_bytes()
    found = cli("--data", "copy", "audit", "verify", "--against", "ends.json")
    assert found.code == 1
    assert "export" in found.out
    again = cli("--data", "copy", "audit", "export", "--to", "ends.json")
    assert again.code == 1
    assert "nothing was signed" in again.err
    assert cli("audit", "verify", "--against", "ends.json").code == 0, "the proof is still the old one"
    assert (copy / "gavotte.db").read_bytes() == before, "nothing was mended on the way"


def test_what_comes_after_the_export_is_no_fault(cli: Cli, tasks: list[str]) -> None:
    assert len(tasks) == 3
    submit(cli)
    said = cli("audit", "verify", "--against", "ends.json", "--json").json
    assert (said["events"], said["wrong"], said["against"]["events"], said["against"]["operator"]) == (7, [], 6, "ann")
    assert "7 events of 4 streams" in cli("audit", "export", "--to", "ends.json").out
    assert json.loads(cli("audit", "export").out)["events"] == 7


def changed(path: Path, **fields: Any) -> Path:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return path


@pytest.mark.usefixtures("tasks")
def test_an_export_that_was_changed_proves_nothing(cli: Cli, tmp_path: Path) -> None:
    document = json.loads((tmp_path / "ends.json").read_text())
    task = next(iter(document["heads"]))
    for fields in (
        {"heads": {**document["heads"], task: [1, "0" * 64]}},
        {"events": 5},
        {"made_at": "2020-01-01T00:00:00Z"},
    ):
        shutil.copy(tmp_path / "ends.json", tmp_path / "other.json")
        said = cli("audit", "verify", "--against", str(changed(tmp_path / "other.json", **fields)))
        assert said.code == 4
        assert "changed since" in said.err
    mallory = OperatorKey(bytes(32))
    unsigned = {name: value for name, value in document.items() if name not in {"key", "signature"}}
    (tmp_path / "other.json").write_text(json.dumps(mallory.sign_document(unsigned)))
    assert "unknown key" in cli("audit", "verify", "--against", "other.json").err
    assert cli("audit", "verify", "--against", "other.json", "--key", mallory.public).code == 0
    (tmp_path / "keys").write_text(f"# known\n{document['key']}\n")
    assert cli("audit", "verify", "--against", "ends.json", "--key", "keys").code == 0
    assert cli("audit", "verify", "--against", "ends.json", "--key", mallory.public).code == 4
    assert cli("audit", "verify", "--against", "ends.json", "--key", "nonsense").code == 2


@pytest.mark.usefixtures("tasks")
def test_what_cannot_be_read_is_said(cli: Cli, tmp_path: Path) -> None:
    assert cli("audit", "verify", "--against", "none.json").code == 3
    for text in ("", "[]", "{}", '{"format": 1}', "\x00", "[" * 100_000):
        (tmp_path / "bad.json").write_text(text)
        said = cli("audit", "verify", "--against", "bad.json")
        assert (said.code, "bad.json" in said.err) == (2, True)
    changed(tmp_path / "ends.json", format="gavotte.audit.v2")
    assert "newer gavotte" in cli("audit", "verify", "--against", "ends.json").err
    assert cli("audit", "export", "--to", "nowhere/ends.json").code == 5
    assert "lies in the data folder" in cli("audit", "export", "--to", str(tmp_path / "data" / "ends.json")).err
    assert cli("--data", "none", "audit", "verify").code == 3
    (tmp_path / "copy" / "gavotte.db").write_bytes(b"SQLite format 3\0" + bytes(4096))
    assert cli("--data", "copy", "audit", "verify").code == 1
    (tmp_path / "copy" / "gavotte.db").write_text("no database at all, but some text " * 20)
    assert "damaged" in cli("--data", "copy", "audit", "verify").err
    with closing(sqlite3.connect(tmp_path / "empty.db")) as connection:
        connection.execute("CREATE TABLE x (y)")
    shutil.copy(tmp_path / "empty.db", tmp_path / "copy" / "gavotte.db")
    assert "not a whole record" in cli("--data", "copy", "audit", "verify").err


def test_the_columns_are_those_of_the_store() -> None:
    assert COLUMNS.replace(" ", "") in SQL["tail"].replace(" ", "").replace("\n", "")
