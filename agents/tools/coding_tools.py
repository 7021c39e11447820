"""The coding role's tools: search, read, edit and test a draft; turn it, a command or a patch into a commit of the task."""

from __future__ import annotations

import asyncio
import itertools
import shlex
from collections.abc import Mapping, Sequence

from pydantic import BaseModel

from agents.session import Session
from agents.tools.drafts import FILE_BYTES_MAX, BadEdit, Draft, Edit
from agents.tools.environment import with_own_programs
from agents.tools.evidence import choose_project_sandbox, evidence_of, project_environment, run_project_tests
from agents.tools.gates import in_scope
from agents.tools.grounding import WILD
from agents.tools.toolbox import Resources, Toolbox, tool, tool_with_runs
from agents.tools.workspace import NewContent
from contracts.errors import GavotteError, NotFound, Rejected
from contracts.events import Body, Evidence, FileChange, is_utf8
from contracts.project import Project

OUTPUT_CHARACTERS = 4000
FILES_BYTES_MAX = 1 << 20
FILES_OF_PATTERN_MAX = 20
HITS_MAX = 50
HITS_IN_FILE_MAX = 8
HIT_CHARACTERS_MAX = 300
SEARCHED_BYTES_MAX = 32 << 20
SEARCHED_AT_ONCE = 500
NOT_FOUND = 127
CUT_SHORT = range(126, 128 + 65)  # the shell's: not executable, not found, ended by a signal


class CommandRequest(BaseModel):
    """A command to run over the base tree, for instance a linter's fix."""

    base: str
    command: tuple[str, ...]


class PatchOnBase(BaseModel):
    """A unified diff to apply to the base tree."""

    base: str
    patch: Body


class EditsOnBase(BaseModel):
    """Edits to the base tree, applied in order; each revision is a whole change against the base.

    `scope` are the patterns of the plan; None where nobody bounds the edits.
    """

    base: str
    summary: str = ""
    edits: tuple[Edit, ...] = ()
    scope: tuple[str, ...] | None = None


class Authored(BaseModel):
    """The change as a commit on the task's branch; `problem` says why there is none."""

    head_commit: str = ""
    digest: str = ""
    branch: str = ""
    files: tuple[FileChange, ...] = ()
    diff: Body | None = None
    output: str = ""
    problem: str = ""
    problem_code: str = ""
    hint: str = ""


class FilesRequest(BaseModel):
    """Paths of a commit to read."""

    commit: str
    paths: tuple[str, ...]


class FileTexts(BaseModel):
    """Contents by path; what cannot be read is left out."""

    texts: dict[str, str] = {}


class SearchRequest(BaseModel):
    """A text to find in the tree of the draft whose digest is `tree`, below `path` where that is given."""

    tree: str
    text: str
    path: str = ""


class Hit(BaseModel):
    """A line with the text that was searched for; lines count from 1."""

    path: str
    line: int
    text: str


class Found(BaseModel):
    """Where a text stands: paths whose name holds it, and lines. `problem` says what was not searched."""

    names: tuple[str, ...] = ()
    hits: tuple[Hit, ...] = ()
    problem: str = ""


class ReadRequest(BaseModel):
    """Lines of a file of the draft whose digest is `tree`, from line `first` on."""

    tree: str
    path: str
    first: int = 1
    lines: int = 400


class Shown(BaseModel):
    """A part of a file; `problem` says why there is none."""

    text: str = ""
    first: int = 1
    total: int = 0
    problem: str = ""


class EditRequest(BaseModel):
    """One edit of the draft whose digest is `tree`."""

    tree: str
    edit: Edit


class Edited(BaseModel):
    """The digest of the draft after the edit; `problem` says why it was not made."""

    tree: str = ""
    problem: str = ""


class TreeRequest(BaseModel):
    """The draft whose digest is `tree`."""

    tree: str


class Tried(BaseModel):
    """What the tests say of a draft, and the end of what they printed."""

    evidence: Evidence
    output: str = ""


