"""Compares test reports: what a change broke, hid or did not prove. Pure functions, no run is started here."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict

from agents.tools.reports import TestReport

Author = Literal["model", "patch", "command"]
EVALUABLE_EXITS = frozenset({0, 1, 5})  # pytest's: all passed, some failed, nothing collected
CUT_SHORT_FROM = 126  # the shell's: not executable, not found, ended by a signal
NAMED_MAX = 5


class Problem(BaseModel):
    """One reason why reports do not speak for a change. `code` is stable; `tests` are the ids concerned, sorted."""

    model_config = ConfigDict(frozen=True)

    code: str
    text: str
    tests: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text


def compare(
    base: TestReport,
    head: TestReport,
    *,
    author: Author,
    head_on_base_tests: TestReport | None = None,
    base_with_new_tests: TestReport | None = None,
) -> list[Problem]:
    """What is wrong with a change, judged by its tests; nothing found, an empty list.

    `base`: the tree before. `head`: the tree with the change. `head_on_base_tests`: the changed code with the tests and
    configuration of the base, needed where the change touches those. `base_with_new_tests`: the code of the base with the
    tests of the change, needed where it adds any. Tests that already failed at the base may go on failing.
    """
    runs = [("before the change", base), ("after the change", head)]
    if head_on_base_tests is not None:
        runs.append(("after the change, with the original tests", head_on_base_tests))
    if unevaluated := [problem for when, report in runs for problem in could_not_evaluate(report, when)]:
        return unevaluated
    if author == "command":
        return [*_all_green(base, "before the change"), *_all_green(head, "after the change"), *_same_ids(base, head)]
    return [
        *_kept(base, head),
        *_nothing_broken(base, head),
        *_original_tests_hold(base, head_on_base_tests),
        *_new_tests_bite(base, head, base_with_new_tests),
    ]


def could_not_evaluate(report: TestReport, when: str) -> list[Problem]:
    """Why a run says nothing: too long, no report, no clean end, or files that could not be collected."""
    if report.timed_out:
        return [Problem(code="timed-out", text=f"{when} the tests did not end within {report.duration_ms // 1000} s")]
    if imports_fail(report):
        missing = ", ".join(report.missing_modules)
        return [
            Problem(code="imports-fail", text=f"{when} an import was not found: {missing}", tests=report.uncollected)
        ]
    if report.stopped:
        return [Problem(code="stopped", text=f"{when} the tests were stopped: {report.stopped}")]
    if not report.report_found:
        return [Problem(code="no-report", text=f"{when} the tests left no report (exit code {report.exit_code})")]
    if report.uncollected:
        return [_about(report.uncollected, "not-collected", f"{when} files could not be collected")]
    if report.exit_code not in EVALUABLE_EXITS and not _failed_in_its_own_way(report):
        return [Problem(code="no-clean-end", text=f"{when} the tests ended with exit code {report.exit_code}")]
    if report.exit_code == 0 and (report.red or not report.ids):
        return [
            Problem(
                code="contradiction",
                text=f"{when} the report and the exit code 0 do not agree",
                tests=tuple(report.red),
            )
        ]
    if report.exit_code == 1 and not report.red:
        return [Problem(code="contradiction", text=f"{when} the exit code is 1 but no test failed in the report")]
    return []


def _failed_in_its_own_way(report: TestReport) -> bool:
    """Whether another program than pytest reported failures and then ended with a code of its own, as make does."""
    return bool(report.red) and report.exit_code < CUT_SHORT_FROM and not is_pytest(report.command)


def is_pytest(command: Sequence[str]) -> bool:
    first = PurePosixPath(command[0]).name
    if first in {"pytest", "py.test"}:
        return True
    modules = [word for option, word in itertools.pairwise(command) if option == "-m"]
    return re.fullmatch(r"python[0-9.]*", first) is not None and modules[:1] == ["pytest"]


def imports_fail(report: TestReport) -> bool:
    """The environment lacks packages: at the base this is the operator's to mend, by `--prepare`."""
    return bool(report.missing_modules) and (not report.report_found or bool(report.uncollected))


