"""Rules on tests: those of the base stay, run and ask as much as before."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agents.tools.gates.change import Change, ChangedFile, finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contracts.events import Finding

DISARMED = re.compile(r"skip|xfail|ignore|expectedFailure|disabled|flaky|__test__ = False", re.IGNORECASE)
SKIPPING = re.compile(r"(^|\.)(skip|xfail|exit|importorskip|SkipTest|skipTest|_exit|fail_under)$")
RUNNER_FILES = re.compile(r"(^|/)conftest\.py$")
RUNNER_HOOK = re.compile(
    r"pytest_(runtest|pyfunc|collection|collect|ignore|report|sessionfinish|runtestloop|cmdline|load_initial|itemcollected)\w*"
)


@dataclass(frozen=True)
class TestCase:
    """One test function: what stands above it and what it checks."""

    __test__ = False

    marks: tuple[str, ...]
    cases: int
    checks: int
    body: str
    line: int
    vacuous: bool


def judge_tests(change: Change) -> Iterator[Finding]:
    """Tests removed, renamed away, skipped, weakened or edited; and code that disarms the runner."""
    moved = {name for file in change.files if file.is_test and file.new_tree for name in _cases(file.new_tree)}
    for file in change.files:
        if file.is_python and file.after is not None:
            yield from _disarmed(file)
        if not file.is_test:
            continue
        if file.kind == "deleted" and not file.is_python:
            yield finding("tests", "blocker", "a file of tests is deleted", file)
        elif file.is_python and file.before is not None:
            yield from _judge_file(file, moved if file.kind == "deleted" else set())
        elif file.before is not None and file.removed_count:
            yield finding("tests", "major", "existing tests are edited", file)
        if file.kind == "added" and file.is_python:
            yield from _skipped_modules(file)


def _judge_file(file: ChangedFile, moved: set[str]) -> Iterator[Finding]:
    old, new = _cases(file.old_tree), _cases(file.new_tree)
    if file.kind == "changed" and file.new_tree is None:
        yield finding("tests", "blocker", "the file of tests does not parse any more", file)
        return
    for name, was in old.items():
        now = new.get(name)
        if now is None:
            if name in moved:
                yield finding("tests", "major", f"the test {name} moves to another file", file)
            else:
                yield finding("tests", "blocker", f"the test {name} is gone", file)
            continue
        yield from _compare(file, name, was, now)
    yield from _skipped_modules(file)
    yield from _doubles(file)
    if file.new_tree is not None and old and _surroundings(file.old_tree) - _surroundings(file.new_tree):
        yield finding("tests", "major", "what existing tests lean on (imports, helpers, values) is edited", file)


def _compare(file: ChangedFile, name: str, was: TestCase, now: TestCase) -> Iterator[Finding]:
    new_marks = [mark for mark in now.marks if mark not in was.marks and DISARMED.search(mark.partition("(")[0])]
    if new_marks:
        yield finding(
            "tests", "blocker", f"the test {name} is marked so that it no longer counts: {new_marks[0]}", file, now.line
        )
    elif now.checks < was.checks or (now.vacuous and not was.vacuous):
        yield finding("tests", "blocker", f"the test {name} checks less than before", file, now.line)
    elif now.cases < was.cases:
        yield finding("tests", "blocker", f"the test {name} runs on fewer cases than before", file, now.line)
    elif now.body != was.body or now.marks != was.marks:
        yield finding("tests", "major", f"the existing test {name} is edited", file, now.line)


def _skipped_modules(file: ChangedFile) -> Iterator[Finding]:
    """Statements at the top of a file of tests that take all of it out of the run."""
    held = {ast.dump(node) for node in (file.old_tree.body if file.old_tree else ())}
    for node in file.new_tree.body if file.new_tree else ():
        if ast.dump(node) in held:
            continue
        text = ast.unparse(node)
        marks = isinstance(node, ast.Assign) and re.match(
            r"(pytestmark|__test__|collect_ignore\w*|pytest_plugins)\b", text
        )
        if (marks and re.search(r"skip|xfail|False|collect_ignore|plugins", text)) or (
            isinstance(node, ast.Expr | ast.If | ast.Raise | ast.Try)
            and re.search(r"\b(pytest\.(skip|exit|importorskip|xfail)|SkipTest|sys\.exit|os\._exit|SystemExit)\b", text)
        ):
            yield finding("tests", "blocker", "the whole file is taken out of the run", file, node.lineno)


def _doubles(file: ChangedFile) -> Iterator[Finding]:
    """A second test of the same name silently replaces the first."""
    old, new = _names(file.old_tree), _names(file.new_tree)
    for name in sorted(set(new)):
        if new.count(name) > max(1, old.count(name)):
            yield finding("tests", "blocker", f"a second {name} replaces the first", file)


def _disarmed(file: ChangedFile) -> Iterator[Finding]:
    """Hooks of the runner that can change what a test run says, outside and inside conftest.py."""
    old = _functions(file.old_tree)
    for name, node in _functions(file.new_tree).items():
        if RUNNER_HOOK.fullmatch(name) and (name not in old or ast.dump(old[name]) != ast.dump(node)):
            yield finding("tests", "blocker", f"the hook {name} can change what a test run says", file, node.lineno)
        autouse = any("autouse" in ast.dump(d) for d in node.decorator_list)
        if autouse and RUNNER_FILES.search(file.path) and (name not in old or ast.dump(old[name]) != ast.dump(node)):
            yield finding("tests", "major", f"the fixture {name} takes part in every test", file, node.lineno)


def _cases(tree: ast.Module | None) -> dict[str, TestCase]:
    """Test functions and methods by their names as the runner shows them."""
    found: dict[str, TestCase] = {}
    waiting: list[tuple[str, ast.stmt, tuple[str, ...]]] = [("", node, ()) for node in (tree.body if tree else ())]
    while waiting:
        prefix, node, marks = waiting.pop(0)
        if isinstance(node, ast.ClassDef):
            above = tuple(ast.unparse(d) for d in node.decorator_list)
            inside = tuple(
                ast.unparse(n)
                for n in node.body
                if isinstance(n, ast.Assign) and re.search(r"pytestmark|__test__", ast.unparse(n))
            )
            waiting = [(f"{prefix}{node.name}::", child, marks + above + inside) for child in node.body] + waiting
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            found[prefix + node.name] = _case(node, marks)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            waiting = [(prefix, child, marks) for child in node.body] + waiting
    return found


def _case(node: ast.FunctionDef | ast.AsyncFunctionDef, marks: tuple[str, ...]) -> TestCase:
    own = tuple(ast.unparse(d) for d in node.decorator_list)
    body = [ast.dump(s) for s in node.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    text = ast.dump(ast.Tuple(elts=[*(d for d in node.decorator_list), node.args], ctx=ast.Load()))  # type: ignore[list-item]  # only dumped
    return TestCase(
        marks + own, _case_count(node), _check_count(node), "\n".join(body) + text, node.lineno, _vacuous(node)
    )


def _case_count(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many parameter sets the decorators list."""
    count = 0
    for decorator in node.decorator_list:
        for part in ast.walk(decorator):
            if isinstance(part, ast.List | ast.Tuple):
                count += len(part.elts)
    return count


