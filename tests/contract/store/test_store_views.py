"""Views that can be dropped, the hash chain, and what is registered: projects and further agents."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from contracts.crashpoints import observe
from contracts.errors import Conflict, Corrupt, Unavailable, Usage
from contracts.events import KillRaised
from contracts.ids import SYSTEM_TASK
from contracts.project import Project, ProjectSettings
from contracts.registry import FURTHER_ID_FIRST
from contracts.topology import Agent
from state_store.fold import FOLD_VERSION
from state_store.port import OpenWork, TaskFilter
from state_store.sqlite import verify_file
from tests.contract.store.world import LICENCE_SCHEMA, FileWorld, LicenceChecked, World, opened, plan


async def views(world: World) -> list[tuple[object, ...]]:
    return await world.sql("SELECT * FROM tasks ORDER BY task_id")


async def several_tasks(world: World) -> None:
    for upto in ("submitted", "planned", "proposed", "reviewed", "awaiting_approval", "approved", "succeeded"):
        events = await world.dance(upto=upto)
        await world.handle("licence", events[0], LicenceChecked(note=upto))
    await world.store.append([world.word(SYSTEM_TASK, KillRaised(scope="all", operator="olga"))])


# -- views ----------------------------------------------------------------------------------------------------------


async def test_views_rebuilt_are_the_same_bytes(world: World) -> None:
    await several_tasks(world)
    before = await views(world)
    assert len(before) == 7
    assert await world.store.rebuild_views() == 7
    assert await views(world) == before
    await world.sql("DELETE FROM tasks")
    assert await world.store.rebuild_views() == 7
    assert await views(world) == before


@pytest.mark.parametrize("events", [1, 2, 5, 9])
async def test_a_page_that_ends_within_a_stream_leaves_it_to_the_next(
    world: World, events: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await several_tasks(world)
    before = await views(world)
    monkeypatch.setattr("state_store.store.EVENTS_PER_REBUILD", events)
    await world.sql("UPDATE tasks SET title = 'nonsense', head_hash = ''")
    assert await world.store.rebuild_views() == 7
    assert await views(world) == before


async def test_a_rebuild_that_dies_half_way_leaves_every_view(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await several_tasks(world)
    before = await views(world)
    monkeypatch.setattr("state_store.store.EVENTS_PER_REBUILD", 12)

    def dies(name: str) -> None:
        if name == "store.rebuild_views.after":
            raise InterruptedError

    observe(dies)
    try:
        with pytest.raises(InterruptedError):
            await world.store.rebuild_views()
    finally:
        observe(None)
    assert await views(world) == before
    await world.sql("UPDATE tasks SET title = 'nonsense', task_id = 'f' || substr(task_id, 2)")
    assert await world.store.rebuild_views() == 7
    assert await views(world) == before


async def test_whatever_is_wrong_in_a_view_is_put_right(world: World) -> None:
    await world.dance(upto="awaiting_approval")
    before = await views(world)
    for wrong in (
        *("first_position = 99", "correlation_id = ''", "sequence = 1", "head_hash = ''", "fold_version = 0"),
        *(
            "status = ''",
            "step = ''",
            "owner = NULL",
            "due_us = NULL",
            "title = ''",
            "updated_at_us = 1",
            "state = '{}'",
        ),
    ):
        await world.sql(f"UPDATE tasks SET {wrong}")
        await world.store.rebuild_views()
        assert await views(world) == before, wrong


async def test_work_goes_on_without_the_views(world: World) -> None:
    submission = await world.submit()
    await world.sql("DELETE FROM tasks")
    row = await world.store.task(submission.envelope.task_id)
    assert row is not None
    assert row.state.title == "Split money without losing a cent"
    assert (await world.handle("planning", submission, plan())).status == "recorded"
    after = await views(world)
    await world.store.rebuild_views()
    assert await views(world) == after


async def test_a_view_of_a_newer_build_is_never_overwritten(world: World) -> None:
    submission = await world.submit()
    raise_version = "UPDATE tasks SET fold_version = ?, state = '{}'"
    await world.sql(raise_version, FOLD_VERSION + 1)
    newer = await views(world)
    claim = await world.claim("planning", submission)
    assert claim.state is not None
    assert claim.state.step == "submitted"  # folded from the events, not read from that row
    assert [row.state.step for row in await world.store.tasks(TaskFilter())] == ["submitted"]
    assert (await world.handle("planning", submission, plan())).status == "recorded"
    await world.store.rebuild_views()
    assert await views(world) == newer


async def test_a_view_that_lags_is_not_believed(world: World) -> None:
    submission = await world.submit()
    old = await views(world)
    (planned,) = (await world.handle("planning", submission, plan())).events
    await world.sql("DELETE FROM tasks")
    await world.sql(f"INSERT INTO tasks VALUES ({','.join('?' * len(old[0]))})", *old[0])
    claim = await world.claim("coding", planned)
    assert claim.state is not None
    assert claim.state.step == "planned"


# -- audit ----------------------------------------------------------------------------------------------------------

FORGERIES: dict[str, tuple[str, str]] = {
    "an edited payload": ("UPDATE events SET value = x'0000000001' WHERE position = 3", "content"),
    "an edited envelope": ("UPDATE events SET source = 'urn:gavotte:operator' WHERE position = 3", "content"),
    "an edited time of recording": ("UPDATE events SET recorded_at_us = 1 WHERE position = 3", "content"),
    "an edited hash": ("UPDATE events SET hash = prev_hash WHERE position = 3", "content"),
    "a deleted event": ("DELETE FROM events WHERE position = 3", "missing"),
    "a deleted first event": ("DELETE FROM events WHERE position = 1", "missing"),
    "a truncated stream": ("DELETE FROM events WHERE position = 4", "view"),
    "a stream that is gone": ("DELETE FROM events", "view"),
    "a stream that is gone with its view": ("DELETE FROM events WHERE position > 2; DELETE FROM tasks", "exported"),
    "a reordered stream": (
        (
            "UPDATE events SET sequence = -1 WHERE position = 2; UPDATE events SET sequence = 2 WHERE position = 3;"
            "UPDATE events SET sequence = 3 WHERE sequence = -1"
        ),
        "follow",
    ),
    "positions that were swapped": (
        (
            "UPDATE events SET position = -1 WHERE position = 2; UPDATE events SET position = 2 WHERE position = 3;"
            "UPDATE events SET position = 3 WHERE position = -1"
        ),
        "stands before",
    ),
    "an inserted event": (
        (
            "INSERT INTO events SELECT 9, 'forged', task_id, sequence + 1, type, version, source, correlation_id,"
            " causation_id, time_us, traceparent, tracestate, tenant, trust, recorded_at_us, hash, hash, value"
            " FROM events WHERE position = 4"
        ),
        "content",
    ),
}


@pytest.mark.parametrize("what", FORGERIES)
async def test_tampering_shows(file_world: FileWorld, what: str) -> None:
    script, complaint = FORGERIES[what]
    await file_world.dance(upto="reviewed")
    assert await file_world.store.verify_chain() == []
    exported = await file_world.store.ends()
    await file_world.database.close()
    path = file_world.folder / "gavotte.db"
    assert verify_file(path, exported) == (4, [])
    tamper(path, script)
    _, found = verify_file(path, exported)
    assert any(complaint in fault for fault in found), found


def tamper(path: Path, script: str) -> None:
    """What somebody with the file and an SQLite shell can do."""
    conn = sqlite3.connect(path)
    for (name,) in conn.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        conn.execute(f"DROP TRIGGER {name}")
    conn.executescript(script)
    conn.commit()
    conn.close()


async def test_a_whole_new_history_shows_against_the_exported_heads(tmp_path: Path) -> None:
    async with opened("file", tmp_path / "true") as honest:
        events = await honest.dance(upto="planned")
        exported = await honest.store.ends()
    async with opened("file", tmp_path / "false") as forged:
        submission = forged.submission(task_id=events[0].envelope.task_id, title="Something else")
        (first,) = await forged.store.append([submission])
        await forged.handle("planning", first, plan())
        assert await forged.store.verify_chain() == []
    _, (fault,) = verify_file(tmp_path / "false" / "gavotte.db", exported)
    assert "exported" in fault


@pytest.mark.parametrize("remedy", ["claim", "rebuild"])
async def test_what_does_not_fold_is_said_and_not_guessed(file_world: FileWorld, remedy: str) -> None:
    events = await file_world.dance(upto="planned")

    def forge(conn: sqlite3.Connection) -> None:
        conn.execute("DROP TRIGGER events_no_update")
        conn.execute("UPDATE events SET value = x'00' WHERE position = 1")
        conn.execute("DELETE FROM tasks")

    await file_world.database.write(forge)
    with pytest.raises(Corrupt, match=events[0].envelope.task_id):
        await (file_world.claim("coding", events[1]) if remedy == "claim" else file_world.store.rebuild_views())


# -- projects -------------------------------------------------------------------------------------------------------


def project(name: str = "shop", **settings: object) -> Project:
    chosen = ProjectSettings.model_validate(settings)
    return Project(
        project_id=f"id-{name}",
        name=name,
        path=f"/home/sam/{name}",
        settings=chosen,
        digest=chosen.digest,
        registered_at_us=1,
    )


async def test_projects_keep_every_version(world: World) -> None:
    first, second = project(), project(test_command=("pytest",))
    await world.store.put_project(first)
    await world.store.put_project(first)
    await world.store.put_project(second)
    await world.store.put_project(project("other"))
    for wanted in ("shop", "id-shop", "/home/sam/shop"):
        assert await world.store.project(wanted) == second
    assert await world.store.project("nothing") is None
    assert await world.store.project_version("id-shop", first.digest) == first
    assert await world.store.project_version("id-shop", "sha256:x") is None
    assert [found.name for found in await world.store.projects()] == ["other", "shop"]
    with pytest.raises(world.refusals, match="append-only"):
        await world.sql("DELETE FROM projects")
    await world.store.put_project(first)  # an operator went back: that is a new version too
    assert await world.store.project("shop") == first


async def test_two_projects_cannot_share_a_name(world: World) -> None:
    await world.store.put_project(project())
    with pytest.raises(Conflict, match="/home/sam/shop"):
        await world.store.put_project(project().model_copy(update={"project_id": "id-2", "path": "/elsewhere"}))


# -- further agents -------------------------------------------------------------------------------------------------

LICENCE = Agent("licence", consumes=("ChangeProposed",), emits=("LicenceChecked",))


async def test_a_further_agent_gets_ids_for_its_schemas_once(world: World) -> None:
    first = await world.store.register_agent(LICENCE, {("LicenceChecked", 1): LICENCE_SCHEMA})
    again = await world.store.register_agent(LICENCE, {("LicenceChecked", 1): LICENCE_SCHEMA})
    assert first == again
    (schema,) = first.schemas
    assert (schema.id, schema.type, schema.version) == (FURTHER_ID_FIRST, "LicenceChecked", 1)
    second = Agent("audit", consumes=("TaskFailed",), emits=("FailureNoted",))
    other = LICENCE_SCHEMA.replace("LicenceChecked", "FailureNoted")
    assert (await world.store.register_agent(second, {("FailureNoted", 1): other})).schemas[0].id == schema.id + 1
    assert [found.agent.role for found in await world.store.registered_agents()] == ["audit", "licence"]


async def test_a_released_schema_does_not_change(world: World) -> None:
    await world.store.register_agent(LICENCE, {("LicenceChecked", 1): LICENCE_SCHEMA})
    changed = LICENCE_SCHEMA.replace('"note"', '"remark"')
    with pytest.raises(Conflict, match="LicenceChecked v1"):
        await world.store.register_agent(LICENCE, {("LicenceChecked", 1): changed})


@pytest.mark.parametrize(
    "agent",
    [Agent("review", consumes=("ChangeProposed",), emits=()), Agent("mine", consumes=(), emits=("TaskSucceeded",))],
)
async def test_what_belongs_to_the_dance_is_not_taken(world: World, agent: Agent) -> None:
    with pytest.raises(Usage):
        await world.store.register_agent(agent, {})
    assert await world.store.registered_agents() == []


async def test_statistics_count(world: World) -> None:
    await world.dance(upto="planned")
    found = await world.store.statistics()
    assert found == {
        "events": 2,
        "tasks": {"running": 1},
        "deliveries": {"done": 1},
        "kills": 0,
        "schema_version": 1,
    }


async def test_what_has_not_ended_is_counted(world: World) -> None:
    await world.dance(upto="succeeded")
    *_, proposed = await world.dance(upto="proposed")
    assert await world.store.open_work("review") == OpenWork({"running": 1}, {})
    await world.handle("review", proposed, status="retry", due_us=world.clock.now_us + 1_000_000, attempt=1)
    assert await world.store.open_work("review") == OpenWork({"running": 1}, {"retry": 1})
    assert await world.store.open_work("coding") == OpenWork({"running": 1}, {})


async def test_closing_the_store_leaves_a_file_to_its_owner_and_ends_connections(world: World) -> None:
    submission = await world.submit()
    await world.store.close()
    await world.store.close()
    if isinstance(world, FileWorld):
        assert await world.store.event(submission.envelope.id) == submission
    else:
        with pytest.raises(Unavailable, match="closed"):
            await world.store.event(submission.envelope.id)