class CodingTools(Toolbox):
    """Writes go to the git store alone; the user's repository is not touched.

    A change of a model is a draft in memory. Each call names the draft's digest, so that a rerun which takes recorded calls
    and makes the others anew goes on with the very same tree.
    """

    def __init__(self, session: Session, resources: Resources) -> None:
        super().__init__(session, resources)
        self.draft = Draft("")

    @tool_with_runs
    async def run_command(self, arguments: CommandRequest) -> Authored:
        """Run the author's command in the sandbox and commit what it changed."""
        project = await self.project()
        sandbox = await choose_project_sandbox(self.resources)
        limits = self.resources.limits_of(project, self.session.state.budget.wall_seconds)
        async with self.resources.git.worktree(arguments.base) as tree:
            ran = await sandbox.run(
                arguments.command,
                tree=tree,
                environment=with_own_programs(project_environment(project)),
                limits=limits,
                collect_changes=True,
            )
            ignored = await self.resources.git.ignored(arguments.base, tree, list(ran.changed))
        output = ran.output[-OUTPUT_CHARACTERS:]
        if ran.timed_out:
            problem = f"the command did not end within {limits.wall_seconds:g} s"
            return Authored(problem=problem, problem_code="command_timeout", output=output)
        if ran.stopped:
            problem = f"the command was stopped: {ran.stopped}"
            return Authored(problem=problem, problem_code="command_stopped", output=output)
        changed = {
            path: NewContent(made.content, made.executable) for path, made in ran.changed.items() if path not in ignored
        }
        if not changed and not ran.deleted:
            but = " but files that git ignores" if ignored else ""
            problem = f"the command changed nothing{but} (exit {ran.exit_code})"
            hint = not_found(project, arguments.command) if ran.exit_code == NOT_FOUND else ""
            return Authored(problem=problem, problem_code="no_change", output=output, hint=hint)
        if ran.exit_code in CUT_SHORT:  # a linter that found something may well end with 1; half a change is none
            problem = f"the command was cut short (exit {ran.exit_code}), so its changes are not taken"
            return Authored(problem=problem, problem_code="command_failed", output=output)
        authored = await self._commit(arguments.base, changed, ran.deleted, f"Run {shlex.join(arguments.command)}")
        return authored.model_copy(update={"output": output})

    @tool
    async def apply_patch(self, arguments: PatchOnBase) -> Authored:
        """Apply the submitted diff and commit it; a diff that does not apply is a finding, not a failure."""
        git = self.resources.git
        try:
            tree = await git.apply_patch(arguments.base, await self.text(arguments.patch))
        except Rejected as error:
            return Authored(problem=str(error), problem_code="does_not_apply")
        return await self._commit_tree(arguments.base, tree, self.session.state.title)

    @tool
    async def apply_edits(self, arguments: EditsOnBase) -> Authored:
        """Apply exact-match edits to the base and commit them."""
        draft = Draft(arguments.base, arguments.scope)
        try:
            for edit in arguments.edits:
                draft = await self._edited(draft, edit)
        except BadEdit as error:
            return Authored(problem=str(error), problem_code="bad_edit")
        raw = bytes_of(draft)
        changed = {path: NewContent(content) for path, content in raw.items() if content is not None}
        deleted = [path for path, content in raw.items() if content is None]
        return await self._commit(arguments.base, changed, deleted, arguments.summary or self.session.state.title)

    @tool
    async def read_files(self, arguments: FilesRequest) -> FileTexts:
        """Read text files of a commit, each up to 256 KiB, and 1 MiB in all; a pattern stands for its first files."""
        listing = [entry.path for entry in await self.resources.git.list_files(arguments.commit)]
        wanted: dict[str, None] = {}
        for name in arguments.paths:
            matched = [path for path in listing if in_scope(path, (name,))] if WILD.search(name) else [name]
            wanted.update(dict.fromkeys(matched[:FILES_OF_PATTERN_MAX]))
        texts: dict[str, str] = {}
        for path in wanted:
            try:
                text = await self._text(arguments.commit, path)
            except GavotteError:
                continue
            if sum(map(len, texts.values())) + len(text) <= FILES_BYTES_MAX:
                texts[path] = text
        return FileTexts(texts=texts)

    @tool
    async def search(self, arguments: SearchRequest) -> Found:
        """Find a text in the files of the draft and in their names; case does not matter."""
        wanted, drafted = arguments.text.lower(), self.draft.texts
        entries = [
            entry
            for entry in await self.resources.git.list_files(self.draft.base)
            if is_utf8(entry.path) and entry.path not in drafted and _is_below(entry.path, arguments.path)
        ]
        mine = {p: text for p, text in sorted(drafted.items()) if text is not None and _is_below(p, arguments.path)}
        names = sorted(path for path in (*mine, *(entry.path for entry in entries)) if wanted in path.lower())
        hits = [hit for path, text in mine.items() for hit in hits_in(path, text, wanted)]
        readable = [entry for entry in entries if entry.size_bytes <= FILE_BYTES_MAX]
        budget, problem = SEARCHED_BYTES_MAX, ""
        for start in range(0, len(readable), SEARCHED_AT_ONCE):
            part = readable[start : start + SEARCHED_AT_ONCE]
            budget -= sum(entry.size_bytes for entry in part)
            if budget < 0 or len(hits) >= HITS_MAX:
                problem = "not everything was searched: give a longer text, or a path"
                break
            contents = await self.resources.git.read_blobs([entry.blob for entry in part])
            texts = {entry.path: contents[entry.blob] for entry in part}
            hits += await asyncio.to_thread(hits_in_files, texts, wanted)
        return Found(names=tuple(names[:HITS_MAX]), hits=tuple(hits[:HITS_MAX]), problem=problem)

    @tool
    async def read(self, arguments: ReadRequest) -> Shown:
        """Show lines of a file as the draft has it."""
        try:
            text = await self.text_now(arguments.path)
        except GavotteError as error:
            return Shown(problem=str(error))
        lines = text.splitlines(keepends=True)
        first = max(arguments.first, 1)
        part = lines[first - 1 : first - 1 + max(arguments.lines, 1)]
        return Shown(text="".join(part), first=first, total=len(lines))

    @tool
    async def edit(self, arguments: EditRequest) -> Edited:
        """Try an exact-match edit on the draft; `accept` makes it."""
        try:
            return Edited(tree=(await self._edited(self.draft, arguments.edit)).digest)
        except BadEdit as error:
            return Edited(problem=str(error))

    @tool_with_runs
    async def run_tests(self, arguments: TreeRequest) -> Tried:
        """Run the project's tests on the draft, for the author's own information; review does not rely on it."""
        project, overlay = await self.project(), bytes_of(self.draft)
        report = await run_project_tests(self.resources, project, self.draft.base, overlay=overlay)
        return Tried(evidence=evidence_of(report, arguments.tree, ""), output=report.output_tail[-OUTPUT_CHARACTERS:])

    async def accept(self, edit: Edit) -> None:
        """Make an edit that was tried: pure, so the same on every rerun."""
        self.draft = await self._edited(self.draft, edit)

    async def text_now(self, path: str) -> str:
        """A file as the draft has it. Raises NotFound or TooLarge."""
        if path not in self.draft.texts:
            return await self.text_at_base(path)
        text = self.draft.texts[path]
        if text is None:
            raise NotFound(f"{path!r} was deleted by an edit")
        return text

    async def text_at_base(self, path: str) -> str:
        """A file as it was before the change. Raises NotFound or TooLarge."""
        return await self._text(self.draft.base, path)

    # -- inside

    async def _edited(self, draft: Draft, edit: Edit) -> Draft:
        draft.check(edit)
        try:
            at_base: str | None = await self._text(draft.base, edit.path)
        except NotFound:
            at_base = None
        except GavotteError as error:
            raise BadEdit(str(error)) from None
        return draft.edited(edit, at_base)

    async def _text(self, commit: str, path: str) -> str:
        raw = await self.resources.git.read_file(commit, path, FILE_BYTES_MAX)
        return raw.decode("utf-8", "surrogateescape")

    async def _commit(
        self, base: str, changed: Mapping[str, NewContent], deleted: Sequence[str], message: str
    ) -> Authored:
        state = self.session.state
        try:
            head = await self.resources.git.commit_changes(
                base, changed, deleted, message=message, task_id=state.task_id, time_us=state.submitted_at_us
            )
        except Rejected as error:
            return Authored(problem=str(error), problem_code="no_change")
        return await self._authored(base, head)

    async def _commit_tree(self, base: str, tree: str, message: str) -> Authored:
        state = self.session.state
        head = await self.resources.git.commit_tree(
            base, tree, message=message, task_id=state.task_id, time_us=state.submitted_at_us
        )
        return await self._authored(base, head)

    async def _authored(self, base: str, head: str) -> Authored:
        git, task_id = self.resources.git, self.session.state.task_id
        ref = await git.branch(task_id, head, expected=await git.branch_head(task_id))
        diff = await git.diff(base, head)
        return Authored(
            head_commit=head,
            digest=await git.tree_digest(head),
            branch=ref.removeprefix("refs/heads/"),
            files=tuple(count_lines(diff, [(change.path, change.kind) for change in await git.changes(base, head)])),
            diff=await self.keep(diff),
        )


