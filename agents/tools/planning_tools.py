"""The planning role's tools: look at the repository as it is, run its tests, read a patch, ask for a plan."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from agents.model.context import Part
from agents.tools.evidence import evidence_of, keep_report, kept_report, run_project_tests
from agents.tools.gates import grounded_scope, is_named
from agents.tools.grounding import closest, ungrounded
from agents.tools.judging import could_not_evaluate, imports_fail, is_pytest, prepare_line
from agents.tools.reports import TestReport
from agents.tools.testing import REPORT_VARIABLE
from agents.tools.toolbox import Toolbox, tool, tool_with_runs
from contracts.errors import Rejected
from contracts.events import Body, Evidence, PlanStep, is_utf8
from contracts.project import Project
from contracts.prompts import Prompt

FILES_LISTED_MAX = 400
TAIL_CHARACTERS = 400
TEST_COMMANDS = (
    ("package.json", "npm test"),
    ("Makefile", "make test"),
    ("Cargo.toml", "cargo test"),
    ("go.mod", "go test ./..."),
)
SOURCES_BYTES_MAX = 8 << 20
SOURCES_SHOWN_BYTES_MAX = 2 << 20
"""Of a larger repository no file is shown to who plans, only names."""
FILES_SHOWN_MAX = 8


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


class TriageVerdict(BaseModel):
    """Why the task is out of bounds, and a sentence for whoever submitted it; empty where it is in bounds."""

    out_of_bounds: Literal["", "not_a_change", "secrets", "production", "disables_review", "outside"] = ""
    reason: str = ""


class PlanDraft(BaseModel):
    """What a model proposes; the code checks that each named file exists and that each test is collected."""

    summary: str
    files: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    risk: Literal["low", "medium", "high"] = "low"
    steps: tuple[PlanStep, ...] = ()


class PlanningTools(Toolbox):
    """Two looks and two questions; nothing here writes anywhere."""

    async def triage(self, prompt: Prompt) -> TriageVerdict:
        """Ask a small model whether the task is in bounds, by its words alone."""
        parts = [Part("task", await self.task_text())]
        return await self.ask(prompt, parts, TriageVerdict, why="is the task in bounds?", purpose="triage")

    @tool_with_runs
    async def survey(self, arguments: SurveyRequest) -> Survey:
        """Copy the commit into the git store and run its tests as they are."""
        project = await self.project()
        git = self.resources.git
        commit = await git.import_commit(Path(arguments.repository), arguments.commit)
        names = tuple(entry.path for entry in await git.list_files(commit) if is_utf8(entry.path))
        found = Survey(
            files=closest(names, await self.task_text(), FILES_LISTED_MAX),
            files_total=len(names),
            test_command=project.settings.test_command,
        )
        if not project.settings.test_command:
            hint = f"gavotte project add {shlex.quote(project.path)} --test {shlex.quote(likely_test(names))}"
            problem = f"{project.name} has no tests, so nothing could be shown to work"
            return found.model_copy(update={"problem": problem, "problem_code": "no_tests", "hint": hint})
        report = await run_project_tests(self.resources, project, commit)
        digest = await git.tree_digest(commit)
        evidence = evidence_of(report, digest, await keep_report(self.session.store, report))
        found = found.model_copy(update={"evidence": evidence})
        unclear = could_not_evaluate(report, "at the base")
        if not unclear:
            return found
        hint = how_to_run(project, report, names)
        said = "" if imports_fail(report) else report.output_tail.strip()[-TAIL_CHARACTERS:].partition("\n")[2]
        problem = f"the tests of {project.name} prove nothing: {unclear[0]}" + (f"\n{said}" if said else "")
        return found.model_copy(update={"problem": problem, "problem_code": "tests_do_not_run", "hint": hint})

    @tool
    async def scope_patch(self, arguments: PatchRequest) -> PatchScope:
        """Say which source files the task is about, from its words and the tests, not from the patch alone."""
        git = self.resources.git
        try:
            tree = await git.apply_patch(arguments.base, await self.text(arguments.patch))
        except Rejected as error:
            return PatchScope(problem=str(error))
        touched = [change.path for change in await git.changes(arguments.base, tree)]
        about = await self._about(arguments.base, SOURCES_BYTES_MAX)
        if about is None:
            return PatchScope(files=tuple(touched))
        said = await self.task_text()
        other = [path for path in touched if not path.endswith(".py") or is_named(path, said)]
        return PatchScope(files=tuple(dict.fromkeys((*about, *other))) if about else tuple(touched))

    async def draft_plan(
        self, commit: str, survey: Survey, prompt: Prompt, before: PlanDraft | None, faults: Sequence[str]
    ) -> PlanDraft:
        """Ask the model for a plan, grounded in the files that exist; again with what was wrong with the one before."""
        state = self.session.state
        about = sorted(await self._about(commit, SOURCES_SHOWN_BYTES_MAX) or ())[:FILES_SHOWN_MAX]
        parts = [
            Part("task", await self.task_text(), least_bytes=2000),
            Part("scope", "\n".join(state.scope), gives_way=1),
            Part("files", "\n".join(survey.files), {"total": survey.files_total}, gives_way=3, least_bytes=4000),
            Part("tests", await self._tests_at_base(survey), gives_way=2),
            *[await self._file(commit, path) for path in about],
            Part("plan", before.model_dump_json() if before else "", gives_way=1),
            Part("faults", "\n".join(faults), gives_way=1),
            Part(
                "",
                "This plan was turned down for these faults. Give the whole plan again without them." if before else "",
            ),
        ]
        return await self.ask(prompt, parts, PlanDraft, why="mend the plan" if before else "plan the task")

    async def faults_of(self, draft: PlanDraft, commit: str, survey: Survey) -> list[str]:
        """What in a plan is not grounded in the commit. Commits and reports never change, so this is no step."""
        paths = frozenset(entry.path for entry in await self.resources.git.list_files(commit))
        collected = (await self._report(survey)).ids if survey.evidence and survey.evidence.report_digest else None
        return list(ungrounded(draft, paths, collected, tuple(self.session.state.scope)))

    # -- inside

    async def _about(self, commit: str, bytes_max: int) -> tuple[str, ...] | None:
        """The source files that the task is about; None where there is too much to read."""
        git = self.resources.git
        entries = [
            entry for entry in await git.list_files(commit) if entry.path.endswith(".py") and is_utf8(entry.path)
        ]
        if sum(entry.size_bytes for entry in entries) > bytes_max:
            return None
        contents = await git.read_blobs([entry.blob for entry in entries])
        by_path = {entry.path: contents[entry.blob] for entry in entries}
        words = await self.task_text()
        return await asyncio.to_thread(grounded_scope, list(by_path), by_path.get, words)

    async def _file(self, commit: str, path: str) -> Part:
        raw = await self.resources.git.read_file(commit, path, SOURCES_SHOWN_BYTES_MAX)
        return Part("file", raw.decode("utf-8", "replace"), {"path": path}, gives_way=4)

    async def _report(self, survey: Survey) -> TestReport:
        return await kept_report(self.session.store, survey.evidence.report_digest if survey.evidence else "")

    async def _tests_at_base(self, survey: Survey) -> str:
        """What the tests said before any change."""
        if survey.evidence is None:
            return ""
        words = [survey.evidence.summary, *(f"failed: {test}" for test in survey.evidence.failed)]
        if survey.evidence.failed and survey.evidence.report_digest:
            words.append((await self._report(survey)).output_tail)
        return "\n".join(words)


def likely_test(names: Sequence[str]) -> str:
    """A test command to try, by what lies at the top of the repository."""
    return next((command for name, command in TEST_COMMANDS if name in names), "python -m pytest")


def how_to_run(project: Project, report: TestReport, names: Sequence[str]) -> str:
    """What the operator can do where tests prove nothing."""
    add = f"gavotte project add {shlex.quote(project.path)}"
    if imports_fail(report):
        return prepare_line(project.path, report.missing_modules, names)
    if report.timed_out:
        return f"{add} --test-timeout-seconds {4 * project.settings.test_timeout_seconds}"
    if not report.report_found and not is_pytest(report.command):
        return f"a command that runs no pytest must write a JUnit report to ${REPORT_VARIABLE}: {add} --test COMMAND"
    return f"{add} --test COMMAND"
