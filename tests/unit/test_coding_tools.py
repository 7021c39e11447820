"""The tools of coding on a real repository: what they find and show, and that a rerun takes what was recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agents.session import Session
from agents.tools.coding_tools import (
    HITS_IN_FILE_MAX,
    CodingTools,
    EditRequest,
    EditsOnBase,
    FilesRequest,
    ReadRequest,
    SearchRequest,
)
from agents.tools.drafts import Draft, Edit
from agents.tools.toolbox import Resources
from agents.tools.workspace import GitStore
from contracts.authority import Keyring
from state_store.port import Recorded
from tests.acceptance.commands import git, repository
from tests.contract.store.world import World, opened

FILES = {
    "money.py": "def split(cents):\n    return cents\n",
    "docs/money.md": "Shares.\n",
    "docs/long.md": "Split it.\n" * 40,
    "old.py": "split = None\n",
    "blob.bin": "\x00split\n",
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened("inline", tmp_path / "store") as made:
        yield made


@pytest.fixture
async def store(tmp_path: Path) -> GitStore:
    path = repository(tmp_path / "repo", FILES)
    made = GitStore(tmp_path / "git", work=tmp_path / "work")
    await made.import_commit(path, git(path, "rev-parse", "HEAD").strip())
    return made


async def tools_of(world: World, event: Recorded, store: GitStore, base: str, *scope: str) -> CodingTools:
    """The tools as the next worker has them, after the one before has died."""
    holder = f"worker-{len(world.dead)}"
    world.dead.add(f"worker-{len(world.dead) - 1}")
    claim = await world.claim("planning", event)
    assert claim.state is not None
    delivery = await world.delivery("planning", event, holder=holder)
    session = Session(world.store, delivery, claim.state, None, claim.steps)
    nobody: Any = None
    resources = Resources(store, world.codec, nobody, Path("/nowhere"), Keyring())
    tools = CodingTools(session, resources)
    tools.draft = Draft(base, scope or None)
    return tools


def base_of(tmp_path: Path) -> str:
    return git(tmp_path / "repo", "rev-parse", "HEAD").strip()


async def test_search_sees_names_lines_and_the_draft(world: World, store: GitStore, tmp_path: Path) -> None:
    tools = await tools_of(world, await world.submit(), store, base_of(tmp_path))
    found = await tools.search(SearchRequest(tree="1", text="SPLIT"))
    assert [(hit.path, hit.line) for hit in found.hits if hit.path != "docs/long.md"] == [
        ("blob.bin", 1),
        ("money.py", 1),
        ("old.py", 1),
    ]
    assert len([hit for hit in found.hits if hit.path == "docs/long.md"]) == HITS_IN_FILE_MAX
    await tools.accept(Edit(path="old.py", delete=True))
    await tools.accept(Edit(path="money.py", find="return cents", replace="return [cents]  # split"))
    await tools.accept(Edit(path="split_all.py", replace="x = 1\n"))
    found = await tools.search(SearchRequest(tree="2", text="split"))
    assert {hit.path for hit in found.hits} == {"blob.bin", "docs/long.md", "money.py"}
    assert found.hits[1].text == "    return [cents]  # split"
    assert found.names == ("split_all.py",)
    below = await tools.search(SearchRequest(tree="2", text="s", path="docs/"))
    assert {hit.path for hit in below.hits} == {"docs/money.md", "docs/long.md"}
    assert not (await tools.search(SearchRequest(tree="2", text="no such text"))).hits


async def test_reading_shows_parts_of_files_as_they_are_now(world: World, store: GitStore, tmp_path: Path) -> None:
    tools = await tools_of(world, await world.submit(), store, base_of(tmp_path))
    part = await tools.read(ReadRequest(tree="1", path="docs/long.md", first=39, lines=5))
    assert (part.text, part.first, part.total) == ("Split it.\n" * 2, 39, 40)
    await tools.accept(Edit(path="old.py", delete=True))
    await tools.accept(Edit(path="docs/money.md", find="Shares", replace="All shares"))
    assert (await tools.read(ReadRequest(tree="2", path="docs/money.md"))).text == "All shares.\n"
    assert "was deleted by an edit" in (await tools.read(ReadRequest(tree="2", path="old.py"))).problem
    assert "there is no file" in (await tools.read(ReadRequest(tree="2", path="../secret"))).problem


async def test_files_of_patterns_are_shown(world: World, store: GitStore, tmp_path: Path) -> None:
    tools = await tools_of(world, await world.submit(), store, base_of(tmp_path))
    found = await tools.read_files(FilesRequest(commit=tools.draft.base, paths=("docs/*.md", "gone.py", "money.py")))
    assert list(found.texts) == ["docs/long.md", "docs/money.md", "money.py"]


async def test_a_change_with_a_new_and_a_deleted_file_is_committed(
    world: World, store: GitStore, tmp_path: Path
) -> None:
    base = base_of(tmp_path)
    tools = await tools_of(world, await world.submit(), store, base)
    edits = (
        Edit(path="old.py", delete=True),
        Edit(path="new/a.py", replace="x = 1\n"),
        Edit(path="money.py", find="return cents", replace="return [cents]"),
    )
    authored = await tools.apply_edits(EditsOnBase(base=base, summary="all", edits=edits, scope=("*.py", "new/")))
    assert [(change.path, change.kind) for change in authored.files] == [
        ("money.py", "changed"),
        ("new/a.py", "added"),
        ("old.py", "deleted"),
    ]
    assert await store.read_file(authored.head_commit, "money.py", 1000) == b"def split(cents):\n    return [cents]\n"
    outside = EditsOnBase(base=base, edits=edits, scope=("money.py",))
    assert (await tools.apply_edits(outside)).problem == "'old.py' is none of the files of the plan: money.py"


async def test_a_rerun_takes_recorded_calls_and_goes_on_with_the_same_tree(
    world: World, store: GitStore, tmp_path: Path
) -> None:
    event, base = await world.submit(), base_of(tmp_path)
    one, two = (
        Edit(path="money.py", find="cents)", replace="cents, n)"),
        Edit(path="money.py", find="s, n", replace="s, m"),
    )
    tools = await tools_of(world, event, store, base)
    first = await tools.edit(EditRequest(tree=tools.draft.digest, edit=one))
    again = await tools_of(world, event, store, base)
    assert await again.edit(EditRequest(tree=again.draft.digest, edit=one)) == first
    assert len(await world.store.steps(event.envelope.task_id)) == 1, "it was answered by the journal"
    await again.accept(one)
    assert again.draft.digest == first.tree
    second = await again.edit(EditRequest(tree=again.draft.digest, edit=two))
    assert (second.problem, second.tree != first.tree) == ("", True)
