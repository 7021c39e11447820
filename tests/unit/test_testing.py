"""Tests as evidence: real runs of pytest in the sandbox, the report's parts, and what changes must not do to tests."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agents.tools.planning_tools import how_to_run, likely_test
from agents.tools.reports import UnreadableReport, read_junit
from agents.tools.sandbox import Limits, Sandbox, choose_sandbox, find_environment
from agents.tools.testing import (
    PYTEST,
    TestReport,
    base_test_files,
    compare,
    counts_as_test,
    detect_test_command,
    imports_fail,
    is_pytest,
    prepare_line,
    rule_for_tests,
    run_tests,
    turned_green,
    with_report,
)
from contracts.errors import Refused
from contracts.project import Project, ProjectSettings

CODE = "def double(x):\n    return x + x\n"
BUG = "def double(x):\n    return x\n"
TESTS = "from code_ import double\n\ndef test_one():\n    assert double(1) == 2\n\ndef test_zero():\n    assert double(0) == 0\n"


def write(tree: Path, **files: str) -> Path:
    """Files by name, `__` for a folder and `_DOT_` for a dot."""
    for name, content in files.items():
        path = tree / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tree


async def run(tree: Path, command: tuple[str, ...] = PYTEST, **limits: Any) -> TestReport:
    sandbox: Sandbox = await choose_sandbox()
    return await run_tests(
        sandbox, tree, find_environment(None, None), command, Limits(**{"wall_seconds": 60, **limits})
    )


# --- real runs ---


async def test_every_result_is_told_apart(tmp_path: Path) -> None:
    write(
        tmp_path,
        tests__test_a_DOT_py="""
import pytest, unittest
def test_ok(): pass
def test_bad(): assert 0
@pytest.mark.skip
def test_skip(): pass
@pytest.mark.xfail
def test_xfail(): assert 0
@pytest.mark.xfail(strict=True)
def test_xpass_strict(): pass
@pytest.fixture
def boom():
    yield
    raise RuntimeError
def test_error(boom): pass
def test_both(boom): assert 0
@pytest.mark.parametrize("x", ["a b", "é/[]"])
def test_p(x): pass
class TestC:
    class TestD:
        def test_m(self): pass
class U(unittest.TestCase):
    def test_u(self): pass
""",
    )
    report = await run(tmp_path)
    assert report.report_found
    assert report.exit_code == 1
    here = "tests/test_a.py::"
    assert {test.removeprefix(here) for test in report.passed} == {
        "test_ok", "test_p[a b]", "test_p[\\xe9/[]]", "TestC::TestD::test_m", "U::test_u",
    }  # fmt: skip
    assert report.failed == (f"{here}test_bad", f"{here}test_xpass_strict")
    assert report.errors == (f"{here}test_both", f"{here}test_error")
    assert report.skipped == (f"{here}test_skip",)
    assert report.xfailed == (f"{here}test_xfail",)
    assert not report.green
    assert report.total == 11
    assert "failed" in report.output_tail
    assert len(report.output_tail.encode()) <= 8000


async def test_a_green_run_is_green_also_from_src(tmp_path: Path) -> None:
    write(tmp_path, tests__test_a_DOT_py=TESTS)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "code_.py").write_text(CODE)
    report = await run(tmp_path, ("pytest",))
    assert report.green
    assert report.passed == ("tests/test_a.py::test_one", "tests/test_a.py::test_zero")


@pytest.mark.parametrize(
    "test",
    [
        "import os\ndef test_a(): os._exit(0)",
        "import os\nos._exit(0)",
        "import pytest\ndef test_a(): pytest.exit('done', returncode=0)",
        "import sys\ndef test_a(): sys.exit(0)",
        "import pytest\ndef test_a(): pytest.skip('x')",
        "import pytest\n@pytest.mark.xfail\ndef test_a(): assert 0",
        "",
        "def test_a(:",
        "import no_such_module_anywhere\ndef test_a(): pass",
        "import os, glob\ndef test_a():\n  [os.unlink(f) for f in glob.glob(os.environ['TMPDIR'] + '/*')]\n  os._exit(0)",
    ],
)
async def test_exit_code_zero_or_silence_is_not_green(tmp_path: Path, test: str) -> None:
    report = await run(write(tmp_path, test_a_DOT_py=test))
    assert not report.green


async def test_conftest_that_hides_failures_is_found_by_the_original_tests(tmp_path: Path) -> None:
    """The change brings a conftest that deselects what fails; over the base's own configuration it comes to light."""
    base = write(tmp_path / "base", code__DOT_py=BUG, test_a_DOT_py=TESTS)
    (base / "code_.py").write_text(CODE)
    head = tmp_path / "head"
    shutil.copytree(base, head)
    (head / "code_.py").write_text(BUG)
    hides = "def pytest_collection_modifyitems(items):\n    for item in items:\n        item.runtest = lambda: None\n"
    (head / "conftest.py").write_text(hides)
    original = tmp_path / "original"
    shutil.copytree(head, original)
    assert base_test_files(head) - base_test_files(base) == {"conftest.py"}
    (original / "conftest.py").unlink()
    before, after, judged = await run(base), await run(head), await run(original)
    assert after.green
    assert compare(before, after, author="patch") == []
    problems = compare(before, after, author="patch", head_on_base_tests=judged)
    assert [problem.code for problem in problems] == ["original-tests-fail"]
    assert problems[0].tests == ("test_a.py::test_one",)


