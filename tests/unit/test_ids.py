"""Ids: what is derived is a pure function, a uuid, and lies beside what belongs to the same task."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from contracts import ids

TASKS = st.uuids().map(str)


@given(TASKS, st.text(), st.integers())
def test_an_id_of_a_task_is_a_uuid_that_begins_as_the_task_does(task_id: str, part: str, number: int) -> None:
    made = ids.derived_of(task_id, part, number)
    assert ids.is_uuid(made)
    assert made[:13] == task_id[:13]
    read = uuid.UUID(made)
    assert (read.version, read.variant) == (8, uuid.RFC_4122)


def test_it_is_the_same_on_any_machine() -> None:
    task_id = "0193a2f4-7c1e-7abc-8def-0123456789ab"
    assert ids.event_id(task_id, "cause", "planning", 0) == "0193a2f4-7c1e-8b00-bb12-512e2492b93c"


@given(st.lists(st.tuples(TASKS, st.text(), st.integers(0, 9)), unique=True, min_size=2))
def test_other_parts_give_another_id(parts: list[tuple[str, str, int]]) -> None:
    made = {ids.event_id(task_id, "cause", producer, index) for task_id, producer, index in parts}
    assert len(made) == len(parts)


def test_tasks_of_the_same_moment_have_events_of_their_own() -> None:
    one, other = "0193a2f4-7c1e-7abc-8def-000000000001", "0193a2f4-7c1e-7abc-8def-000000000002"
    assert ids.event_id(one, "cause", "planning", 0) != ids.event_id(other, "cause", "planning", 0)
