"""The coding role's tools: read files, turn a command, a patch or edits into a commit on the task's branch, try tests."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from agents.tools.environment import with_own_programs
from agents.tools.evidence import choose_project_sandbox, evidence_of, project_environment, run_project_tests
from agents.tools.toolbox import Toolbox, tool, tool_with_runs
from agents.tools.workspace import NewContent
from contracts.errors import GavotteError, NotFound, Rejected
from contracts.events import Body, Evidence, FileChange, Finding
from contracts.harmless import marked
from contracts.project import Project
from contracts.prompts import Prompt
from contracts.redaction import MASK

FILE_BYTES_MAX = 256 * 1024
OUTPUT_CHARACTERS = 4000
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


class Edit(BaseModel):
    """Replace `find`, which must occur exactly once, by `replace`; an empty `find` makes a new file."""

    model_config = ConfigDict(extra="forbid")

    path: str
    find: str = ""
    replace: str = ""


class EditsOnBase(BaseModel):
    """Edits to the base tree, applied in order; each revision is a whole change against the base."""

    base: str
    summary: str = ""
    edits: tuple[Edit, ...] = ()


class CommitRequest(BaseModel):
    """A commit whose tests are to be tried."""

    commit: str


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


class ChangeDraft(BaseModel):
    """What a model proposes as a change."""

    summary: str
    edits: tuple[Edit, ...]


class CodingTools(Toolbox):
    """Writes go to the git store alone; the user's repository is not touched."""

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
        texts: dict[str, str] = {}
        if sum(len(edit.replace) for edit in arguments.edits) > FILE_BYTES_MAX:
            return Authored(problem=f"the edits hold more than {FILE_BYTES_MAX >> 10} KiB", problem_code="too_large")
        for edit in arguments.edits:
            if MASK in edit.replace and MASK not in edit.find:
                return Authored(problem=f"the edit of {edit.path!r} writes a masked secret", problem_code="bad_edit")
            try:
                text = texts[edit.path] if edit.path in texts else await self._text(arguments.base, edit.path)
            except NotFound:
                if edit.find:
                    return Authored(problem=f"there is no file {edit.path!r} to edit", problem_code="bad_edit")
                text = ""
            found = text.count(edit.find) if edit.find else 0
            if edit.find and found != 1:
                problem = f"the text to replace occurs {found} times in {edit.path!r}, it must occur once"
                return Authored(problem=problem, problem_code="bad_edit")
            texts[edit.path] = text.replace(edit.find, edit.replace) if edit.find else edit.replace
        changed = {path: NewContent(text.encode("utf-8", "surrogateescape")) for path, text in texts.items()}
        return await self._commit(arguments.base, changed, (), arguments.summary or self.session.state.title)

    @tool
    async def read_files(self, arguments: FilesRequest) -> FileTexts:
        """Read text files of a commit, each up to 256 KiB."""
        texts = {}
        for path in arguments.paths:
            try:
                texts[path] = await self._text(arguments.commit, path)
            except GavotteError:
                continue
        return FileTexts(texts=texts)

    @tool_with_runs
    async def try_tests(self, arguments: CommitRequest) -> Evidence:
        """Run the project's tests on the change, for the author's own information; review does not rely on it."""
        report = await run_project_tests(self.resources, await self.project(), arguments.commit)
        return evidence_of(report, await self.resources.git.tree_digest(arguments.commit), "")

    async def draft_change(
        self, prompt: Prompt, plan: str, texts: Mapping[str, str], findings: Sequence[Finding], turn: int
    ) -> ChangeDraft:
        """Ask the model for edits, given the plan, the files it names and what review found last time."""
        state = self.session.state
        files = "\n".join(marked("file", text, path=path) for path, text in texts.items())
        found = "\n".join(f"- [{f.severity}] {f.file or ''}:{f.line or ''} {f.message} {f.evidence}" for f in findings)
        task = marked("task", f"{state.title}\n\n{state.description}")
        content = f"{task}\n{marked('plan', plan)}\n{files}\n{marked('findings', found)}"
        return await self.ask_model(prompt.name, prompt.text, content, ChangeDraft, turn=turn, why="write the change")

    # -- inside

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