async def test_another_runner_leaves_its_report_where_it_is_told(tmp_path: Path) -> None:
    runner = """
import os, pathlib
bad = "<failure/>" if pathlib.Path("bad").exists() else ""
case = '<testsuites><testsuite><testcase classname="math" name="adds">' + bad + '</testcase></testsuite></testsuites>'
pathlib.Path(os.environ["GAVOTTE_TEST_REPORT"]).write_text(case)
raise SystemExit(2 if bad else 0)
"""
    command = ("python", "check.py")
    good = await run(write(tmp_path / "good", check_DOT_py=runner), command)
    assert good.passed == ("math::adds",)
    assert good.green
    bad = await run(write(tmp_path / "bad", check_DOT_py=runner, bad=""), command)
    assert bad.failed == ("math::adds",)
    assert [problem.code for problem in compare(good, bad, author="command")] == ["not-green"]
    assert [problem.code for problem in compare(good, bad, author="patch")][:1] == ["tests-broken"]
    silent = await run(write(tmp_path / "silent", check_DOT_py=""), command)
    assert "must write a JUnit report to $GAVOTTE_TEST_REPORT" in how_to_run(project(command), silent, ())


async def test_a_flood_of_output_is_said(tmp_path: Path) -> None:
    loud = await run(
        write(tmp_path, test_a_DOT_py="import os\ndef test_a():\n    while True: os.write(1, b'x' * 65536)")
    )
    assert not loud.green
    [problem] = compare(report("a"), loud, author="patch")
    assert str(problem) == "after the change the tests were stopped: more than 16 MiB of output"


def test_the_way_forward_fits_the_project() -> None:
    assert likely_test(("package.json", "index.js")) == "npm test"
    assert likely_test(("README.md",)) == "python -m pytest"
    slow = TestReport(command=PYTEST, exit_code=137, timed_out=True)
    assert how_to_run(project(PYTEST), slow, ()) == "gavotte project add /p --test-timeout-seconds 1200"


def project(command: tuple[str, ...]) -> Project:
    settings = ProjectSettings(test_command=command)
    return Project(project_id="p", name="p", path="/p", settings=settings, digest=settings.digest, registered_at_us=1)


async def test_time_out_and_missing_imports_have_a_reason(tmp_path: Path) -> None:
    slow = await run(
        write(tmp_path / "slow", test_a_DOT_py="import time\ndef test_a(): time.sleep(100)"), wall_seconds=2
    )
    assert slow.timed_out
    good = TestReport(command=PYTEST, exit_code=0, passed=("a",), report_found=True)
    assert [problem.code for problem in compare(good, slow, author="patch")] == ["timed-out"]
    lacking = await run(write(tmp_path / "lacking", test_a_DOT_py="import no_such_thing.inside\ndef test_a(): pass"))
    assert imports_fail(lacking)
    assert lacking.missing_modules == ("no_such_thing",)
    assert lacking.uncollected == ("test_a.py",)
    conftest = await run(
        write(tmp_path / "conftest", conftest_DOT_py="import no_such_thing", test_a_DOT_py="def test_a(): pass")
    )
    assert imports_fail(conftest)
    problem = compare(lacking, good, author="model")[0]
    assert problem.code == "imports-fail"
    assert "no_such_thing" in str(problem)
    assert prepare_line("/p").startswith("gavotte project add /p --prepare ")