def prepare_line(path: str, missing: Iterable[str] = (), files: Iterable[str] = ()) -> str:
    """The command that gives a project an environment in which its tests can be imported.

    `missing` are the imports that were not found; those that the project's own `files` hold come with `-e .`.
    """
    own = {part.removesuffix(".py") for file in files for part in PurePosixPath(file).parts}
    others = sorted(set(missing) - own - {"pytest"})
    return f'gavotte project add {shlex.quote(path)} --prepare "{" ".join(["pip install -e . pytest", *others])}"'


def _all_green(report: TestReport, when: str) -> list[Problem]:
    if report.green:
        return []
    if report.red:
        return [_about(report.red, "not-green", f"{when} tests fail")]
    return [Problem(code="not-green", text=f"{when} no test passed")]


def _same_ids(base: TestReport, head: TestReport) -> list[Problem]:
    problems = _kept(base, head)
    if added := head.ids - base.ids:
        problems.append(_about(added, "tests-added", "the command changed which tests there are"))
    return problems


def _kept(base: TestReport, head: TestReport) -> list[Problem]:
    """No test gone, none that ran now skipped or expected to fail."""
    problems = []
    if gone := base.ids - head.ids:
        problems.append(_about(gone, "tests-removed", "tests are gone"))
    ran = base.red | frozenset(base.passed)
    if disabled := ran & frozenset((*head.skipped, *head.xfailed)):
        problems.append(_about(disabled, "tests-disabled", "tests no longer count (skipped or expected to fail)"))
    return problems


def _nothing_broken(base: TestReport, head: TestReport) -> list[Problem]:
    problems = []
    grown = head.red - base.red
    if broken := grown & base.ids:
        problems.append(_about(broken, "tests-broken", "tests fail that did not fail before"))
    if failing := grown - base.ids:
        problems.append(_about(failing, "new-tests-fail", "added tests fail"))
    if not head.passed:
        problems.append(Problem(code="nothing-passed", text="after the change no test passed"))
    return problems


def _original_tests_hold(base: TestReport, original: TestReport | None) -> list[Problem]:
    if original is None:
        return []
    problems = []
    if broken := original.red - base.red:
        problems.append(
            _about(broken, "original-tests-fail", "tests in their original version fail on the changed code")
        )
    lost = frozenset(base.passed) - frozenset(original.passed) - original.red
    if lost:
        problems.append(_about(lost, "original-tests-lost", "tests in their original version no longer run"))
    return problems


def _new_tests_bite(base: TestReport, head: TestReport, on_base: TestReport | None) -> list[Problem]:
    """Some test must be red without the change and green with it; a file that cannot be imported is red.

    Further tests that also pass without the change are welcome: they hold what must stay.
    """
    added = frozenset(head.passed) - base.ids
    if not added or base.red & frozenset(head.passed):
        return []
    if on_base is None or on_base.timed_out or not on_base.report_found:
        return [_about(added, "new-tests-unproven", "added tests were not shown to fail without the change")]
    bite = {test for test in added if test in on_base.red or test.partition("::")[0] in on_base.uncollected}
    if bite:
        return []
    return [_about(added, "new-tests-green", "added tests pass without the change, so they prove nothing")]


def already_failing(base: TestReport) -> tuple[str, ...]:
    """Tests that failed before any change, to be listed beside a verdict."""
    return tuple(sorted(base.red))


def turned_green(base: TestReport, head: TestReport) -> tuple[str, ...]:
    """Tests that failed before the change and pass with it: the best evidence there is that it mends something."""
    return tuple(sorted(base.red & frozenset(head.passed)))


def _about(tests: Iterable[str], code: str, text: str) -> Problem:
    named = tuple(sorted(tests))
    shown = ", ".join(named[:NAMED_MAX]) + (f" and {len(named) - NAMED_MAX} more" if len(named) > NAMED_MAX else "")
    return Problem(code=code, text=f"{text}: {shown}", tests=named)
