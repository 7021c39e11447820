"""The store's statements: all are used, all say what for, and the hot ones never walk a whole table."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from state_store.queries import SCHEMA, SQL

ROOM = Path(__file__).resolve().parents[2] / "state_store"

HOT = (
    "context",
    "count_open_deliveries",
    "count_open_tasks",
    "delivery_exists",
    "delivery_forgive",
    "delivery_published",
    "earlier_begun",
    "earlier_open",
    "event_by_id",
    "head",
    "lease_of",
    "open_effect",
    "open_of_task",
    "overdue_tasks",
    "spent",
    "step_by_key",
    "steps_of_delivery",
    "stream_upto",
    "view_update",
)
"""Asked with every delivery, step or sweep: with a million events they must not slow down."""


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as conn:
        conn.executescript(SCHEMA)
        yield conn


def plan(conn: sqlite3.Connection, name: str) -> list[str]:
    statement = SQL[name]
    names = set(re.findall(r"(?<!:):(\w+)", statement))
    values = dict.fromkeys(names, 1) if names else [1] * statement.count("?")
    return [row[3] for row in conn.execute(f"EXPLAIN QUERY PLAN {statement}", values)]


def test_every_statement_is_valid_and_used() -> None:
    code = "".join(path.read_text() for path in ROOM.glob("*.py"))
    used = set(re.findall(r'"(\w+)"', code))
    assert sorted(set(SQL) - used) == []
    asked = re.findall(r'\btx\.(?:each|insert|one|row|rows|run)\(\s*"(\w+)"(?: if [^"]* else "(\w+)")?', code)
    assert sorted({name for names in asked for name in names if name} - set(SQL)) == []


def test_every_statement_says_what_for() -> None:
    text = (ROOM / "queries.sql").read_text()
    silent = re.findall(r"^-- name: (\w+)\n(?!--)", text, re.MULTILINE)
    assert silent == []


def test_every_statement_compiles(connection: sqlite3.Connection) -> None:
    for name in SQL:
        plan(connection, name)


@pytest.mark.parametrize("name", HOT)
def test_what_is_asked_all_the_time_walks_no_table(connection: sqlite3.Connection, name: str) -> None:
    walks = [line for line in plan(connection, name) if line.startswith("SCAN ")]
    small = re.compile(r"SCAN (json_each|CONSTANT ROW|\(subquery-|kills)")
    assert [walk for walk in walks if not small.match(walk)] == []


@pytest.mark.parametrize("name", ["open_of_role", "lift_parked"])
def test_open_deliveries_are_found_by_their_index(connection: sqlite3.Connection, name: str) -> None:
    assert any("deliveries_open" in line for line in plan(connection, name))


def test_the_schema_can_be_run_again(connection: sqlite3.Connection) -> None:
    connection.executescript(SCHEMA)
    assert connection.execute(SQL["fact"], ("schema_version",)).fetchone() == ("1",)
