"""Evidence, not claims: the project's tests run by the system on a tree of the git store, kept by digest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agents.tools.environment import Environment, find_environment
from agents.tools.reports import TestReport
from agents.tools.sandbox import Sandbox, choose_sandbox
from agents.tools.testing import run_tests
from agents.tools.toolbox import Resources
from contracts.errors import NotFound
from contracts.events import Evidence
from contracts.project import Project
from contracts.redaction import redacted
from state_store.port import StateStore

FAILED_LISTED_MAX = 50


async def choose_project_sandbox(resources: Resources) -> Sandbox:
    """The best sandbox this machine has; raises Refused with the package to install where it has none."""
    return await choose_sandbox(resources.sandbox_kind, allow_unsafe=resources.allow_unsafe_sandbox)


def project_environment(project: Project) -> Environment:
    """The Python that the project's tests run with."""
    configured = Path(project.environment) if project.environment else None
    return find_environment(Path(project.path), configured)


async def run_project_tests(
    resources: Resources, project: Project, commit: str, *, overlay: Mapping[str, bytes | None] | None = None
) -> TestReport:
    """The project's tests on a commit; `overlay` puts other contents (None: removes) over the tree first."""
    sandbox = await choose_project_sandbox(resources)
    async with resources.git.worktree(commit) as tree:
        for path, content in (overlay or {}).items():
            lay(tree, path, content)
        report = await run_tests(
            sandbox,
            tree,
            project_environment(project),
            project.settings.test_command,
            limits=resources.limits_of(project),
        )
    return without_secrets(report)


def without_secrets(report: TestReport) -> TestReport:
    """The report without secrets, also in the ids of tests: a kept report and a new one can only be compared so."""
    shown = report.model_dump_json()
    clean = redacted(shown)
    return report if clean == shown else TestReport.model_validate_json(clean)


def lay(tree: Path, path: str, content: bytes | None) -> None:
    """Write or remove one file of a fresh work tree, which holds no links."""
    target = tree / path
    if content is None:
        target.unlink(missing_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def evidence_of(report: TestReport, digest: str, report_digest: str) -> Evidence:
    """The part of a report that travels."""
    bad = tuple(sorted(report.red))
    words = [f"{len(report.passed)} passed"]
    words += [f"{len(found)} {name}" for name, found in (("failed", report.failed), ("errors", report.errors)) if found]
    if report.timed_out:
        words.append("timed out")
    elif report.stopped:
        words.append(f"stopped: {report.stopped}")
    elif not report.report_found:
        words.append("no report")
    return Evidence(
        digest=digest,
        command=report.command,
        green=report.green,
        passed=len(report.passed),
        failed=bad[:FAILED_LISTED_MAX],
        skipped=len(report.skipped),
        duration_ms=report.duration_ms,
        summary=", ".join(words),
        report_digest=report_digest,
    )


async def keep_report(store: StateStore, report: TestReport) -> str:
    """Store the whole report, without secrets that a test printed; its digest."""
    return await store.put_body(without_secrets(report).model_dump_json().encode())


async def kept_report(store: StateStore, digest: str) -> TestReport:
    """A report stored before; raises NotFound where its body is gone."""
    raw = await store.body(digest)
    if raw is None:
        raise NotFound(f"the test report {digest} is not in the store", hint="restore the bodies folder")
    return TestReport.model_validate_json(raw)
