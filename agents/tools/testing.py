"""Evidence by running tests: a project's test command in the sandbox, read from a report that the harness asked for."""

from __future__ import annotations

import configparser
import fnmatch
import os
import secrets
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from agents.tools.environment import Environment
from agents.tools.judging import (
    Problem,
    already_failing,
    compare,
    imports_fail,
    is_pytest,
    prepare_line,
    turned_green,
)
from agents.tools.reports import Cases, TestReport, UnreadableReport, missing_modules, read_junit
from agents.tools.sandbox import DEFAULT_LIMITS, REPORT, Limits, Ran, Sandbox
from contracts.errors import Refused

__all__ = [
    "Problem",
    "TestReport",
    "already_failing",
    "base_test_files",
    "compare",
    "counts_as_test",
    "detect_test_command",
    "imports_fail",
    "is_pytest",
    "prepare_line",
    "rule_for_tests",
    "run_tests",
    "turned_green",
]

PYTEST = ("python", "-m", "pytest", "-q")
TAIL_BYTES = 8000
# The report is ours to ask for; one broken file shall not hide the others; the cache must not become a change.
FORCED = (
    f"--junitxml={REPORT}",
    "-o",
    "junit_family=xunit1",
    "-o",
    "cache_dir=.pytest_cache",
    "--continue-on-collection-errors",
)
REPORT_VARIABLE = "GAVOTTE_TEST_REPORT"
DEVELOPERS_PLUGINS = ("asyncio", "timeout")
NOT_SEARCHED = frozenset({"node_modules", "venv", "env", "build", "dist", "site-packages", "__pycache__"})
TEST_FOLDERS = frozenset({"tests", "test"})
TEST_FILES = ("test_*.py", "*_test.py")
TEST_MODULES = ("test.py", "tests.py")
"""Collected only where a command or a setting names them."""
ANY_FILE = frozenset({"*", "*.py"})
"""Patterns of projects whose every file may hold a test: they do not tell tests from code."""
CONFIGURATION_FILES = frozenset(
    {
        "conftest.py",
        "pytest.ini",
        ".pytest.ini",
        "pytest.toml",
        ".pytest.toml",
        "pyproject.toml",
        "tox.ini",
        "setup.cfg",
    }
)
STARTUP_FILES = frozenset({"sitecustomize.py", "usercustomize.py"})
STARTUP_SUFFIX = ".pth"
FILES_SEARCHED_MAX = 100_000


async def run_tests(
    sandbox: Sandbox, tree: Path, environment: Environment, command: Sequence[str], limits: Limits = DEFAULT_LIMITS
) -> TestReport:
    """Run the command over a copy of the tree. A report is asked of pytest wherever the command gets to it."""
    if not command:
        raise Refused(
            "the project has no test command, so nothing can be shown",
            hint='gavotte project add PATH --test "python -m pytest"',
            code="no_tests",
        )
    options = (*FORCED, *without_our_plugins(environment))
    ran = await sandbox.run(
        with_report(command, options),
        tree=tree,
        environment=environment,
        limits=limits,
        # for a command that starts pytest itself, such as make, or another runner that knows JUnit's form
        env={} if is_pytest(command) else {"PYTEST_ADDOPTS": " ".join(options), REPORT_VARIABLE: REPORT},
        report=f"{secrets.token_hex(8)}.xml",
    )
    return report_of(tuple(command), ran)


def report_of(command: tuple[str, ...], ran: Ran) -> TestReport:
    """The run and its JUnit file as one record; an unreadable file is no report."""
    cases, found, tail = Cases(), False, ran.output[-TAIL_BYTES:]
    if ran.report is not None and not ran.timed_out:
        try:
            cases, found = read_junit(ran.report), True
        except UnreadableReport as error:
            tail = f"{tail}\n[{error}]"
    missing = cases.missing if found else missing_modules(ran.output)
    return TestReport(
        command=command,
        exit_code=ran.exit_code,
        passed=cases.ids("passed"),
        failed=cases.ids("failed"),
        errors=cases.ids("error"),
        skipped=cases.ids("skipped"),
        xfailed=cases.ids("xfailed"),
        uncollected=tuple(sorted(cases.broken)),
        missing_modules=tuple(sorted(missing)),
        timed_out=ran.timed_out,
        stopped=ran.stopped,
        report_found=found,
        duration_ms=ran.duration_ms,
        output_tail=tail.encode("utf-8", "replace")[-TAIL_BYTES:].decode("utf-8", "ignore"),
    )