def not_found(project: Project, command: Sequence[str]) -> str:
    """How to give a project's commands a program that they lack."""
    install = shlex.quote(f"pip install -e . pytest {command[0]}")
    return (
        f"commands see the project's environment: gavotte project add {shlex.quote(project.path)} --prepare {install}"
    )


def bytes_of(draft: Draft) -> dict[str, bytes | None]:
    """What a draft changes, as files hold it; None for a file that is gone."""
    return {p: None if text is None else text.encode("utf-8", "surrogateescape") for p, text in draft.texts.items()}


def hits_in_files(files: Mapping[str, bytes], wanted: str) -> list[Hit]:
    """The lines of files that hold what is wanted, which is in lower case."""
    return [hit for path, raw in files.items() for hit in hits_in(path, raw.decode("utf-8", "replace"), wanted)]


def hits_in(path: str, text: str, wanted: str) -> list[Hit]:
    """The first lines of a text that hold what is wanted, which is in lower case."""
    if wanted not in text.lower():
        return []
    lines = ((number, line) for number, line in enumerate(text.splitlines(), 1) if wanted in line.lower())
    return [
        Hit(path=path, line=number, text=line[:HIT_CHARACTERS_MAX])
        for number, line in itertools.islice(lines, HITS_IN_FILE_MAX)
    ]


def _is_below(path: str, folder: str) -> bool:
    """Whether a path is the file, lies in the folder or matches the pattern that is named; all do where none is."""
    plain = folder.strip().rstrip("/")
    return plain in {"", "."} or path == plain or path.startswith(f"{plain}/") or in_scope(path, (folder,))


def count_lines(diff: str, changes: Sequence[tuple[str, str]]) -> list[FileChange]:
    """Lines added and removed per path, read off the unified diff in the order of `changes`."""
    counts: list[list[int]] = []
    in_hunk = False
    for line in diff.splitlines():
        if line.startswith("diff --git "):
            counts.append([0, 0])
            in_hunk = False
        elif line.startswith("@@"):
            in_hunk = True
        elif in_hunk and counts and line[:1] in {"+", "-"}:
            counts[-1][line[0] == "-"] += 1
    padded = counts + [[0, 0]] * (len(changes) - len(counts))
    return [
        FileChange.model_validate({"path": path, "kind": kind, "added": added, "removed": removed})
        for (path, kind), (added, removed) in zip(changes, padded, strict=False)
    ]
