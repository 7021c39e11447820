"""Whether a plan speaks of what there is: its files exist or are new beside one that does, its tests are collected."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Final, Protocol

from agents.tools.gates import in_scope
from agents.tools.patches import check_path
from contracts.errors import Rejected

FILES_PLANNED_MAX: Final = 50
"""A plan that covers more files bounds nothing."""
FAULTS_MAX: Final = 20
NAME: Final = re.compile(r"[a-z0-9]{3,}")
WILD: Final = re.compile(r"[*?\[]|/$")


class Plan(Protocol):
    """The part of a plan that can be held against a repository."""

    @property
    def files(self) -> tuple[str, ...]: ...

    @property
    def tests(self) -> tuple[str, ...]: ...


def ungrounded(
    plan: Plan, paths: Collection[str], collected: Collection[str] | None, scope: Sequence[str] = ()
) -> Iterator[str]:
    """What is wrong with a plan, in words for its author.

    `paths` are those of the base, `collected` the ids of its tests (None where nobody knows), `scope` the patterns that
    the task is bound to, empty for none.
    """
    found = [*_faults_of_files(plan, paths, scope), *_faults_of_tests(plan, paths, collected)]
    yield from found[:FAULTS_MAX]
    if len(found) > FAULTS_MAX:
        yield f"and {len(found) - FAULTS_MAX} more"


def _faults_of_files(plan: Plan, paths: Collection[str], scope: Sequence[str]) -> Iterator[str]:
    if not plan.files:
        yield "the plan names no file to change"
    folders = {folder.as_posix() for path in paths for folder in PurePosixPath(path).parents} | {"."}
    covered = 0
    for name in plan.files:
        matched = [path for path in paths if in_scope(path, (name,))] if WILD.search(name) else [name]
        covered += len(matched)
        if not matched:
            yield f"no file matches {name!r}"
        elif scope and not all(in_scope(path, scope) for path in matched):
            yield f"{name!r} is more than the task allows: {', '.join(scope)}"
        elif matched == [name] and (fault := _fault_of_file(name, paths, folders)):
            yield fault
    if covered > FILES_PLANNED_MAX:
        yield f"the plan covers {covered} files, more than {FILES_PLANNED_MAX}: name those that change"


def _fault_of_file(name: str, paths: Collection[str], folders: Collection[str]) -> str:
    try:
        check_path(name)
    except Rejected as error:
        return error.message
    if name in folders:
        return f"{name!r} is a folder: name its files, or write {name + '/'!r}"
    if name not in paths and PurePosixPath(name).parent.as_posix() not in folders:
        return f"there is no file {name!r}, and no folder to put it in"
    return ""


def _faults_of_tests(plan: Plan, paths: Collection[str], collected: Collection[str] | None) -> Iterator[str]:
    for name in plan.tests:
        path = name.partition("::")[0].removesuffix("/")
        if in_scope(path, plan.files):
            continue  # it may be added there
        if path not in paths and not any(known.startswith(f"{path}/") for known in paths):
            yield f"there is no test file {path!r}, and the plan does not add one"
        elif collected is not None and not any(_is_part(test, name) for test in collected):
            yield f"no test is collected as {name!r}"


def _is_part(test: str, name: str) -> bool:
    """Whether a collected test is the one that is named, or one of its cases, class, file or folder.

    Ids begin where the tests were run, which may be a folder of the repository.
    """
    file, mark, inside = name.removesuffix("/").partition("::")
    ran = test.partition("::")[0]
    plain = f"{ran if file.endswith(f'/{ran}') else file}{mark}{inside}"
    return test == plain or test.startswith((f"{plain}::", f"{plain}[", f"{plain}/"))


def closest(paths: Sequence[str], words: str, most: int) -> tuple[str, ...]:
    """Of many paths those that the words speak of, rare names first, then those nearest to the root; in their order."""
    if len(paths) <= most:
        return tuple(paths)
    spoken = set(NAME.findall(words.lower()))
    parts = {path: spoken.intersection(NAME.findall(path.lower())) for path in paths}
    often = Counter(part for found in parts.values() for part in found)

    def rank(path: str) -> tuple[bool, float, int]:
        return path not in words, -sum(1 / often[part] for part in parts[path]), path.count("/")

    chosen = set(sorted(paths, key=rank)[:most])
    return tuple(path for path in paths if path in chosen)
