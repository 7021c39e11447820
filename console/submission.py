"""A submission: what a person asks for, checked against their repository, recorded, then announced."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from contracts import ids
from contracts.errors import Conflict, NotFound, Refused, Rejected, Usage
from contracts.events import INLINE_BYTES_MAX, Body, Budget, TaskSubmitted
from contracts.redaction import holds_own, redacted

if TYPE_CHECKING:
    from agents.projects import Registry
    from agents.tools.repositories import RepositoryFacts
    from agents.tools.workspace import GitStore
    from agents.wiring import Runtime
    from contracts.project import Project
    from state_store.port import Recorded

Author = Literal["model", "command", "patch"]
TITLE_CHARACTERS_MAX = 200
PATCH_BYTES_MAX = 16 * 1024 * 1024
DESCRIPTION_BYTES_MAX = 256 * 1024
TENANT = "default"


@dataclass(frozen=True)
class Wish:
    """What was asked for. `patch` is the diff's bytes, `command` the words of a codemod; `author` says which counts."""

    repository: Path
    author: Author
    title: str = ""
    description: str = ""
    command: tuple[str, ...] = ()
    patch: bytes | None = None
    scope: tuple[str, ...] = ()
    budget: Budget = field(default_factory=Budget)
    revisions_max: int = 3
    idempotency_key: str | None = None


@dataclass(frozen=True)
class Submitted:
    """What became of it. `new_project` is set where the repository was registered on the way."""

    task_id: str
    title: str
    facts: RepositoryFacts
    project: Project
    new_project: bool


async def submit(runtime: Runtime, wish: Wish) -> Submitted:
    """Record the submission and announce it. Nothing is recorded where the wish is off."""
    from agents.wiring import announce

    check_wish(wish)
    git = git_store(runtime)
    facts = await inspect(git, wish.repository)
    check_model(runtime, wish)
    await git.import_commit(facts.path, facts.head_commit)
    project, new = await _project_of(runtime, git, facts)
    payload = TaskSubmitted(
        title=redacted(title_of(wish)),
        description=redacted(wish.description),
        author=wish.author,
        repository=str(facts.path),
        project_id=project.project_id,
        project_digest=project.digest,
        base_commit=facts.head_commit,
        command=wish.command,
        patch=await _patch_body(runtime, wish.patch),
        scope=wish.scope,
        budget=wish.budget,
        revisions_max=wish.revisions_max,
        submitter=runtime.settings.operator_name,
        idempotency_key=wish.idempotency_key,
    )
    recorded = await _record(runtime, payload)
    await announce(runtime, [recorded])
    return Submitted(recorded.envelope.task_id, payload.title, facts, project, new)


async def _record(runtime: Runtime, payload: TaskSubmitted) -> Recorded:
    from contracts.envelope import root
    from state_store.port import Encoded

    key = payload.idempotency_key
    task_id = ids.task_id_for(TENANT, key) if key else ids.uuid7()
    event_id = ids.derived_of(task_id, "submission")
    event = runtime.traced(root(payload, task_id=task_id, tenant=TENANT, event_id=event_id))
    value = runtime.codec.encode_payload(payload)
    try:
        recorded = (await runtime.store.append([Encoded(event, value)]))[0]
    except Conflict:
        recorded = None
    if recorded is None or recorded.value != value:
        raise Conflict(
            f"the idempotency key {key!r} was used for another submission, task {task_id}",
            hint="take another key, or submit exactly the same",
        )
    return recorded


def check_wish(wish: Wish) -> None:
    """That the author has what it needs; raises Usage."""
    if wish.author == "command" and not wish.command:
        raise Usage("the author `command` needs a command", hint='--command "ruff check --fix ."')
    if wish.author == "patch" and not wish.patch:
        raise Usage(
            "the patch is empty" if wish.patch is not None else "the author `patch` needs a patch",
            hint="--patch FILE, or - for stdin",
        )
    if wish.patch is not None and len(wish.patch) > PATCH_BYTES_MAX:
        raise Usage(
            f"the patch has {len(wish.patch) >> 20} MiB, the cap is {PATCH_BYTES_MAX >> 20}", hint="split the task"
        )
    if (size := len(wish.description.encode("utf-8", "replace"))) > DESCRIPTION_BYTES_MAX:
        raise Usage(
            f"the description has {size >> 10} KiB, the cap is {DESCRIPTION_BYTES_MAX >> 10}",
            hint="say what is to be done, and name the files where more of it stands",
        )
    shown = (*wish.command, wish.patch.decode("utf-8", "replace") if wish.patch else "")
    if any(holds_own(text) for text in shown):  # what is recorded is for good, and cannot be cut without being changed
        raise Usage(f"the {wish.author} holds a secret of this installation", hint="take it out and submit again")
    if wish.author == "model" and not (wish.title or wish.description):
        raise Usage("say what is to be done", hint='gavotte submit "split() loses a cent" --repo PATH')


def check_model(runtime: Runtime, wish: Wish) -> None:
    """That a model is there where one is to write; raises Refused."""
    if wish.author == "model" and runtime.settings.model.chosen == "none":
        raise Refused(
            "no model is configured, so nobody could write this change",
            hint='export ANTHROPIC_API_KEY=..., or --author command --command "...", or --author patch --patch FILE',
        )


def title_of(wish: Wish) -> str:
    """The title given, else the first line of the description, else what the author will do."""
    first = next((line.strip() for line in wish.description.splitlines() if line.strip()), "")
    made = "Apply a patch" if wish.author == "patch" else f"Run {shlex.join(wish.command)}"
    return (wish.title or first or made)[:TITLE_CHARACTERS_MAX]


async def inspect(git: GitStore, repository: Path) -> RepositoryFacts:
    """The facts of a repository that a person named; whatever is off with it is a matter of usage."""
    try:
        return await git.inspect(repository)
    except (NotFound, Rejected) as error:
        raise Usage(error.message, hint=error.hint) from None


def git_store(runtime: Runtime) -> GitStore:
    """The git store of the data folder."""
    from agents.tools.workspace import GitStore

    return GitStore(runtime.settings.git, work=runtime.settings.work)


def registry(runtime: Runtime, git: GitStore) -> Registry:
    """The projects of the data folder."""
    from agents.projects import Registry
    from agents.tools.testing import detect_test_command

    return Registry(git, runtime.store, runtime.settings.data, detect_test_command)


async def _project_of(runtime: Runtime, git: GitStore, facts: RepositoryFacts) -> tuple[Project, bool]:
    """The project of the repository; an unknown one is registered with safe defaults, its own wishes unread."""
    from agents.projects import Proposal
    from contracts.project import project_id_for

    known = await runtime.store.project(project_id_for(facts.path))
    if known is not None:
        return known, False
    made = await registry(runtime, git).add(facts.path, Proposal(), time_us=ids.now_us(), follow_repository=False)
    return made, True


async def _patch_body(runtime: Runtime, patch: bytes | None) -> Body | None:
    """The patch as a body; what is large or no UTF-8 text is stored and travels as its digest."""
    if patch is None:
        return None
    try:
        text = patch.decode()
    except UnicodeDecodeError:
        text = None
    if text is not None and len(patch) <= INLINE_BYTES_MAX:
        return Body.of(text)
    await runtime.store.put_body(patch)
    return Body(digest="sha256:" + hashlib.sha256(patch).hexdigest(), size_bytes=len(patch))
