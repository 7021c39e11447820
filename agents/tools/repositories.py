"""A user's own repository, read without running anything that its configuration names."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from agents.tools.git import Git, GitError, checked_sha
from contracts.errors import NotFound, Rejected

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class RepositoryFacts:
    """What a user's repository is at this moment. `dirty_files` is None where it could not be counted."""

    path: Path
    git_dir: Path
    head_commit: str
    branch: str | None
    dirty_files: int | None
    files: int


@dataclass(frozen=True)
class UserRepository:
    """The repository at `top`; `git` acts on its git directory, `store` on ours."""

    top: Path
    git: Git
    store: Git

    @classmethod
    def at(cls, path: Path, store: Git) -> Self:
        """The repository that holds `path`; NotFound or Rejected with a hint where there is none to use."""
        here = path.expanduser()
        if not here.exists():
            raise NotFound(f"there is no folder {path}", hint="check the path of the repository")
        top, git_dir = _locate(here.resolve())
        return cls(top, replace(store, git_dir=git_dir), store)

    async def facts(self) -> RepositoryFacts:
        """Head, branch and counts. Raises Rejected for a repository without commits or with sha256 names."""
        with contextlib.suppress(GitError):
            if (await self.git.run("config", "--local", "--get", "extensions.objectformat")).strip() == b"sha256":
                raise Rejected(
                    f"{self.top} uses sha256 object names", hint="only sha1 repositories are supported so far"
                )
        try:
            head = (await self.git.run("rev-parse", "--verify", "--quiet", "HEAD^{commit}")).decode().strip()
            listing = await self.git.run("ls-tree", "-r", "-z", "--name-only", "--full-tree", checked_sha(head))
        except GitError as error:
            if error.reason:
                raise Rejected(f"{self.top} cannot be read: {error.reason}", hint="check it with: git fsck") from error
            raise Rejected(
                f"{self.top} has no commits yet", hint="commit something first: git add -A && git commit"
            ) from None
        dirty = await self._dirty(head)
        return RepositoryFacts(self.top, self.git.git_dir, head, await self._branch(), dirty, listing.count(b"\0"))

    async def _branch(self) -> str | None:
        with contextlib.suppress(GitError):
            return (await self.git.run("symbolic-ref", "--quiet", "--short", "HEAD")).decode("utf-8", "replace").strip()
        return None

    async def _dirty(self, head: str) -> int | None:
        """Files that differ from HEAD or are untracked.

        Asked with the *store's* configuration over a copy of the user's index: with the user's own, the clean filter
        of an attribute would run.
        """
        common = _common_dir(self.git.git_dir)
        exclude = common / "info" / "exclude"
        commands: Sequence[Sequence[str]] = (
            ("diff-files", "--name-only", "-z", "--ignore-submodules=all", "--no-ext-diff"),
            ("diff-index", "--cached", "--name-only", "-z", "--ignore-submodules=all", "--no-ext-diff", head),
            ("ls-files", "--others", "-z", "--exclude-per-directory=.gitignore")
            + ((f"--exclude-from={exclude}",) if exclude.is_file() else ()),
        )
        paths: set[bytes] = set()
        with tempfile.TemporaryDirectory(dir=self.store.git_dir) as scratch:
            index = Path(scratch) / "index"
            extra = {
                "GIT_INDEX_FILE": str(index),
                "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(common / "objects"),
                "GIT_WORK_TREE": str(self.top),
            }
            try:
                if (self.git.git_dir / "index").is_file():
                    shutil.copyfile(self.git.git_dir / "index", index)
                with contextlib.suppress(
                    GitError
                ):  # what was copied or changed hands has other times, and may be the same
                    await self.store.run("-C", str(self.top), "update-index", "-q", "--refresh", extra=extra)
                for command in commands:
                    output = await self.store.run("-C", str(self.top), *command, extra=extra)
                    paths.update(filter(None, output.split(b"\0")))
            except (GitError, OSError):
                return None
        return len(paths)


def _locate(path: Path) -> tuple[Path, Path]:
    """The top folder and the git directory of what holds `path`, also where `.git` is a file that points elsewhere."""
    folder = path if path.is_dir() else path.parent
    for top in (folder, *folder.parents):
        dot_git = top / ".git"
        if dot_git.is_dir() and (dot_git / "HEAD").exists():
            return top, dot_git
        if dot_git.is_file():
            return top, _pointed_at(dot_git)
        if top.name == ".git":
            continue  # the folder above is meant
        if (top / "HEAD").is_file() and (top / "objects").is_dir() and (top / "refs").is_dir():
            raise Rejected(f"{top} is a bare repository", hint="give a clone with files: git clone <it> <folder>")
    raise Rejected(f"{path} is not in a git repository", hint=f"make it one: git -C {folder} init, then add and commit")


def _pointed_at(dot_git: Path) -> Path:
    text = dot_git.read_text("utf-8", "replace").strip() if dot_git.stat().st_size < 8192 else ""
    target = dot_git.parent / text.removeprefix("gitdir:").strip()
    if not text.startswith("gitdir:") or not (target / "HEAD").exists():
        raise Rejected(f"{dot_git} points at no git directory", hint="repair the work tree: git worktree repair")
    return target.resolve()


def _common_dir(git_dir: Path) -> Path:
    pointer = git_dir / "commondir"
    return (git_dir / pointer.read_text("utf-8").strip()).resolve() if pointer.is_file() else git_dir