def without_our_plugins(environment: Environment) -> tuple[str, ...]:
    """In Gavotte's own interpreter: no plugins that are there only because Gavotte itself is developed in it."""
    if environment.python.parent.parent.resolve() != Path(sys.prefix).resolve():
        return ()
    return tuple(word for plugin in DEVELOPERS_PLUGINS for word in ("-p", f"no:{plugin}"))


def with_report(command: Sequence[str], options: Sequence[str] = FORCED) -> tuple[str, ...]:
    """The command with our options last, so that they win; before a `--`, where only paths may follow."""
    if not is_pytest(command):
        return tuple(command)
    place = command.index("--") if "--" in command else len(command)
    return (*command[:place], *options, *command[place:])


# --- which files are tests --------------------------------------------------------------------------------------------


def detect_test_command(tree: Path) -> tuple[str, ...] | None:
    """pytest where the tree has tests or a configuration of pytest (it runs unittest's as well), else None."""
    settings = pytest_settings(tree)
    files = list(files_of(tree))
    if settings is not None or any(_matches(path, TEST_FILES) for path in files):
        return PYTEST
    if any(path.suffix == ".py" and path.parts[0] in TEST_FOLDERS for path in files if len(path.parts) > 1):
        folder = next(path.parts[0] for path in files if len(path.parts) > 1 and path.parts[0] in TEST_FOLDERS)
        return (*PYTEST, "-o", "python_files=*.py", folder)  # unittest's names are free
    return None


def base_test_files(tree: Path) -> set[str]:
    """Paths of the tree that decide what is tested and how: tests, their folders, configuration, start-up files."""
    settings = pytest_settings(tree) or {}
    patterns = tuple(settings.get("python_files", ()))
    folders = tuple(settings.get("testpaths", ()))
    return {
        str(path)
        for path in files_of(tree)
        if counts_as_test(str(path))
        or _matches(path, patterns)
        or any(path.is_relative_to(folder) for folder in folders if folder not in {".", ""})
    }


def rule_for_tests(tree: Path) -> Callable[[str], bool]:
    """Whether a relative path belongs to tests: by its name, or by the file names that the tree's own settings give."""
    named = (pytest_settings(tree) or {}).get("python_files", ())
    patterns = [pattern for pattern in named if pattern not in ANY_FILE]
    return lambda path: counts_as_test(path) or _matches(PurePosixPath(path), patterns)


def counts_as_test(path: str) -> bool:
    """By its name alone, whether a path relative to the tree belongs to tests, their configuration or start-up."""
    pure = PurePosixPath(path)
    return (
        _matches(pure, (*TEST_FILES, *TEST_MODULES))
        or pure.name in CONFIGURATION_FILES | STARTUP_FILES
        or pure.suffix == STARTUP_SUFFIX
        or not TEST_FOLDERS.isdisjoint(pure.parts[:-1])
    )


def pytest_settings(tree: Path) -> dict[str, list[str]] | None:
    """`python_files` and `testpaths` of the first configuration of pytest at the top of the tree; None without one."""
    for name, section in (
        ("pytest.ini", "pytest"), (".pytest.ini", "pytest"), ("tox.ini", "pytest"), ("setup.cfg", "tool:pytest"),
    ):  # fmt: skip
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read(tree / name, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError):
            continue
        if parser.has_section(section):
            return {key: parser.get(section, key, fallback="").split() for key in ("python_files", "testpaths")}
    try:
        table = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))
        options = table["tool"]["pytest"]
        options = options.get("ini_options", options)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return {key: _words(options.get(key, "")) for key in ("python_files", "testpaths")}


def files_of(tree: Path) -> Iterator[PurePosixPath]:
    """Regular files, relative, without hidden folders and the places where installed packages lie."""
    count = 0
    for folder, folders, files in os.walk(tree):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in NOT_SEARCHED)
        for name in sorted(files):
            count += 1
            if count > FILES_SEARCHED_MAX:
                return
            yield PurePosixPath(os.path.relpath(os.path.join(folder, name), tree))  # noqa: PTH118


def _words(value: object) -> list[str]:
    return [str(word) for word in value] if isinstance(value, list) else str(value).split()


def _matches(path: PurePosixPath, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)
