"""What a test run showed, read from a JUnit report that was written next to hostile code: no entities, every test once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar, Literal
from xml.parsers import expat

from pydantic import BaseModel, ConfigDict

from agents.tools.contained import harmless

Result = Literal["passed", "skipped", "xfailed", "failed", "error"]
WORST_LAST: tuple[Result, ...] = ("passed", "xfailed", "skipped", "failed", "error")
UNFINISHED = "(a test that did not finish)"
TESTS_MAX = 100_000
TEXT_MAX = 4000
ID_MAX = 500
MISSING = re.compile(r"No module named '([A-Za-z0-9_.]+)'")


class UnreadableReport(ValueError):
    """Bytes that are no JUnit report."""


class TestReport(BaseModel):
    """What one run of the tests showed. Ids are pytest's, sorted; `xfailed` and `skipped` are not passed.

    `report_found` is false where only an exit code is known (the command is no pytest, or the report was never written):
    then all ids are empty, and an exit code of 0 proves nothing. `stopped` says which limit ended it. `missing_modules` names imports that were not found.
    """

    model_config = ConfigDict(frozen=True)
    __test__: ClassVar[bool] = False

    command: tuple[str, ...]
    exit_code: int
    passed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    xfailed: tuple[str, ...] = ()
    uncollected: tuple[str, ...] = ()
    missing_modules: tuple[str, ...] = ()
    timed_out: bool = False
    stopped: str = ""
    report_found: bool = False
    duration_ms: int = 0
    output_tail: str = ""

    @property
    def ids(self) -> frozenset[str]:
        return frozenset((*self.passed, *self.failed, *self.errors, *self.skipped, *self.xfailed))

    @property
    def red(self) -> frozenset[str]:
        """Tests that failed, before, in or after their body."""
        return frozenset((*self.failed, *self.errors))

    @property
    def total(self) -> int:
        return len(self.ids)

    @property
    def green(self) -> bool:
        return self.exit_code == 0 and not self.timed_out and self.report_found and bool(self.passed) and not self.red


@dataclass(slots=True)
class Cases:
    """Test ids by result; `broken` are files that could not be collected, `missing` the modules they lacked."""

    results: dict[str, Result] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)

    def ids(self, *results: Result) -> tuple[str, ...]:
        return tuple(sorted(test for test, result in self.results.items() if result in results))


def read_junit(content: bytes) -> Cases:
    """The results in a report of the `xunit1` family; raises UnreadableReport."""
    reader = _Reader()
    try:
        reader.parse(content)
    except (expat.ExpatError, UnicodeError) as error:
        raise UnreadableReport(f"the report is no XML: {error}") from error
    if not reader.is_junit:
        raise UnreadableReport("the report is not of JUnit's form")
    return reader.cases


def missing_modules(text: str) -> set[str]:
    """Top-level modules that an import did not find."""
    return {found.split(".")[0] for found in MISSING.findall(text)}


class _Reader:
    """Expat's events, for the few elements that matter. A test named twice keeps its worst result."""

    def __init__(self) -> None:
        self.cases = Cases()
        self.is_junit = False
        self.case: dict[str, str] = {}
        self.result: Result = "passed"
        self.text = ""

    def parse(self, content: bytes) -> None:
        parser = expat.ParserCreate(encoding="utf-8")
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.Parse(content, True)

    @staticmethod
    def _refuse_doctype(*_: object) -> None:
        raise UnreadableReport("the report declares a document type, which may hold entities")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name in {"testsuites", "testsuite"}:
            self.is_junit = True
        elif name == "testcase":
            self.case, self.result, self.text = attributes, "passed", ""
        elif name == "failure":
            self._worsen("failed")
        elif name == "error":
            self._worsen("error")
        elif name == "skipped":
            self._worsen("xfailed" if attributes.get("type") == "pytest.xfail" else "skipped")

    def _characters(self, text: str) -> None:
        if self.result == "error" and len(self.text) < TEXT_MAX:
            self.text = (self.text + text)[-TEXT_MAX:]

    def _worsen(self, result: Result) -> None:
        self.result = worse(self.result, result)

    def _end(self, name: str) -> None:
        if name != "testcase":
            return
        test = test_id(self.case)
        if not test:  # pytest was told to stop in the middle of a test
            test, self.result = UNFINISHED, "error"
        results = self.cases.results
        if test not in results and len(results) >= TESTS_MAX:
            raise UnreadableReport(f"the report names more than {TESTS_MAX} tests")
        results[test] = worse(results.get(test, "passed"), self.result)
        if self.result == "error" and self.case.get("name") and not self.case.get("classname"):
            self.cases.broken.add(test)
            self.cases.missing |= missing_modules(self.text)


def worse(one: Result, other: Result) -> Result:
    return max(one, other, key=WORST_LAST.index)


def test_id(case: dict[str, str]) -> str:
    """The id as pytest prints it, `tests/test_a.py::TestB::test_c[0]`; the file alone for what was not collected."""
    file, dotted, name = case.get("file", ""), case.get("classname", ""), case.get("name", "")
    if not dotted:
        whole = file or name
    else:
        module = file.removesuffix(".py").replace("/", ".")
        classes = dotted.removeprefix(module).strip(".").split(".") if file and dotted.startswith(module) else [dotted]
        whole = "::".join(part for part in (file, *classes, name) if part)
    return harmless(whole.encode("utf-8", "replace")).replace("\n", " ")[:ID_MAX]


test_id.__test__ = False  # type: ignore[attr-defined]  # its name reads like a test's to pytest
