"""The statements for PostgreSQL are those for SQLite, name by name and parameter by parameter."""

from __future__ import annotations

import re

import pytest

from state_store.postgres.statements import STATEMENTS, statement
from state_store.queries import SQL

LOCKS = {"lock_all", "lock_log", "lock_tasks", "server_time"}
"""What a server with many writers takes beside."""
ORDINARY = {"ordinary_commit", "ordinary_first", "ordinary_published", "ready"}
"""What is one call of a function there, and some lines of `state_store/ordinary.sql` here."""


def test_both_backends_have_the_same_statements() -> None:
    missing = sorted(set(SQL) ^ (set(STATEMENTS) - LOCKS - ORDINARY))
    assert missing == [], "each statement of queries.sql has one of its name in postgres/queries.sql, and the reverse"


@pytest.mark.parametrize("name", sorted(SQL))
def test_their_parameters_are_the_same(name: str) -> None:
    named = set(re.findall(r"(?<!:):([a-z]\w*)", SQL[name]))
    if named:
        assert set(STATEMENTS[name].places) == named
    else:
        assert len(STATEMENTS[name].places) == SQL[name].count("?")


def test_parameters_are_numbered_by_place_and_by_name() -> None:
    by_place = statement("x", "", "SELECT ?::bigint, ? FROM y WHERE z = 'a'::text")
    assert (by_place.text, by_place.arguments((1, 2))) == ("SELECT $1::bigint, $2 FROM y WHERE z = 'a'::text", [1, 2])
    by_name = statement("x", "gathered", "SELECT :b, :a, :b::text[]")
    assert (by_name.text, by_name.gathered) == ("SELECT $1, $2, $1::text[]", True)
    assert by_name.arguments({"a": 1, "b": 2, "c": 3}) == [2, 1]