async def test_other_commands_give_an_exit_code_only_unless_they_reach_pytest(tmp_path: Path) -> None:
    write(tmp_path, test_a_DOT_py="def test_a(): pass\n")
    plain = await run(tmp_path, ("sh", "-c", "exit 0"))
    assert (plain.exit_code, plain.report_found, plain.green, plain.ids) == (0, False, False, frozenset())
    assert [problem.code for problem in compare(plain, plain, author="command")] == ["no-report"] * 2
    wrapped = await run(tmp_path, ("sh", "-c", "python -m pytest"))
    assert wrapped.green
    with pytest.raises(Refused, match="no test command"):
        await run(tmp_path, ())


async def test_one_broken_file_does_not_hide_the_others(tmp_path: Path) -> None:
    write(tmp_path, test_a_DOT_py="def test_a(): pass\n", test_b_DOT_py="syntax error")
    report = await run(tmp_path)
    assert report.passed == ("test_a.py::test_a",)
    assert report.uncollected == ("test_b.py",)
    assert not imports_fail(report)


# --- the corpus of labelled patches, where it is at hand ---

TASKS = Path(__file__).resolve().parents[3] / "shared" / "cases" / "tasks"
ACCEPTED = ["T20-tail"]
TAMPERED = ["T09-split-money", "T17-pool"]


def applied(task: dict[str, Any], diff: str, folder: Path) -> Path:
    for name, content in task["files"].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    if diff:
        subprocess.run(["git", "apply", "-"], input=diff.encode(), cwd=folder, check=True, capture_output=True)
    return folder


def with_rule_for_tests(code: Path, tests: Path, folder: Path) -> Path:
    shutil.copytree(code, folder)
    for name in base_test_files(code):
        (folder / name).unlink()
    for name in base_test_files(tests):
        shutil.copy(tests / name, folder / name)
    return folder


async def verdict_on(task: dict[str, Any], diff: str, folder: Path) -> list[str]:
    base, head = applied(task, "", folder / "base"), applied(task, diff, folder / "head")
    problems = compare(
        await run(base),
        await run(head),
        author="patch",
        head_on_base_tests=await run(with_rule_for_tests(head, base, folder / "original")),
        base_with_new_tests=await run(with_rule_for_tests(base, head, folder / "new")),
    )
    return [problem.code for problem in problems]


@pytest.mark.skipif(not TASKS.is_dir(), reason="the corpus is not beside this clone")
@pytest.mark.parametrize("name", [*ACCEPTED, *TAMPERED])
async def test_the_corpus_is_judged_by_its_tests(tmp_path: Path, name: str) -> None:
    task = json.loads((TASKS / f"{name}.json").read_text())
    kinds = {"test-tamper"} if name in TAMPERED else {"correct"}
    for patch in task["patches"]:
        if patch["kind"] in kinds:
            problems = await verdict_on(task, patch["diff"], tmp_path / patch["id"])
            assert bool(problems) == (patch["verdict"] == "reject"), (patch["id"], problems)


# --- judging, by reports alone ---


def report(passed: str = "", **more: Any) -> TestReport:
    """Ids are single letters: report("ab", failed="c")."""
    ids: dict[str, Any] = {key: tuple(value) for key, value in more.items() if isinstance(value, str)}
    red = bool(ids.get("failed") or ids.get("errors"))
    facts: dict[str, Any] = {"command": PYTEST, "exit_code": int(red), "report_found": True, "passed": tuple(passed)}
    return TestReport(**{**facts, **more, **ids})


