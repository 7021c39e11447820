"""The git store reads users' repositories, makes trees and commits, and delivers one ref."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from agents.tools.git import Git, GitError
from agents.tools.trees import folder_digest
from agents.tools.workspace import GitStore, NewContent, WorkspaceLimits
from contracts.errors import Conflict, GavotteError, NotFound, Refused, Rejected, Retryable, TooLarge

TASK = "11111111-1111-4111-8111-111111111111"
IDENTITY = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@x", "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@x"}
NAMES = {
    "plain.py": b"x = 1\n",
    "with space.txt": b"a\nb\nc\n",
    "\N{LATIN SMALL LETTER E WITH ACUTE}t\N{LATIN SMALL LETTER E WITH ACUTE}.txt": b"summer\n",
    "new\nline": b"odd\n",
    "--upload-pack": b"option\n",
    "deep/er/file.py": b"y = 2\n",
    "binary.bin": bytes(range(256)) * 8,
    "empty": b"",
}


def git(folder: Path, *arguments: str) -> str:
    """Git as a user runs it, without this machine's settings."""
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_GLOBAL": os.devnull, **IDENTITY}
    return subprocess.run(
        ["git", *arguments], cwd=folder, env=env, check=True, capture_output=True, text=True
    ).stdout.strip()


def make(folder: Path, files: dict[str, bytes]) -> str:
    """A repository with one commit of these files; returns the commit."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q", "-b", "main")
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "base")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def store(tmp_path: Path) -> GitStore:
    return GitStore(tmp_path / "data" / "git")


@pytest.fixture
def user(tmp_path: Path) -> Path:
    return tmp_path / "user"


async def test_inspect_counts_what_is_left_out(store: GitStore, user: Path) -> None:
    head = make(user, {**NAMES, ".gitignore": b"*.log\n"})
    (user / "empty").touch()
    os.utime(user / "binary.bin", (1, 1))
    assert (await store.inspect(user / ".git")).dirty_files == 0, "a copy has other times and the same contents"
    (user / "plain.py").write_bytes(b"x = 2\n")
    (user / "with space.txt").unlink()
    (user / "fresh.txt").write_bytes(b"new")
    (user / "noise.log").write_bytes(b"ignored")
    (user / "staged.txt").write_bytes(b"new")
    git(user, "add", "staged.txt")
    facts = await store.inspect(user / "deep" / "er")
    assert (facts.path, facts.head_commit, facts.branch) == (user, head, "main")
    assert (facts.dirty_files, facts.files) == (4, len(NAMES) + 1)


@pytest.mark.parametrize("case", ["missing", "plain", "bare", "empty", "broken-pointer"])
async def test_inspect_refuses_with_a_way_forward(store: GitStore, tmp_path: Path, case: str) -> None:
    path = tmp_path / case
    if case != "missing":
        path.mkdir()
    if case == "bare":
        git(path, "init", "-q", "--bare")
    if case == "empty":
        git(path, "init", "-q")
    if case == "broken-pointer":
        (path / ".git").write_text("gitdir: /nowhere\n")
    with pytest.raises((Rejected, NotFound)) as refused:
        await store.inspect(path)
    assert refused.value.hint
    assert str(path) in refused.value.message or str(path) in str(refused.value)


async def test_inspect_of_a_detached_linked_work_tree(store: GitStore, user: Path, tmp_path: Path) -> None:
    head = make(user, NAMES)
    git(user, "worktree", "add", "-q", "--detach", str(tmp_path / "linked"))
    facts = await store.inspect(tmp_path / "linked")
    assert (facts.head_commit, facts.branch, facts.dirty_files) == (head, None, 0)
    await store.import_commit(tmp_path / "linked", head)
    commit = await store.commit_changes(head, {"a": NewContent(b"1")}, [], message="m", task_id=TASK, time_us=1)
    assert (await store.deliver(tmp_path / "linked", TASK, commit)).created
    assert git(user, "rev-parse", f"gavotte/{TASK}") == commit


async def test_a_checkout_holds_the_bytes_of_the_commit(store: GitStore, user: Path) -> None:
    head = make(user, NAMES)
    (user / "plain.py").chmod(0o755)
    git(user, "commit", "-q", "-am", "executable")
    head = git(user, "rev-parse", "HEAD")
    assert await store.import_commit(user, head) == head
    async with store.worktree(head) as tree:
        assert {str(p.relative_to(tree)): p.read_bytes() for p in tree.rglob("*") if p.is_file()} == NAMES
        assert os.access(tree / "plain.py", os.X_OK)
        assert not os.access(tree / "empty", os.X_OK)
        assert folder_digest(tree) == await store.tree_digest(head)
        (tree / "empty").write_bytes(b"no more")
        assert folder_digest(tree) != await store.tree_digest(head)
    assert not tree.exists()
    assert await store.read_file(head, "with space.txt", 100) == b"a\nb\nc\n"
    assert {entry.path for entry in await store.list_files(head)} == set(NAMES)
    with pytest.raises(NotFound):
        await store.read_file(head, "../escape", 10)
    with pytest.raises(TooLarge):
        await store.read_file(head, "binary.bin", 10)


async def test_the_digest_depends_on_content_and_not_on_history(store: GitStore, tmp_path: Path) -> None:
    first, second = make(tmp_path / "a", NAMES), make(tmp_path / "b", NAMES)
    git(tmp_path / "b", "commit", "-q", "--allow-empty", "-m", "more history")
    second = git(tmp_path / "b", "rev-parse", "HEAD")
    await store.import_commit(tmp_path / "a", first)
    await store.import_commit(tmp_path / "b", second)
    assert first != second
    assert await store.tree_digest(first) == await store.tree_digest(second)


async def test_several_agents_may_open_the_store_first_at_once(tmp_path: Path, user: Path) -> None:
    head = make(user, {"a.txt": b"a"})
    stores = [GitStore(tmp_path / "data" / "git") for _ in range(12)]
    assert await asyncio.gather(*(store.import_commit(user, head) for store in stores)) == [head] * 12
    assert not list((tmp_path / "data" / "git").glob(".new-*"))


async def test_import_copies_no_history_and_is_idempotent(store: GitStore, user: Path) -> None:
    make(user, {"big.txt": b"old and long\n" * 1000})
    old_blob = git(user, "rev-parse", "HEAD:big.txt")
    (user / "big.txt").write_text("short\n")
    git(user, "commit", "-qam", "second")
    head = git(user, "rev-parse", "HEAD")
    await asyncio.gather(*(store.import_commit(user, head) for _ in range(3)))
    plain = store._git
    assert not await plain.succeeds("cat-file", "-e", old_blob)
    assert (await plain.run("log", "--format=%H", head)).decode().split() == [head]


async def test_import_of_an_unknown_commit(store: GitStore, user: Path) -> None:
    make(user, NAMES)
    with pytest.raises(NotFound, match="has no commit"):
        await store.import_commit(user, "a" * 40)
    with pytest.raises(Rejected, match="40 hexadecimal"):
        await store.import_commit(user, "--upload-pack=touch /tmp/x")
    with pytest.raises(NotFound, match="holds no commit"):
        await store.list_files("b" * 40)


async def test_limits_speak_clearly(user: Path, tmp_path: Path) -> None:
    head = make(user, {"a": b"x" * 5000, "b": b"y"})
    for limits, words in (
        (WorkspaceLimits(files_max=1), "2 files"),
        (WorkspaceLimits(file_bytes_max=100), "'a' has"),
        (WorkspaceLimits(tree_bytes_max=10), "MiB"),
    ):
        with pytest.raises(TooLarge, match=words):
            await GitStore(tmp_path / f"s{words}" / "git", limits=limits).import_commit(user, head)
    small = GitStore(tmp_path / "small" / "git", limits=WorkspaceLimits(diff_bytes_max=50))
    await small.import_commit(user, head)
    commit = await small.commit_changes(head, {"c": NewContent(b"z\n" * 500)}, [], message="m", task_id=TASK, time_us=1)
    with pytest.raises(TooLarge, match="more than 50 bytes"):
        await small.diff(head, commit)


async def test_commits_are_the_same_on_every_run(store: GitStore, user: Path, tmp_path: Path) -> None:
    head = make(user, NAMES)
    other = GitStore(tmp_path / "other" / "git")
    shas = []
    for one in (store, other, store):
        await one.import_commit(user, head)
        changed = {
            "with space.txt": NewContent(b"a\nB\nc\n"),
            "new dir/run.sh": NewContent(b"#!/bin/sh\n", executable=True),
        }
        shas.append(
            await one.commit_changes(
                head, changed, ["empty"], message="Mend it", task_id=TASK, time_us=1_700_000_000_000_000
            )
        )
    assert len(set(shas)) == 1
    changes = {change.path: (change.kind, change.new_mode) for change in await store.changes(head, shas[0])}
    assert changes == {
        "with space.txt": ("changed", "100644"),
        "new dir/run.sh": ("added", "100755"),
        "empty": ("deleted", "000000"),
    }
    shown = (await store._git.run("log", "-1", "--format=%an <%ae> %at%n%B", shas[0])).decode()
    assert shown.startswith("Gavotte <gavotte@localhost> 1700000000\nMend it\n")
    assert TASK in shown


async def test_a_diff_survives_odd_names_and_flags_binaries(store: GitStore, user: Path) -> None:
    head = make(user, NAMES)
    await store.import_commit(user, head)
    changed = {name: NewContent(content + b"more\n") for name, content in NAMES.items()}
    commit = await store.commit_changes(head, changed, [], message="m", task_id=TASK, time_us=1)
    diff = await store.diff(head, commit)
    assert "+++ b/with space.txt" in diff
    assert "+++ b/\N{LATIN SMALL LETTER E WITH ACUTE}t" in diff
    assert "Binary files a/binary.bin and b/binary.bin differ" in diff
    text_only = {name: new for name, new in changed.items() if name != "binary.bin"}
    text = await store.commit_changes(head, text_only, [], message="m", task_id=TASK, time_us=1)
    applied = await store.apply_patch(head, await store.diff(head, text))
    assert await store.tree_digest(applied) == await store.tree_digest(text)


async def test_an_unchanged_tree_is_refused(store: GitStore, user: Path) -> None:
    head = make(user, NAMES)
    await store.import_commit(user, head)
    with pytest.raises(Rejected, match="empty"):
        await store.commit_changes(head, {"plain.py": NewContent(b"x = 1\n")}, [], message="m", task_id=TASK, time_us=1)


@pytest.mark.parametrize(
    "path", ["../x", "/etc/x", ".git/config", "a/.GIT/x", "a/../../b", "GIT~1/x", ".git./hooks/x", "a\0b"]
)
async def test_paths_that_lead_out_are_refused(store: GitStore, user: Path, path: str) -> None:
    head = make(user, NAMES)
    await store.import_commit(user, head)
    with pytest.raises(Rejected):
        await store.commit_changes(head, {path: NewContent(b"")}, [], message="m", task_id=TASK, time_us=1)


PATCHES = {
    "leaves": "diff --git a/../../c b/../../c\nnew file mode 100644\n--- /dev/null\n+++ b/../../c\n@@ -0,0 +1,1 @@\n+x\n",
    "absolute": "--- /dev/null\n+++ /tmp/canary\n@@ -0,0 +1 @@\n+x\n",
    "link": "diff --git a/ln b/ln\nnew file mode 120000\n--- /dev/null\n+++ b/ln\n@@ -0,0 +1 @@\n+/tmp\n\\ No newline at end of file\n",
    "submodule": "diff --git a/s b/s\nnew file mode 160000\nindex 0000000..1111111\n--- /dev/null\n+++ b/s\n@@ -0,0 +1 @@\n"
    "+Subproject commit 1111111111111111111111111111111111111111\n",
    "git folder": "diff --git a/.git/config b/.git/config\nnew file mode 100644\n--- /dev/null\n+++ b/.git/config\n@@ -0,0 +1 @@\n+[core]\n",
    "quoted": 'diff --git "a/\\056\\056/x" "b/\\056\\056/x"\nnew file mode 100644\n--- /dev/null\n+++ "b/\\056\\056/x"\n@@ -0,0 +1 @@\n+x\n',
    "counts": "diff --git a/plain.py b/plain.py\n--- a/plain.py\n+++ b/plain.py\n@@ -1,999999999 +1,1 @@\n-x = 1\n",
    "prose": "From 0 Mon Sep 17 00:00:00 2001\nFrom: a@b\nSubject: [PATCH] x\n\n---\n\nnot a diff at all",
    "rename out": "diff --git a/plain.py b/plain.py\nsimilarity index 100%\nrename from plain.py\nrename to ../plain.py\n",
    "empty": "",
    "stale": "diff --git a/plain.py b/plain.py\n--- a/plain.py\n+++ b/plain.py\n@@ -1 +1 @@\n-x = 7\n+x = 8\n",
    "no change": "diff --git a/plain.py b/plain.py\n--- a/plain.py\n+++ b/plain.py\n@@ -1 +1 @@\n-x = 1\n+x = 1\n",
    "link edited": "diff --git a/here b/here\n--- a/here\n+++ b/here\n@@ -1 +1 @@\n-plain.py\n\\ No newline at end of file\n+/etc/passwd\n"
    "\\ No newline at end of file\n",
}


@pytest.mark.parametrize("case", PATCHES)
async def test_a_bad_patch_is_refused_with_the_reason(store: GitStore, user: Path, tmp_path: Path, case: str) -> None:
    user.mkdir()
    (user / "here").symlink_to("plain.py")
    head = make(user, NAMES)
    await store.import_commit(user, head)
    before = set(tmp_path.iterdir())
    with pytest.raises(Rejected) as refused:
        await store.apply_patch(head, PATCHES[case])
    assert refused.value.message
    assert set(tmp_path.iterdir()) == before
    assert not Path("/tmp/canary").exists()


async def test_a_patch_that_removes_a_dashed_line_is_no_header(store: GitStore, user: Path) -> None:
    head = make(user, {"q.sql": b"-- /etc is a comment\nselect 1;\n"})
    await store.import_commit(user, head)
    patch = "diff --git a/q.sql b/q.sql\n--- a/q.sql\n+++ b/q.sql\n@@ -1,2 +1 @@\n--- /etc is a comment\n select 1;\n"
    tree = await store.apply_patch(head, patch)
    assert await store.read_file(tree, "q.sql", 100) == b"select 1;\n"


async def test_a_patch_of_thousands_of_files_is_refused(store: GitStore, user: Path) -> None:
    head = make(user, NAMES)
    await store.import_commit(user, head)
    one = "diff --git a/f{0} b/f{0}\nnew file mode 100644\n--- /dev/null\n+++ b/f{0}\n@@ -0,0 +1 @@\n+x\n"
    with pytest.raises(TooLarge, match="files"):
        await store.apply_patch(head, "".join(one.format(n) for n in range(3000)))
    with pytest.raises(TooLarge, match="4 MiB"):
        await store.apply_patch(head, "x" * (5 << 20))


async def test_names_that_git_quotes_are_read_as_names(store: GitStore, user: Path) -> None:
    head = make(user, NAMES)
    await store.import_commit(user, head)
    name = 'b/\\303\\234 \\303\\257/\\"q\\".txt'
    patch = f'diff --git "a{name[1:]}" "{name}"\nnew file mode 100644\n--- /dev/null\n+++ "{name}"\n@@ -0,0 +1 @@\n+x\n'
    tree = await store.apply_patch(head, patch)
    named = '\N{LATIN CAPITAL LETTER U WITH DIAERESIS} \N{LATIN SMALL LETTER I WITH DIAERESIS}/"q".txt'
    assert await store.read_file(tree, named, 100) == b"x\n"


async def test_the_branch_moves_only_from_what_was_seen(store: GitStore, user: Path) -> None:
    head = make(user, NAMES)
    await store.import_commit(user, head)
    first = await store.commit_changes(head, {"a": NewContent(b"1")}, [], message="m", task_id=TASK, time_us=1)
    second = await store.commit_changes(first, {"a": NewContent(b"2")}, [], message="m", task_id=TASK, time_us=2)
    assert await store.branch_head(TASK) is None
    await store.branch(TASK, first, expected=None)
    await store.branch(TASK, first, expected=None)
    with pytest.raises(Conflict):
        await store.branch(TASK, second, expected=None)
    with pytest.raises(Conflict):
        await store.branch(TASK, second, expected=head)
    await store.branch(TASK, second, expected=first)
    assert await store.branch_head(TASK) == second
    with pytest.raises(Rejected, match="task id"):
        await store.branch("../../main", second, expected=None)


async def test_delivery_adds_one_ref_and_nothing_else(store: GitStore, user: Path) -> None:
    head = make(user, NAMES)
    (user / "plain.py").write_bytes(b"the user is at work here\n")
    await store.import_commit(user, head)
    first = await store.commit_changes(
        head, {"plain.py": NewContent(b"x = 3\n")}, [], message="m", task_id=TASK, time_us=1
    )
    second = await store.commit_changes(
        first, {"d/e/f": NewContent(b"2")}, ["deep/er/file.py"], message="m", task_id=TASK, time_us=2
    )
    assert (await store.deliver(user, TASK, second)).created
    assert not (await store.deliver(user, TASK, second)).created
    assert git(user, "for-each-ref", "--format=%(refname)").split() == [f"refs/heads/gavotte/{TASK}", "refs/heads/main"]
    assert git(user, "rev-parse", "main") == head
    assert git(user, "log", "--format=%H", f"gavotte/{TASK}").split() == [second, first, head]
    assert (user / "plain.py").read_bytes() == b"the user is at work here\n"
    git(user, "fsck", "--strict")
    with pytest.raises(Refused, match="another commit"):
        await store.deliver(user, TASK, first)


async def test_delivery_says_why_it_is_refused(store: GitStore, user: Path) -> None:
    head = make(user, NAMES)
    await store.import_commit(user, head)
    commit = await store.commit_changes(head, {"a": NewContent(b"1")}, [], message="m", task_id=TASK, time_us=1)
    git(user, "branch", "gavotte")
    with pytest.raises(Refused, match="does not take") as refused:
        await store.deliver(user, TASK, commit)
    assert "gavotte" in refused.value.hint


async def test_a_shallow_clone_works_end_to_end(store: GitStore, user: Path, tmp_path: Path) -> None:
    make(user, NAMES)
    (user / "plain.py").write_text("x = 9\n")
    git(user, "commit", "-qam", "second")
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{user}", "shallow")
    facts = await store.inspect(tmp_path / "shallow")
    await store.import_commit(tmp_path / "shallow", facts.head_commit)
    commit = await store.commit_changes(
        facts.head_commit, {"a": NewContent(b"1")}, [], message="m", task_id=TASK, time_us=1
    )
    assert (await store.deliver(tmp_path / "shallow", TASK, commit)).created
    assert (await store.deliver(user, TASK, commit)).created
    assert git(tmp_path / "shallow", "show", f"gavotte/{TASK}:a") == "1"


async def test_a_read_only_store_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "git").write_text("a file, not a folder")
    with pytest.raises(Refused, match="cannot be made"):
        await GitStore(tmp_path / "git").list_files("a" * 40)


async def test_export_and_a_full_folder(store: GitStore, user: Path, tmp_path: Path) -> None:
    head = make(user, NAMES)
    await store.import_commit(user, head)
    assert await store.export(head, tmp_path / "out") == folder_digest(tmp_path / "out")
    with pytest.raises(Refused, match="not empty"):
        await store.export(head, tmp_path / "out")


async def test_git_calls_end_at_their_deadline(store: GitStore, tmp_path: Path) -> None:
    await store._open()
    slow = Git(store._git.git_dir, tmp_path, deadline_seconds=0.05)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Retryable, match="did not end"):
        await slow.run("hash-object", str(tmp_path / "pipe"))
    with pytest.raises(GitError):
        await store._git.run("cat-file", "blob", "a" * 40)
    with pytest.raises(GavotteError):
        async for _ in store._git.blobs(["a" * 40]):
            pass


async def test_a_cancelled_call_leaves_no_process(store: GitStore, tmp_path: Path) -> None:
    await store._open()
    os.mkfifo(tmp_path / "pipe")
    call = asyncio.create_task(store._git.run("hash-object", str(tmp_path / "pipe")))
    while not _waiting_on(str(tmp_path / "pipe")):
        await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not _waiting_on(str(tmp_path / "pipe"))


def _waiting_on(argument: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            found += [entry.name] if argument.encode() in words and words[0] == b"git" else []
    return found


async def test_what_git_ignores_is_known_by_the_base(store: GitStore, user: Path) -> None:
    head = make(user, {"a.py": b"1\n", ".gitignore": b"*.log\ndist/\n", "sub/.gitignore": b"!kept.log\n"})
    git(user, "config", "core.excludesFile", str(user / "a.py"))
    await store.import_commit(user, head)
    made = ["new.py", "x.log", "dist/out é.txt", "sub/kept.log", "a.py", ":(top)y", "dist/[a-z]*"]
    async with store.worktree(head) as tree:
        assert await store.ignored(head, tree, made) == {"x.log", "dist/out é.txt", "dist/[a-z]*"}
        assert await store.ignored(head, tree, ["a.py", "new.py"]) == frozenset()
        assert await store.ignored(head, tree, []) == frozenset()
