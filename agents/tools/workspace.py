"""The git store: commits of users' repositories, kept where no agent's tool and no sandbox can write.

A user's repository is only read, but for `deliver`, which adds one ref. Work trees are plain folders without a `.git`,
written from the objects themselves: no attribute, filter, hook, submodule or link takes effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agents.tools.git import Git, GitError, checked_sha
from agents.tools.patches import check_patch, check_path
from agents.tools.repositories import RepositoryFacts, UserRepository
from agents.tools.trees import (
    EXECUTABLE,
    LINK,
    REGULAR,
    SUBMODULE,
    TreeChange,
    TreeEntry,
    digest_of,
    parse_change,
    parse_listing,
    write_files,
    written_mode,
)
from contracts.errors import Conflict, NotFound, Refused, Rejected, TooLarge, Unavailable
from contracts.events import is_utf8
from contracts.ids import is_uuid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

ABSENT = "0" * 40
AUTHOR = "Gavotte"
AUTHOR_EMAIL = "gavotte@localhost"
BATCH_FILES = 256


@dataclass(frozen=True)
class WorkspaceLimits:
    """Caps that keep one huge repository or change from starving the rest."""

    files_max: int = 50_000
    tree_bytes_max: int = 1 << 30
    file_bytes_max: int = 64 << 20
    diff_bytes_max: int = 4 << 20
    changed_files_max: int = 1000
    git_seconds: float = 120.0


@dataclass(frozen=True)
class NewContent:
    """What a path shall hold after a change."""

    content: bytes
    executable: bool = False


@dataclass(frozen=True)
class Delivered:
    """The ref in the user's repository; `created` is False where it already held the commit."""

    ref: str
    commit: str
    created: bool


