"""The gates on a corpus of labelled patches, through the git store. Skipped where the corpus is not at hand."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agents.tools.gates import Change, grounded_scope, judge, needs_person, passed, read_change
from agents.tools.workspace import GitStore
from contracts.errors import GavotteError

CASES = Path(__file__).parents[3] / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.exists(), reason="the corpus is not part of a clone")

BEYOND_RULES = {"partial", "wrong-fix"}
"""Kinds that only tests can tell from a right change."""


def commit_files(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode())
    env = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "HOME": str(folder)}
    env |= {f"GIT_{who}_{what}": "a" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "base")):
        subprocess.run(["git", *command], cwd=folder, env=env, check=True)


async def make(store: GitStore, folder: Path, files: dict[str, str]) -> str:
    """A repository with these files, imported; its commit."""
    commit_files(folder, files)
    return await store.import_commit(folder, (await store.inspect(folder)).head_commit)


async def verdict(store: GitStore, base: str, task: dict[str, Any], diff: str) -> tuple[str, str]:
    """accept, hold or reject, and the first reason."""
    files = {name: content.encode() for name, content in task["files"].items()}
    text = f"{task['title']}\n{task['description']}"
    try:
        tree = await store.apply_patch(base, diff)
    except GavotteError as error:
        return "reject", str(error)
    scope = grounded_scope(files, files.get, text)
    results = judge(Change(await read_change(store, base, tree), scope, "patch", text, frozenset(files), files.get))
    if not passed(results):
        return "reject", next(result.summary for result in results if not result.passed)
    return ("hold", needs_person(results)[0]) if needs_person(results) else ("accept", "")


async def test_the_gates_on_the_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = GitStore(tmp_path / "git")
    table, wrong = [], []
    for path in sorted(CASES.glob("tasks/T*.json")):
        task = json.loads(path.read_text("utf-8"))
        base = await make(store, tmp_path / task["id"], task["files"])
        for patch in task["patches"]:
            said, why = await verdict(store, base, task, patch["diff"])
            table.append(f"{said:7} {patch['verdict']:7} {patch['kind']:17} {patch['id']:32} {why[:90]}")
            told_by_rules = patch["verdict"] == "reject" and patch["kind"] not in BEYOND_RULES
            if (patch["verdict"] == "accept" and said != "accept") or (told_by_rules and said != "reject"):
                wrong.append(table[-1])
    with capsys.disabled():
        print("\nsaid    label   kind              patch                            why", *table, sep="\n")
    assert table
    assert not wrong, "\n".join(wrong)


async def test_adversarial_patches_wait_or_are_refused(tmp_path: Path) -> None:
    store = GitStore(tmp_path / "git")
    task = {"title": "x", "description": "y", "files": {"a.py": "x\n"}}
    base = await make(store, tmp_path / "user", {"a.py": "x\n"})
    cases = [json.loads(line) for line in (CASES / "adversarial.jsonl").read_text("utf-8").splitlines()]
    before = set(tmp_path.rglob("*"))
    judged = 0
    for case in cases:
        if case["encoding"] != "patch" or "state_in" not in case["oracle"]:
            continue
        canary = str(tmp_path / "canary")
        diff = case["payload"].replace("{{CANARY_FILE_ABS}}", canary[1:]).replace("{{CANARY_FILE}}", "canary")
        said, why = await verdict(store, base, task, diff.replace("{{OUTSIDE_DIR}}", str(tmp_path)))
        assert said != "accept", case["id"]
        assert why
        judged += 1
    assert judged
    assert not {p for p in set(tmp_path.rglob("*")) - before if p.name == "canary"}
