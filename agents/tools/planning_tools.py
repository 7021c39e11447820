"""The planning role's tools: look at the repository as it is, run its tests, read a patch, ask for a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from agents.tools.evidence import evidence_of, keep_report, run_project_tests
from agents.tools.judging import could_not_evaluate, imports_fail, prepare_line
from agents.tools.toolbox import Toolbox, tool
from contracts.errors import Rejected
from contracts.events import Evidence, PlanStep
from contracts.prompts import Prompt

FILES_LISTED_MAX = 400
TAIL_CHARACTERS = 400


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
    diff: str


class PatchPaths(BaseModel):
    """The paths that a diff names; `problem` where it is no diff at all."""

    paths: tuple[str, ...] = ()
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

    @tool
    async def survey(self, arguments: SurveyRequest) -> Survey:
        """Copy the commit into the git store and run its tests as they are."""
        project = await self.project()
        git = self.resources.git
        commit = await git.import_commit(Path(arguments.repository), arguments.commit)
        names = tuple(entry.path for entry in await git.list_files(commit))
        found = Survey(
            files=names[:FILES_LISTED_MAX], files_total=len(names), test_command=project.settings.test_command
        )
        if not project.settings.test_command:
            hint = f'gavotte project add {project.path} --test "python -m pytest"'
            problem = f"{project.name} has no tests, so nothing could be shown to work"
            return found.model_copy(update={"problem": problem, "problem_code": "no_tests", "hint": hint})
        report = await run_project_tests(self.resources, project, commit)
        digest = await git.tree_digest(commit)
        evidence = evidence_of(report, digest, await keep_report(self.session.store, report))
        found = found.model_copy(update={"evidence": evidence})
        unclear = could_not_evaluate(report, "at the base")
        if not unclear:
            return found
        hint = (
            prepare_line(project.path) if imports_fail(report) else f"gavotte project add {project.path} --test COMMAND"
        )
        said = report.output_tail.strip()[-TAIL_CHARACTERS:]
        problem = f"the tests of {project.name} say nothing: {unclear[0]}" + (f"\n{said}" if said else "")
        return found.model_copy(update={"problem": problem, "problem_code": "tests_do_not_run", "hint": hint})

    @tool
    async def read_patch(self, arguments: PatchRequest) -> PatchPaths:
        """List the paths that a submitted diff touches, as git itself applies it."""
        git = self.resources.git
        try:
            tree = await git.apply_patch(arguments.base, arguments.diff)
            return PatchPaths(paths=tuple(change.path for change in await git.changes(arguments.base, tree)))
        except Rejected as error:
            return PatchPaths(problem=str(error))

    async def draft_plan(self, survey: Survey, prompt: Prompt) -> PlanDraft:
        """Ask the model for a plan, grounded in the files that exist."""
        state = self.session.state
        listing = "\n".join(survey.files)
        content = (
            f"<untrusted kind=task>\n{state.title}\n\n{state.description}\n</untrusted>\n"
            f"<untrusted kind=files total={survey.files_total}>\n{listing}\n</untrusted>"
        )
        return await self.ask_model(prompt.name, prompt.text, content, PlanDraft, turn=0, why="plan the task")