@pytest.mark.parametrize("author", ["model", "patch"])
@pytest.mark.parametrize(
    ("base", "head", "codes"),
    [
        (report("ab"), report("ab"), []),
        (report("a", failed="b"), report("ab"), []),
        (report("a", failed="b"), report("a", failed="b"), []),
        (report("a", failed="b"), report("b", failed="a"), ["tests-broken"]),
        (report("ab"), report("a", failed="b"), ["tests-broken"]),
        (report("ab"), report("a", errors="b"), ["tests-broken"]),
        (report("ab"), report("a"), ["tests-removed"]),
        (report("a", failed="b"), report("a"), ["tests-removed"]),
        (report("ab"), report("a", skipped="b"), ["tests-disabled"]),
        (report("a", failed="b"), report("a", xfailed="b"), ["tests-disabled"]),
        (report("a", failed="b"), report("a", skipped="b"), ["tests-disabled"]),
        (report("a", skipped="b"), report("ab"), []),
        (report("a", skipped="b"), report("a", failed="b"), ["tests-broken"]),
        (report("a", skipped="b"), report("a", skipped="b"), []),
        (report("a"), report("ab"), ["new-tests-unproven"]),
        (report("a"), report("a", failed="b"), ["new-tests-fail"]),
        (report("a"), report("a", skipped="b"), []),
        (report("a"), report("", exit_code=5), ["tests-removed", "nothing-passed"]),
        (report("a"), report("a", exit_code=1), ["contradiction"]),
        (report("a"), report("a", failed="b", exit_code=0), ["contradiction"]),
        (report("a"), report("a", exit_code=2), ["no-clean-end"]),
        (report("a"), report("a", exit_code=137), ["no-clean-end"]),
        (report("a"), report("", report_found=False), ["no-report"]),
        (report("a", timed_out=True), report("a"), ["timed-out"]),
        (report("a"), report("a", errors="b", uncollected="b"), ["not-collected"]),
        (report("a"), report("a", errors="b", uncollected="b", missing_modules="m"), ["imports-fail"]),
        (report("", report_found=False, exit_code=1, missing_modules="pytest"), report("a"), ["imports-fail"]),
    ],
)
def test_changes_by_people_and_models(author: Any, base: TestReport, head: TestReport, codes: list[str]) -> None:
    assert [problem.code for problem in compare(base, head, author=author)] == codes


@pytest.mark.parametrize(
    ("base", "head", "codes"),
    [
        (report("ab"), report("ab"), []),
        (report("ab", skipped="c"), report("ab", skipped="c"), []),
        (report("a", failed="b"), report("ab"), ["not-green"]),
        (report("ab"), report("a", failed="b"), ["not-green"]),
        (report("ab"), report("a"), ["tests-removed"]),
        (report("a"), report("ab"), ["tests-added"]),
        (report("ab"), report("a", skipped="b"), ["tests-disabled"]),
        (report("", exit_code=5), report("", exit_code=5), ["not-green", "not-green"]),
    ],
)
def test_commands_keep_green_green(base: TestReport, head: TestReport, codes: list[str]) -> None:
    assert [problem.code for problem in compare(base, head, author="command")] == codes


@pytest.mark.parametrize(
    ("on_base", "codes"),
    [
        (report("a", failed="n"), []),
        (report("a", errors="n"), []),
        (report("an"), ["new-tests-green"]),
        (report("a"), ["new-tests-green"]),
        (report("a", skipped="n"), ["new-tests-green"]),
        (report("a", timed_out=True), ["new-tests-unproven"]),
        (report("", report_found=False), ["new-tests-unproven"]),
    ],
)
def test_added_tests_must_fail_without_the_change(on_base: TestReport, codes: list[str]) -> None:
    problems = compare(report("a"), report("an"), author="model", base_with_new_tests=on_base)
    assert [problem.code for problem in problems] == codes


def test_added_tests_may_hold_what_stays_where_others_bite() -> None:
    mended = compare(
        report("a", failed="b"), report("abn"), author="patch", base_with_new_tests=report("an", failed="b")
    )
    one_bites = compare(report("a"), report("anm"), author="patch", base_with_new_tests=report("an", failed="m"))
    assert mended == one_bites == []


def test_an_added_file_that_needs_the_change_to_be_imported_is_red() -> None:
    head = report("a").model_copy(update={"passed": ("a", "t.py::test_new")})
    on_base = report("a", errors=["t.py"], uncollected=("t.py",), exit_code=1, missing_modules=("m",))
    assert compare(report("a"), head, author="model", base_with_new_tests=on_base) == []


@pytest.mark.parametrize(
    ("original", "codes"),
    [
        (report("ab"), []),
        (report("a", failed="b"), ["original-tests-fail"]),
        (report("a", skipped="b"), ["original-tests-lost"]),
        (report("a"), ["original-tests-lost"]),
        (report("a", timed_out=True), ["timed-out"]),
        (report("", report_found=False), ["no-report"]),
    ],
)
def test_original_tests_have_the_last_word(original: TestReport, codes: list[str]) -> None:
    problems = compare(report("ab"), report("ab"), author="patch", head_on_base_tests=original)
    assert [problem.code for problem in problems] == codes


