"""A repository that an attacker prepared runs nothing on this machine, whatever the store does with it."""

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.tools.workspace import GitStore, NewContent

TASK = "22222222-2222-4222-8222-222222222222"
IDENTITY = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@x", "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@x"}
HOOKS = (
    "applypatch-msg", "pre-commit", "post-commit", "post-checkout", "post-index-change", "reference-transaction",
    "pre-receive", "update", "post-update", "post-receive", "pre-auto-gc", "fsmonitor-watchman", "pre-push",
)  # fmt: skip


def git(folder: Path, *arguments: str) -> str:
    """Git as a user runs it, without this machine's settings and before the traps are set."""
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_GLOBAL": os.devnull, **IDENTITY}
    return subprocess.run(
        ["git", *arguments], cwd=folder, env=env, check=True, capture_output=True, text=True
    ).stdout.strip()


def program(folder: Path, canary: Path, name: str = "program") -> Path:
    """An executable that tells on whoever runs it."""
    path = folder / name
    path.write_text(f'#!/bin/sh\necho "$0 $*" >> {canary}\ncat\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def hooks(user: Path, canary: Path) -> None:
    for hook in HOOKS:
        program(user / ".git" / "hooks", canary, hook)


def hooks_path(user: Path, canary: Path) -> None:
    (user / "traps").mkdir()
    for hook in HOOKS:
        program(user / "traps", canary, hook)
    git(user, "config", "core.hooksPath", str(user / "traps"))


def fsmonitor(user: Path, canary: Path) -> None:
    git(user, "config", "core.fsmonitor", f"{program(user / '.git', canary)} ; false")


def filters(user: Path, canary: Path) -> None:
    (user / ".gitattributes").write_text("* filter=evil diff=evil merge=evil export-subst ident\nb.txt export-ignore\n")
    git(user, "add", ".gitattributes")
    git(user, "commit", "-qm", "attributes")
    path = program(user / ".git", canary)
    for key in (
        "filter.evil.clean",
        "filter.evil.smudge",
        "filter.evil.process",
        "diff.evil.textconv",
        "diff.evil.command",
    ):
        git(user, "config", key, str(path))
    git(user, "config", "filter.evil.required", "true")
    git(user, "config", "merge.evil.driver", str(path))


def info_attributes(user: Path, canary: Path) -> None:
    (user / ".git" / "info").mkdir(exist_ok=True)
    (user / ".git" / "info" / "attributes").write_text("* filter=evil diff=evil\n")
    git(user, "config", "filter.evil.clean", str(program(user / ".git", canary)))


def programs(user: Path, canary: Path) -> None:
    path = str(program(user / ".git", canary))
    for key in (
        "diff.external", "core.sshCommand", "core.pager", "core.editor", "core.askPass", "core.gitProxy", "gpg.program",
        "credential.helper", "core.alternateRefsCommand", "uploadpack.packObjectsHook", "receive.procReceiveRefs",
        "interactive.diffFilter", "sequence.editor", "pack.packObjectsHook",
    ):  # fmt: skip
        git(user, "config", key, path)
    for command in ("status", "ls-files", "rev-parse", "update-ref", "diff-index"):
        git(user, "config", f"alias.{command}", f"!{path}")
    git(user, "config", "commit.gpgSign", "true")


def promisor(user: Path, canary: Path) -> None:
    """A partial clone whose missing blob would be fetched by a program of the attacker's choice."""
    path = program(user / ".git", canary)
    blob = git(user, "rev-parse", "HEAD:b.txt")
    (user / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    git(user, "config", "core.repositoryformatversion", "1")
    git(user, "config", "extensions.partialClone", "origin")
    git(user, "config", "remote.origin.url", str(user))
    git(user, "config", "remote.origin.promisor", "true")
    git(user, "config", "remote.origin.uploadpack", str(path))
    git(user, "config", "remote.origin.vcs", "evil")


def submodule(user: Path, canary: Path) -> None:
    inner = user / "inner"
    inner.mkdir()
    git(inner, "init", "-q")
    (inner / "f").write_text("1")
    git(inner, "add", "-A")
    git(inner, "commit", "-qm", "inner")
    git(user, "-c", "advice.addEmbeddedRepo=false", "add", "inner")
    (user / ".gitmodules").write_text('[submodule "inner"]\n\tpath = inner\n\turl = ext::sh -c "touch canary"\n')
    git(user, "add", ".gitmodules")
    git(user, "commit", "-qm", "submodule")
    path = program(inner / ".git", canary)
    git(inner, "config", "core.fsmonitor", str(path))
    git(inner, "config", "filter.evil.clean", str(path))
    (inner / ".gitattributes").write_text("* filter=evil\n")
    (inner / "f").write_text("2")


def embedded_bare(user: Path, canary: Path) -> None:
    bare = user / "vendor"
    bare.mkdir()
    git(bare, "init", "-q", "--bare")
    git(bare, "config", "core.fsmonitor", str(program(bare, canary)))
    git(bare, "config", "core.worktree", str(user))


TRAPS: list[Callable[[Path, Path], None]] = [
    hooks, hooks_path, fsmonitor, filters, info_attributes, programs, promisor, submodule, embedded_bare,
]  # fmt: skip


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: str(trap.__name__))
async def test_no_program_of_the_repository_runs(tmp_path: Path, trap: Callable[[Path, Path], None]) -> None:
    user, canary = tmp_path / "user", tmp_path / "canary"
    user.mkdir()
    git(user, "init", "-q", "-b", "main")
    (user / "a.txt").write_text("$Id$ $Format:%H$ one\n")
    (user / "b.txt").write_text("two\n")
    git(user, "add", "-A")
    git(user, "commit", "-qm", "base")
    trap(user, canary)
    canary.unlink(missing_ok=True)
    # a later time and another size: a stat alone cannot tell that the file is clean
    (user / "a.txt").write_text("changed by the user, so that its content must be looked at\n")

    store = GitStore(tmp_path / "data" / "git")
    facts = await store.inspect(user)
    assert facts.dirty_files
    if trap is promisor:
        with pytest.raises(Exception, match="clone it in full"):
            await store.import_commit(user, facts.head_commit)
        assert not canary.exists()
        return
    await store.import_commit(user, facts.head_commit)
    async with store.worktree(facts.head_commit) as tree:
        assert (tree / "a.txt").read_text() == "$Id$ $Format:%H$ one\n"
        assert (tree / "b.txt").read_text() == "two\n"
    change = {"a.txt": NewContent(b"three\n")}
    commit = await store.commit_changes(facts.head_commit, change, [], message="m", task_id=TASK, time_us=1)
    diff = await store.diff(facts.head_commit, commit)
    assert "+three" in diff
    await store.apply_patch(facts.head_commit, diff)
    assert (await store.deliver(user, TASK, commit)).created
    assert not canary.exists(), canary.read_text()


async def test_links_of_the_repository_lead_nowhere(tmp_path: Path) -> None:
    user, outside = tmp_path / "user", tmp_path / "outside"
    user.mkdir()
    outside.mkdir()
    git(user, "init", "-q", "-b", "main")
    (user / "link").symlink_to(outside)
    (user / "passwd").symlink_to("/etc/passwd")
    git(user, "add", "-A")
    git(user, "commit", "-qm", "links")
    store = GitStore(tmp_path / "data" / "git")
    head = (await store.inspect(user)).head_commit
    await store.import_commit(user, head)
    async with store.worktree(head) as tree:
        assert not (tree / "link").is_symlink()
        assert (tree / "passwd").read_text() == "/etc/passwd"
    assert list(outside.iterdir()) == []


async def test_a_tree_that_smuggles_a_git_folder_is_not_written(tmp_path: Path) -> None:
    user = tmp_path / "user"
    user.mkdir()
    git(user, "init", "-q", "-b", "main")
    (user / "f").write_text("x")
    blob = git(user, "hash-object", "-w", "f")

    def tree(text: str) -> str:
        return subprocess.run(
            ["git", "mktree"], cwd=user, input=text, check=True, capture_output=True, text=True
        ).stdout.strip()

    for name in (".git", "..", ".GIT"):
        evil = tree(f"040000 tree {tree(f'100644 blob {blob}{chr(9)}config{chr(10)}')}\t{name}\n")
        git(user, "update-ref", "refs/heads/main", git(user, "commit-tree", "-m", "m", evil))
        store = GitStore(tmp_path / "data" / "git")
        head = git(user, "rev-parse", "main")
        await store.import_commit(user, head)
        with pytest.raises(Exception, match=r"git's own folder|leaves the repository"):
            async with store.worktree(head):
                pass
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["git", "work"]
    assert list((tmp_path / "data" / "work").iterdir()) == []


async def test_a_replaced_object_does_not_hide_the_truth(tmp_path: Path) -> None:
    user = tmp_path / "user"
    user.mkdir()
    git(user, "init", "-q", "-b", "main")
    (user / "f").write_text("real")
    git(user, "add", "-A")
    git(user, "commit", "-qm", "base")
    (user / "g").write_text("forged")
    git(user, "replace", git(user, "rev-parse", "HEAD:f"), git(user, "hash-object", "-w", "g"))
    store = GitStore(tmp_path / "data" / "git")
    head = git(user, "rev-parse", "HEAD")
    await store.import_commit(user, head)
    assert await store.read_file(head, "f", 10) == b"real"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a repository to another user")
async def test_a_repository_of_another_user(tmp_path: Path) -> None:
    user = tmp_path / "user"
    user.mkdir()
    git(user, "init", "-q", "-b", "main")
    (user / "f").write_text("x")
    git(user, "add", "-A")
    git(user, "commit", "-qm", "base")
    for path in (user, *user.rglob("*")):
        os.chown(path, 12345, 12345)
    store = GitStore(tmp_path / "data" / "git")
    facts = await store.inspect(user)
    await store.import_commit(user, facts.head_commit)
    commit = await store.commit_changes(
        facts.head_commit, {"f": NewContent(b"y")}, [], message="m", task_id=TASK, time_us=1
    )
    assert (await store.deliver(user, TASK, commit)).created
