"""The review role's tools: rules on the diff, tests of the base over the change, and a reader that is not the author."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel

from agents.model.context import Part, fits
from agents.tools import testing
from agents.tools.evidence import evidence_of, keep_report, kept_report, run_project_tests
from agents.tools.gates import Change, judge, needs_person, read_change
from agents.tools.gates.change import is_test_path
from agents.tools.quotes import ReaderFinding
from agents.tools.reports import TestReport
from agents.tools.toolbox import Toolbox, tool, tool_with_runs
from contracts.errors import GavotteError
from contracts.events import Evidence, Finding, GateResult
from contracts.prompts import Prompt

FILE_BYTES_MAX = 1024 * 1024
TESTS_NAMED_MAX = 20
AROUND_BYTES = 1024
"""What tests and findings take at least beside the diff."""
AGAIN = (
    "You asked for changes, but none of your findings that weigh enough quotes the diff. Quote its lines word for word, "
    "or let the change pass."
)


class ChangeUnderReview(BaseModel):
    """What is judged: two commits, who wrote the change, and which paths the plan allows."""

    base: str
    head: str
    author: Literal["model", "command", "patch"]
    files: tuple[str, ...] = ()


class RulesVerdict(BaseModel):
    """What the rules on the diff say."""

    gates: tuple[GateResult, ...] = ()
    needs_person: tuple[str, ...] = ()


class TestsRequest(BaseModel):
    """Which trees to test; `base_report` is the digest of the report that planning kept."""

    base: str
    head: str
    author: Literal["model", "command", "patch"]
    base_report: str = ""


class TestsVerdict(BaseModel):
    """What running the tests showed."""

    gate: GateResult
    evidence: Evidence
    base_evidence: Evidence | None = None


class ReviewDraft(BaseModel):
    """What a model's reading of the change gives."""

    verdict: Literal["pass", "changes"]
    summary: str = ""
    findings: tuple[ReaderFinding, ...] = ()


class ReviewTools(Toolbox):
    """Nothing here writes; the sandbox gets copies."""

    @tool
    async def judge_rules(self, arguments: ChangeUnderReview) -> RulesVerdict:
        """Hold the diff against the rules: scope, tests kept, secrets, unsafe patterns, protected paths, size."""
        git, state = self.resources.git, self.session.state
        listing = await git.list_files(arguments.base)
        tests = {
            entry.path: entry.blob
            for entry in listing
            if is_test_path(entry.path) and entry.size_bytes <= FILE_BYTES_MAX
        }
        contents = await git.read_blobs(list(tests.values()))
        change = Change(
            files=await read_change(git, arguments.base, arguments.head),
            scope=arguments.files,
            author=arguments.author,
            task_text=await self.task_text(),
            base_paths=frozenset(entry.path for entry in listing),
            read_base=lambda path: contents[tests[path]] if path in tests else None,
            scope_is_given=bool(state.scope),
        )
        gates = await asyncio.to_thread(judge, change)
        return RulesVerdict(gates=gates, needs_person=needs_person(gates))

    @tool_with_runs
    async def judge_tests(self, arguments: TestsRequest) -> TestsVerdict:
        """Run the change's tests, and the base's own tests over the change, and compare with the base."""
        git, project, store = self.resources.git, await self.project(), self.session.store
        digest = await git.tree_digest(arguments.head)
        if arguments.base_report:
            base = await kept_report(store, arguments.base_report)
        else:
            base = await run_project_tests(self.resources, project, arguments.base)
        head = await run_project_tests(self.resources, project, arguments.head)
        over, added = await self._composed(arguments.base, arguments.head)
        on_base_tests = await run_project_tests(self.resources, project, arguments.head, overlay=over) if over else None
        with_new = await run_project_tests(self.resources, project, arguments.base, overlay=added) if added else None
        problems = testing.compare(
            base, head, author=arguments.author, head_on_base_tests=on_base_tests, base_with_new_tests=with_new
        )
        evidence = evidence_of(head, digest, await keep_report(store, head))
        return TestsVerdict(
            gate=tests_gate(problems, base, head),
            evidence=evidence,
            base_evidence=evidence_of(base, await git.tree_digest(arguments.base), arguments.base_report),
        )

    async def read_change(self, prompt: Prompt, diff: str, tests: str, dropped: Sequence[str] = ()) -> ReviewDraft:
        """Ask a model that did not write the change to read it; once more with what of its last reading did not count."""
        parts = [
            Part("task", await self.task_text(), least_bytes=2000),
            Part("tests", tests, gives_way=2),
            Part("dropped findings", "\n".join(dropped), gives_way=1),
            Part("", AGAIN if dropped else ""),
            Part("diff", diff, least_bytes=4000),
        ]
        return await self.ask(prompt, parts, ReviewDraft, why="read the change again" if dropped else "read the change")

    async def shows_whole(self, prompt: Prompt, diff: str) -> bool:
        """Whether a reader is shown all of the diff: it comes before all else but the task."""
        parts = [Part("task", await self.task_text()), Part("diff", diff)]
        return fits(parts, self.room_for(prompt, ReviewDraft) - AROUND_BYTES)

    @property
    def has_model(self) -> bool:
        """Whether there is a model to ask."""
        return self.resources.model.name != "none"

    async def _composed(self, base: str, head: str) -> tuple[dict[str, bytes | None], dict[str, bytes | None]]:
        """What to lay over the head so that it carries the base's tests and settings, and over the base its new tests."""
        git = self.resources.git
        over: dict[str, bytes | None] = {}
        added: dict[str, bytes | None] = {}
        async with git.worktree(base) as tree:
            is_test = testing.rule_for_tests(tree)
        for change in await git.changes(base, head):
            if not is_test(change.path):
                continue
            over[change.path] = (
                None if change.kind == "added" else await git.read_file(base, change.path, FILE_BYTES_MAX)
            )
            if change.kind != "deleted":
                try:
                    added[change.path] = await git.read_file(head, change.path, FILE_BYTES_MAX)
                except GavotteError:
                    continue
        return over, added


def tests_gate(problems: list[testing.Problem], base: TestReport, head: TestReport) -> GateResult:
    """The gate `tests`: every problem is a blocker."""
    findings = tuple(
        Finding(
            gate="tests", severity="blocker", message=problem.text, evidence=", ".join(problem.tests[:TESTS_NAMED_MAX])
        )
        for problem in problems
    )
    was = "green" if base.green else f"{len(base.red)} red"
    summary = problems[0].text if problems else f"{len(head.passed)} passed; was {was}"
    return GateResult(gate="tests", passed=not problems, summary=summary, findings=findings)