class GitStore:
    """One bare repository for all projects, at `root`; fresh trees are made below `work` (default: beside it)."""

    def __init__(self, root: Path, *, work: Path | None = None, limits: WorkspaceLimits | None = None) -> None:
        self.root = root.absolute()
        self.work = work or self.root.parent / "work"
        self.limits = limits or WorkspaceLimits()
        self._hooks = self.root / "no-hooks"
        self._git = Git(self.root / "store.git", self._hooks, self.limits.git_seconds)
        self._listings: OrderedDict[str, tuple[TreeEntry, ...]] = OrderedDict()
        self._opened = False

    # -- the user's side

    async def inspect(self, path: Path) -> RepositoryFacts:
        """The facts of the repository that holds `path`; NotFound or Rejected with a hint where there is none to use."""
        await self._open()
        return await self._users(path).facts()

    async def import_commit(self, repository: Path, commit: str) -> str:
        """Copies a commit with all its files (not its history) into the store; returns the commit."""
        await self._open()
        mark = f"refs/gavotte/imports/{checked_sha(commit)}"
        if await self._git.succeeds("rev-parse", "--verify", "--quiet", mark):
            return commit
        user = self._users(repository).git
        if not await user.succeeds("cat-file", "-e", f"{commit}^{{commit}}"):
            raise NotFound(f"{repository} has no commit {commit}", hint="was it rewritten? submit the task again")
        listing = await user.run("ls-tree", "-r", "-z", "--full-tree", "-l", commit)
        self._check_size(parse_listing(listing), f"{repository} at {commit[:12]}")
        try:
            names = await user.run("rev-list", "--objects", "--no-object-names", "--no-walk", commit)
            await user.send_pack(
                self._git, names.decode().split(), "index-pack", "--stdin", bytes_max=self.limits.tree_bytes_max
            )
        except GitError as error:
            raise Rejected(
                f"{repository} cannot be copied: {error.reason}",
                hint="a damaged or partial clone lacks objects: clone it in full (without --filter), or run git fsck",
            ) from error
        self._mark_shallow(commit)
        await self._git.run("update-ref", mark, commit)
        return commit

    async def deliver(self, repository: Path, task_id: str, commit: str) -> Delivered:
        """Adds the task's branch to the user's repository as one new ref; never moves a ref that is there."""
        ref = _task_ref(task_id)
        user = self._users(repository).git
        held = await self._resolve(user, ref)
        if held == checked_sha(commit):
            return Delivered(ref, commit, created=False)
        if held is not None:
            raise _other_commit(repository, ref, held)
        try:
            await self._git.send_pack(
                user,
                await self._new_objects(user, commit),
                "unpack-objects",
                "-q",
                bytes_max=self.limits.tree_bytes_max,
            )
            await user.run("update-ref", ref, commit, ABSENT, extra=_identity("@0 +0000"))
        except GitError as error:
            held = await self._resolve(user, ref)
            if held == commit:
                return Delivered(ref, commit, created=False)
            if held is not None:
                raise _other_commit(repository, ref, held) from error
            hint = "check that its .git folder is writable, the disk has room, and no branch is named 'gavotte'"
            raise Refused(f"{repository} does not take {ref}: {error.reason}", hint=hint) from error
        return Delivered(ref, commit, created=True)

    # -- reading

    async def list_files(self, tree: str) -> tuple[TreeEntry, ...]:
        """All paths of a commit or tree, sorted by their bytes."""
        await self._open()
        if checked_sha(tree) in self._listings:
            self._listings.move_to_end(tree)
            return self._listings[tree]
        try:
            listing = await self._git.run("ls-tree", "-r", "-z", "-l", "--full-tree", tree)
        except GitError as error:
            raise NotFound(f"the store holds no commit {tree}", hint="import it from its repository first") from error
        entries = parse_listing(listing)
        self._check_size(entries, f"the tree {tree[:12]}")
        self._listings[tree] = entries
        while len(self._listings) > 8:
            self._listings.popitem(last=False)
        return entries

    async def read_file(self, tree: str, path: str, bytes_max: int) -> bytes:
        """The content of one file; NotFound where there is none, TooLarge above the cap."""
        entry = next((e for e in await self.list_files(tree) if e.path == path and e.mode != SUBMODULE), None)
        if entry is None:
            raise NotFound(
                f"there is no file {path!r} at {tree[:12]}", hint="list the files and take a name from there"
            )
        if entry.size_bytes > bytes_max:
            raise TooLarge(f"{path!r} has {entry.size_bytes} bytes, more than {bytes_max}", hint="read a smaller file")
        return await self._git.run("cat-file", "blob", entry.blob, bytes_max=bytes_max)

    async def read_blobs(self, blobs: Sequence[str]) -> dict[str, bytes]:
        """The contents of blobs by name, for callers that hold changes or entries."""
        wanted = sorted({blob for blob in blobs if blob != ABSENT})
        async with contextlib.aclosing(self._git.blobs(wanted)) as contents:
            return {name: content async for name, content in contents}

    async def changes(self, base: str, head: str) -> tuple[TreeChange, ...]:
        """Which paths differ, with exact names and modes; a rename is a deletion and an addition."""
        await self._open()
        raw = await self._git.run(
            "diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev", checked_sha(base), checked_sha(head)
        )
        fields = raw.split(b"\0")
        return tuple(parse_change(fields[i], fields[i + 1]) for i in range(0, len(fields) - 1, 2))

    async def diff(self, base: str, head: str) -> str:
        """The unified diff; names keep their spaces and letters, binary files are one line `Binary files ... differ`."""
        await self._open()
        raw = await self._git.run(
            "diff-tree", "-r", "-p", "--no-renames", "--full-index", "--no-ext-diff", "--no-textconv", "--no-color",
            "--src-prefix=a/", "--dst-prefix=b/", checked_sha(base), checked_sha(head),
            bytes_max=self.limits.diff_bytes_max,
        )  # fmt: skip
        return raw.decode("utf-8", "replace")

    async def tree_digest(self, tree: str) -> str:
        """`sha256:...` over mode, path and content of every file as `checkout` writes it; independent of git's own hash."""
        entries = [entry for entry in await self.list_files(tree) if entry.mode != SUBMODULE]
        hashes: dict[str, str] = {}
        async with contextlib.aclosing(self._git.blobs(sorted({entry.blob for entry in entries}))) as contents:
            async for name, content in contents:
                hashes[name] = hashlib.sha256(content).hexdigest()
        return digest_of((written_mode(entry.mode), entry.path, hashes[entry.blob]) for entry in entries)

    # -- folders

    @contextlib.asynccontextmanager
    async def worktree(self, tree: str) -> AsyncIterator[Path]:
        """A fresh folder below `work` with the files of the tree, gone when the block is left."""
        self.work.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{checked_sha(tree)[:12]}-", dir=self.work))
        try:
            await self.checkout(tree, folder)
            yield folder
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def ignored(self, tree: str, folder: Path, paths: Sequence[str]) -> frozenset[str]:
        """Those of the paths that the tree lacks and its `.gitignore` files leave out; `folder` is a work tree of it."""
        known = {entry.path for entry in await self.list_files(tree)}
        new = "".join(f"./{path}\0" for path in paths if path not in known)  # the dot: no name means anything to git
        if not new:
            return frozenset()
        question = ("-C", str(folder), "--work-tree=.", "check-ignore", "--no-index", "-z", "--stdin")
        try:
            answer = await self._git.run(*question, stdin=os.fsencode(new), extra={"GIT_LITERAL_PATHSPECS": "0"})
        except GitError as error:
            if error.status != 1:  # 1: none is ignored
                raise
            return frozenset()
        return frozenset(os.fsdecode(path).removeprefix("./") for path in answer.split(b"\0")[:-1])

    async def checkout(self, tree: str, into: Path) -> int:
        """Writes the tree into an empty folder and returns the number of files. Links become files that hold their target."""
        await asyncio.to_thread(_make_fresh, into)
        entries = await self.list_files(tree)
        paths: dict[str, list[TreeEntry]] = {}
        for entry in entries:
            check_path(entry.path)
            if entry.mode == SUBMODULE:
                (into / entry.path).mkdir(parents=True, exist_ok=True)
            else:
                paths.setdefault(entry.blob, []).append(entry)
        batch: list[tuple[TreeEntry, bytes]] = []
        async with contextlib.aclosing(self._git.blobs(list(paths))) as contents:
            async for name, content in contents:
                batch.extend((entry, content) for entry in paths[name])
                if len(batch) >= BATCH_FILES or len(content) > 1 << 20:
                    await asyncio.to_thread(write_files, into, batch)
                    batch = []
        await asyncio.to_thread(write_files, into, batch)
        return sum(len(same) for same in paths.values())

    async def export(self, tree: str, into: Path) -> str:
        """Writes the tree into an empty folder for a release; returns its digest, equal to `folder_digest(into)`."""
        await self.checkout(tree, into)
        return await self.tree_digest(tree)

    # -- writing into the store

    async def apply_patch(self, commit: str, patch: str) -> str:
        """The tree that the patch makes of the commit; Rejected with git's reason where it does not apply whole."""
        await self._open()
        check_patch(patch)
        async with self._index(commit) as index:
            try:
                await self._git.run(
                    "apply",
                    "--cached",
                    "--whitespace=nowarn",
                    "-",
                    stdin=patch.encode("utf-8", "surrogateescape"),
                    extra=index,
                )
            except GitError as error:
                reason = "; ".join(line.removeprefix("error: ") for line in error.reason.splitlines()[:4])
                raise Rejected(
                    f"the patch does not apply: {reason}", hint=f"make it against commit {commit[:12]}"
                ) from error
            tree = (await self._git.run("write-tree", extra=index)).decode().strip()
        await self._check_changes(commit, tree)
        return tree

    async def commit_changes(
        self,
        base: str,
        changed: Mapping[str, NewContent],
        deleted: Sequence[str],
        *,
        message: str,
        task_id: str,
        time_us: int,
    ) -> str:
        """Commits new contents and removals on top of `base`; the same arguments give the same commit on any machine."""
        await self._open()
        for path in (*changed, *deleted):
            check_path(path)
        blobs = await self._store_blobs([new.content for new in changed.values()])
        lines = [f"0 {ABSENT}\t{path}\0" for path in deleted]
        for (path, new), blob in zip(changed.items(), blobs, strict=True):
            lines.append(f"{EXECUTABLE if new.executable else REGULAR} {blob}\t{path}\0")
        async with self._index(base) as index:
            await self._git.run("update-index", "-z", "--index-info", stdin=os.fsencode("".join(lines)), extra=index)
            tree = (await self._git.run("write-tree", extra=index)).decode().strip()
        await self._check_changes(base, tree)
        return await self.commit_tree(base, tree, message=message, task_id=task_id, time_us=time_us)

    async def commit_tree(self, base: str, tree: str, *, message: str, task_id: str, time_us: int) -> str:
        """Commits a tree with `base` as its only parent, deterministically."""
        text = f"{message.replace(chr(0), '').strip() or 'Change'}\n\nGavotte-Task: {task_id}\n"
        sha = await self._git.run(
            "commit-tree",
            checked_sha(tree),
            "-p",
            checked_sha(base),
            stdin=text.encode("utf-8", "replace"),
            extra=_identity(f"@{time_us // 1_000_000} +0000"),
        )
        return sha.decode().strip()

    async def branch(self, task_id: str, commit: str, *, expected: str | None) -> str:
        """Sets `refs/heads/gavotte/<task_id>` from `expected` (None: must not exist) to `commit`; Conflict where it moved."""
        ref = _task_ref(task_id)
        if await self.branch_head(task_id) == checked_sha(commit):
            return ref
        try:
            await self._git.run("update-ref", ref, commit, checked_sha(expected) if expected else ABSENT)
        except GitError as error:
            raise Conflict(f"{ref} is not at {expected or 'its start'} any more: {error.reason}") from error
        return ref

    async def branch_head(self, task_id: str) -> str | None:
        """The commit at the task's branch, or None."""
        await self._open()
        return await self._resolve(self._git, _task_ref(task_id))

    # -- inside

    async def _open(self) -> None:
        if self._opened:
            return
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._hooks.mkdir(mode=0o500, exist_ok=True)
        except OSError as error:
            raise Refused(f"the git store {self.root} cannot be made: {error.strerror}", hint="check --data") from error
        if not (self._git.git_dir / "HEAD").exists():
            await self._create()
        self._opened = True

    async def _create(self) -> None:
        """Makes the repository aside and renames it into place: several agents may come first at once."""
        with tempfile.TemporaryDirectory(dir=self.root, prefix=".new-", ignore_cleanup_errors=True) as aside:
            fresh = replace(self._git, git_dir=Path(aside) / "store.git")
            await fresh.run("init", "--bare", "--quiet", "--template=", "--initial-branch=none")
            try:
                fresh.git_dir.rename(self._git.git_dir)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise

    def _users(self, path: Path) -> UserRepository:
        return UserRepository.at(path, self._git)

    def _check_size(self, entries: Sequence[TreeEntry], what: str) -> None:
        total = sum(entry.size_bytes for entry in entries)
        largest = max(entries, key=lambda entry: entry.size_bytes, default=None)
        if len(entries) > self.limits.files_max:
            raise TooLarge(
                f"{what} has {len(entries)} files, more than {self.limits.files_max}", hint="register a part of it"
            )
        if total > self.limits.tree_bytes_max:
            raise TooLarge(f"{what} has {total >> 20} MiB, more than {self.limits.tree_bytes_max >> 20}")
        if largest is not None and largest.size_bytes > self.limits.file_bytes_max:
            raise TooLarge(
                f"{largest.path!r} has {largest.size_bytes >> 20} MiB, more than {self.limits.file_bytes_max >> 20}"
            )

    async def _check_changes(self, base: str, tree: str) -> None:
        """The last word on what a patch or a change did, from the trees themselves."""
        changes = await self.changes(base, tree)
        if not changes:
            raise Rejected("the change is empty: the files already are as it wants them")
        if len(changes) > self.limits.changed_files_max:
            raise TooLarge(
                f"{len(changes)} files change, more than {self.limits.changed_files_max}", hint="split the task"
            )
        for change in changes:
            check_path(change.path)
            if not is_utf8(change.path):
                raise Rejected(f"the name {change.path!r} is not UTF-8", hint="rename it outside of a task first")
            if {change.old_mode, change.new_mode} & {LINK, SUBMODULE}:
                raise Rejected(f"{change.path!r} is a link or submodule", hint="only regular files can be changed")

    def _mark_shallow(self, commit: str) -> None:
        """Tells git that the commit's parents are not here; one small append is atomic between processes."""
        handle = os.open(self._git.git_dir / "shallow", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, f"{commit}\n".encode())
        finally:
            os.close(handle)

    async def _store_blobs(self, contents: Sequence[bytes]) -> list[str]:
        if not contents:
            return []
        with tempfile.TemporaryDirectory(dir=self.root) as scratch:
            for number, content in enumerate(contents):
                (Path(scratch) / str(number)).write_bytes(content)
            names = "".join(f"{scratch}/{number}\n" for number in range(len(contents)))
            output = await self._git.run("hash-object", "-w", "--no-filters", "--stdin-paths", stdin=os.fsencode(names))
        return output.decode().split()

    @contextlib.asynccontextmanager
    async def _index(self, commit: str) -> AsyncIterator[dict[str, str]]:
        """A private index that holds the commit's tree, as environment for the commands that use it."""
        with tempfile.TemporaryDirectory(dir=self.root) as scratch:
            extra = {"GIT_INDEX_FILE": f"{scratch}/index"}
            try:
                await self._git.run("read-tree", checked_sha(commit), extra=extra)
            except GitError as error:
                raise NotFound(
                    f"the store holds no commit {commit}", hint="import it from its repository first"
                ) from error
            yield extra

    @staticmethod
    async def _resolve(git: Git, ref: str) -> str | None:
        with contextlib.suppress(GitError):
            return (await git.run("rev-parse", "--verify", "--quiet", ref)).decode().strip()
        return None

    async def _new_objects(self, user: Git, commit: str) -> list[str]:
        """The objects of `commit` and those before it that the user's repository has not."""
        wanted: list[str] = []
        at = commit
        for _ in range(1000):
            if await user.succeeds("cat-file", "-e", f"{at}^{{commit}}"):
                return wanted
            tree, parent = await self._commit_links(at)
            raw = await self._git.run("diff-tree", "-r", "-t", "-z", "--raw", "--no-renames", "--no-abbrev", parent, at)
            fields = [parse_change(*pair) for pair in zip(*[iter(raw.split(b"\0")[:-1])] * 2, strict=True)]
            wanted += [at, tree, *(c.new_blob for c in fields if c.new_blob != ABSENT and c.new_mode != SUBMODULE)]
            at = parent
        raise Refused(f"{commit} is more than 1000 commits ahead of the user's repository")

    async def _commit_links(self, commit: str) -> tuple[str, str]:
        headers = (
            (await self._git.run("cat-file", "commit", commit)).decode("utf-8", "replace").split("\n\n")[0].split("\n")
        )
        tree = next(line[5:] for line in headers if line.startswith("tree "))
        parent = next((line[7:] for line in headers if line.startswith("parent ")), None)
        if parent is None or not await self._git.succeeds("cat-file", "-e", parent):
            raise Refused(
                f"the user's repository no longer holds {commit}", hint="was its history rewritten? submit again"
            )
        return checked_sha(tree), checked_sha(parent)


def _make_fresh(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise Refused(f"{folder} is not empty", hint="a tree is written into a fresh folder only")
    except OSError as error:
        raise Unavailable(
            f"{folder} cannot be made: {error.strerror}", hint="check the folder's permissions"
        ) from error


def _identity(date: str) -> dict[str, str]:
    return {
        f"GIT_{who}_{field}": value
        for who in ("AUTHOR", "COMMITTER")
        for field, value in (("NAME", AUTHOR), ("EMAIL", AUTHOR_EMAIL), ("DATE", date))
    }


def _task_ref(task_id: str) -> str:
    if not is_uuid(task_id):
        raise Rejected(f"{task_id!r} is not a task id")
    return f"refs/heads/gavotte/{task_id}"


def _other_commit(repository: Path, ref: str, held: str) -> Refused:
    hint = f"it is never forced: git -C {repository} branch -m {ref.removeprefix('refs/heads/')} <another name>"
    return Refused(f"{repository} already has {ref} at another commit, {held[:12]}", hint=hint)
