"""The planning role's tools: look at the repository as it is, run its tests, read a patch, ask for a plan."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from agents.tools.evidence import evidence_of, keep_report, run_project_tests
from agents.tools.gates import grounded_scope
from agents.tools.judging import could_not_evaluate, imports_fail, prepare_line
from agents.tools.toolbox import Toolbox, tool, tool_with_runs
from contracts.errors import Rejected
from contracts.events import Body, Evidence, PlanStep, is_utf8
from contracts.harmless import marked
from contracts.prompts import Prompt

FILES_LISTED_MAX = 400
TAIL_CHARACTERS = 400
SOURCES_BYTES_MAX = 8 << 20


class SurveyRequest(BaseModel):
    """Which commit of which repository, and why its tests matter for this author."""

    repository: str
    commit: str


class Survey(BaseModel):
    """What is there: paths, and what the tests of the commit say. `problem` says why the task is out of bounds."""

    files: tuple[str, ...] = ()
    files_total: int = 0
    test_command: tuple[str, ...] = ()
    evidence: Evidence | None = None
    problem: str = ""
    problem_code: str = ""
    hint: str = ""


class PatchRequest(BaseModel):
    """A unified diff against a commit in the store."""

    base: str
    patch: Body


class PatchScope(BaseModel):
    """The paths that a task with a patch may touch; `problem` where the diff does not apply."""

    files: tuple[str, ...] = ()
    problem: str = ""


class PlanDraft(BaseModel):
    """What a model proposes; the code checks that each named file exists."""

    summary: str
    files: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    risk: Literal["low", "medium", "high"] = "low"
    steps: tuple[PlanStep, ...] = ()


class PlanningTools(Toolbox):
    """Three looks and a question; nothing here writes anywhere."""

    @tool_with_runs
    async def survey(self, arguments: SurveyRequest) -> Survey:
        """Copy the commit into the git store and run its tests as they are."""
        project = await self.project()
        git = self.resources.git
        commit = await git.import_commit(Path(arguments.repository), arguments.commit)
        names = tuple(entry.path for entry in await git.list_files(commit) if is_utf8(entry.path))
        found = Survey(
            files=names[:FILES_LISTED_MAX], files_total=len(names), test_command=project.settings.test_command
        )
        if not project.settings.test_command:
            hint = f'gavotte project add {shlex.quote(project.path)} --test "python -m pytest"'
            problem = f"{project.name} has no tests, so nothing could be shown to work"
            return found.model_copy(update={"problem": problem, "problem_code": "no_tests", "hint": hint})
        report = await run_project_tests(self.resources, project, commit)
        digest = await git.tree_digest(commit)
        evidence = evidence_of(report, digest, await keep_report(self.session.store, report))
        found = found.model_copy(update={"evidence": evidence})
        unclear = could_not_evaluate(report, "at the base")
        if not unclear:
            return found
        lacks_packages = imports_fail(report)
        hint = (
            prepare_line(project.path, report.missing_modules, names)
            if lacks_packages
            else f"gavotte project add {shlex.quote(project.path)} --test COMMAND"
        )
        said = "" if lacks_packages else report.output_tail.strip()[-TAIL_CHARACTERS:].partition("\n")[2]
        problem = f"the tests of {project.name} prove nothing: {unclear[0]}" + (f"\n{said}" if said else "")
        return found.model_copy(update={"problem": problem, "problem_code": "tests_do_not_run", "hint": hint})

    @tool
    async def scope_patch(self, arguments: PatchRequest) -> PatchScope:
        """Say which source files the task is about, from its words and the tests, not from the patch alone."""
        git, state = self.resources.git, self.session.state
        try:
            tree = await git.apply_patch(arguments.base, await self.text(arguments.patch))
        except Rejected as error:
            return PatchScope(problem=str(error))
        touched = [change.path for change in await git.changes(arguments.base, tree)]
        entries = [
            entry
            for entry in await git.list_files(arguments.base)
            if entry.path.endswith(".py") and is_utf8(entry.path)
        ]
        if sum(entry.size_bytes for entry in entries) > SOURCES_BYTES_MAX:
            return PatchScope(files=tuple(touched))
        contents = await git.read_blobs([entry.blob for entry in entries])
        by_path = {entry.path: contents[entry.blob] for entry in entries}
        words = f"{state.title}\n{state.description}"
        about = await asyncio.to_thread(grounded_scope, list(by_path), by_path.get, words)
        other = [path for path in touched if not path.endswith(".py")]
        return PatchScope(files=(*about, *other) if about else tuple(touched))

    async def draft_plan(self, survey: Survey, prompt: Prompt) -> PlanDraft:
        """Ask the model for a plan, grounded in the files that exist."""
        state = self.session.state
        listing = "\n".join(survey.files)
        task = marked("task", f"{state.title}\n\n{state.description}")
        content = f"{task}\n{marked('files', listing, total=survey.files_total)}"
        return await self.ask_model(prompt.name, prompt.text, content, PlanDraft, turn=0, why="plan the task")