def _check_count(node: ast.AST) -> int:
    """Assertions of all kinds that can run: what follows a return at the top of the body cannot."""
    count = 0
    for part in _reachable(node):
        if isinstance(part, ast.Assert) and not _always_true(part.test):
            count += 1 + sum(isinstance(p, ast.And) for p in ast.walk(part.test))
        elif isinstance(part, ast.Call):
            name = ast.unparse(part.func)
            count += bool(re.search(r"(^|\.)(assert\w+|raises|warns|fail|deprecated_call|check\w*)$", name))
            count -= bool(SKIPPING.search(name))
    return count


def _reachable(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for _, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        for child in children:
            if isinstance(child, ast.AST):
                if (
                    isinstance(child, ast.If | ast.While)
                    and isinstance(child.test, ast.Constant)
                    and not child.test.value
                ):
                    continue
                yield from _reachable(child)
                if isinstance(child, ast.Return | ast.Raise) and isinstance(value, list):
                    break


def _always_true(test: ast.AST) -> bool:
    if isinstance(test, ast.Constant):
        return bool(test.value)
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or):
        return any(_always_true(value) for value in test.values)
    if isinstance(test, ast.Tuple):
        return bool(test.elts)
    return (
        isinstance(test, ast.Compare)
        and len(test.comparators) == 1
        and isinstance(test.ops[0], ast.Eq)
        and (ast.dump(test.left) == ast.dump(test.comparators[0]))
    )


def _vacuous(node: ast.AST) -> bool:
    """Whether errors of the test are swallowed by the test itself."""
    for part in ast.walk(node):
        if isinstance(part, ast.ExceptHandler) and any(
            isinstance(s, ast.Pass | ast.Return | ast.Continue) for s in part.body
        ):
            kind = ast.unparse(part.type) if part.type else ""
            if kind in {"", "Exception", "BaseException", "AssertionError"} or "AssertionError" in kind:
                return True
        if (
            isinstance(part, ast.Call)
            and re.search(r"suppress$", ast.unparse(part.func))
            and re.search(r"(Base)?Exception|AssertionError", ast.unparse(part))
        ):
            return True
    return False


def _surroundings(tree: ast.Module | None) -> set[str]:
    """Everything at the top of a file of tests that is no test: helpers, fixtures, values. Imports may be reordered."""
    found = set()
    for node in tree.body if tree else ():
        if isinstance(node, ast.Import | ast.ImportFrom) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            continue
        if isinstance(node, ast.ClassDef):
            found |= {
                ast.dump(child)
                for child in node.body
                if not (isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and child.name.startswith("test"))
            }
            continue
        found.add(ast.dump(node))
    return found


def _names(tree: ast.Module | None) -> list[str]:
    names = []
    for node in tree.body if tree else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and re.match(r"(?i)test", node.name):
            names.append(node.name)
        if isinstance(node, ast.ClassDef):
            names += [
                f"{node.name}::{child.name}"
                for child in node.body
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            ]
    return names


def _functions(tree: ast.Module | None) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    return {
        n.name: n for n in (ast.walk(tree) if tree else ()) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    }