def test_what_failed_before_may_fail_in_its_original_version() -> None:
    base, head = report("a", failed="b"), report("ab")
    assert compare(base, head, author="patch", head_on_base_tests=report("a", failed="b")) == []
    assert turned_green(base, head) == ("b",)


def test_a_report_survives_json() -> None:
    told = report("ab", failed="c")
    assert TestReport.model_validate_json(told.model_dump_json()) == told


# --- the XML ---


def junit(cases: str) -> bytes:
    return f"<testsuites><testsuite>{cases}</testsuite></testsuites>".encode()


def test_a_test_named_twice_keeps_its_worst_result() -> None:
    case = '<testcase file="a.py" classname="a" name="t">{}</testcase>'
    cases = read_junit(junit(case.format("<failure/>") + case.format("")))
    assert cases.results == {"a.py::t": "failed"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not xml",
        b"<a/>",
        b"<testsuites><testcase>",
        b'<!DOCTYPE x [<!ENTITY a "b">]><testsuites>&a;</testsuites>',
        '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE x [<!ENTITY a "b">]><testsuites>&a;</testsuites>'.encode(
            "utf-16"
        ),
    ],
)
def test_odd_xml_is_no_report(content: bytes) -> None:
    with pytest.raises(UnreadableReport):
        read_junit(content)


def test_ids_are_made_harmless() -> None:
    cases = read_junit(junit('<testcase file="a.py" classname="a" name="t[\u202e&#10;]"/>'))
    assert list(cases.results) == ["a.py::t[\\u202e ]"]


# --- finding tests ---


@pytest.mark.parametrize(
    ("files", "command"),
    [
        ({}, None),
        ({"code.py": ""}, None),
        ({"test_a.py": ""}, PYTEST),
        ({"deep/er/a_test.py": ""}, PYTEST),
        ({"pytest.ini": "[pytest]\n"}, PYTEST),
        ({"pyproject.toml": "[tool.pytest.ini_options]\n"}, PYTEST),
        ({"pyproject.toml": "[project]\n", "setup.cfg": "[metadata]\n"}, None),
        ({"pyproject.toml": "not toml ["}, None),
        ({"setup.cfg": "[tool:pytest]\n"}, PYTEST),
        ({"tests/cases.py": "import unittest"}, (*PYTEST, "-o", "python_files=*.py", "tests")),
        ({"tests/data.json": ""}, None),
        ({".venv/lib/test_a.py": "", "node_modules/test_b.py": ""}, None),
    ],
)
def test_the_test_command_is_detected(tmp_path: Path, files: dict[str, str], command: tuple[str, ...] | None) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert detect_test_command(tmp_path) == command


def test_which_files_decide_the_tests(tmp_path: Path) -> None:
    names = [
        "code.py", "test_a.py", "pkg/b_test.py", "pkg/conftest.py", "tests/data/x.json", "pytest.ini", "pkg/evil.pth",
        "sitecustomize.py", "setup.cfg", "app/tests.py", "checks/check_a.py", "spec/any.py", "attest.py", "README.md",
    ]  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\npython_files = ["check_*.py"]\ntestpaths = "spec"\n'
    )
    assert base_test_files(tmp_path) == {*names, "pyproject.toml"} - {"code.py", "attest.py", "README.md"}
    assert counts_as_test("tests/data/x.json")
    assert counts_as_test("app/tests.py")
    assert not counts_as_test("src/latest.py")
    assert rule_for_tests(tmp_path)("pkg/check_b.py")
    assert not rule_for_tests(tmp_path)("spec/code.py")
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\npython_files = ["*.py"]\n')
    assert not rule_for_tests(tmp_path)("code.py")


@pytest.mark.parametrize(
    ("command", "is_it"),
    [
        ("pytest -q", True),
        ("/x/bin/py.test", True),
        ("python3.12 -W error -m pytest", True),
        ("python -m tox -- pytest", False),
        ("python -m unittest", False),
        ("make test", False),
    ],
)
def test_pytest_is_recognised(command: str, is_it: bool) -> None:
    assert is_pytest(command.split()) is is_it


def test_our_options_come_last_and_before_paths() -> None:
    words = with_report(["pytest", "--junitxml=mine", "--", "tests"])
    assert words[-2:] == ("--", "tests")
    assert words.index("--junitxml=mine") < words.index("--junitxml={report}")
    assert with_report(["make"]) == ("make",)
