"""Rules on slips that tests of the day seldom see: clean-up that misses cancellation, state changed before a refusal."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from agents.tools.gates.change import Change, finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from contracts.events import Finding

Function = ast.FunctionDef | ast.AsyncFunctionDef


def judge_care(change: Change) -> Iterator[Finding]:
    """Slips in functions that the change adds or edits, outside of tests."""
    for file in change.files:
        if not file.is_python or file.is_test:
            continue
        held = {node.name: node for node in _functions(file.old_tree)}
        for function in _functions(file.new_tree):
            before = held.get(function.name)
            if before is not None and ast.dump(function) == ast.dump(before):
                continue
            for rule, message in RULES:
                # a slip that was there is what the task may be about, but for defaults, which are a habit
                if before is not None and rule is _mutable_default and list(rule(before, change)):
                    continue
                for line in rule(function, change):
                    yield finding("care", "major", message, file, line)


def _acquired_inside(function: Function, _change: Change) -> Iterator[int]:
    """`try: x.acquire() ... finally: x.release()`"""
    for node in ast.walk(function):
        if isinstance(node, ast.Try):
            taken = {_owner(s, "acquire") for s in node.body} - {None}
            given = {_owner(s, "release") for s in node.finalbody} - {None}
            if taken & given:
                yield node.lineno


def _misses_cancellation(function: Function, _change: Change) -> Iterator[int]:
    """`except Exception: undo(); raise` round an await, with the same undoing after it: cancellation passes by both."""
    for node in ast.walk(function):
        if not isinstance(node, ast.Try) or not any(isinstance(n, ast.Await) for s in node.body for n in ast.walk(s)):
            continue
        for handler in node.handlers:
            caught = ast.unparse(handler.type) if handler.type else ""
            again = handler.body and isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None
            releases = any(_owner(s, "release") for s in handler.body)
            if caught == "Exception" and again and releases and not node.finalbody:
                yield handler.lineno


def _float_for_exact(function: Function, change: Change) -> Iterator[int]:
    """`int(a / b)` where the task wants exact amounts: floats have no room for large ones."""
    if not change.mentions("exact", "cent", "money", "currency"):
        return
    for node in ast.walk(function):
        if not (isinstance(node, ast.Call) and ast.unparse(node.func) in {"int", "round", "math.floor", "math.ceil"}):
            continue
        if any(isinstance(n, ast.BinOp) and isinstance(n.op, ast.Div) for n in ast.walk(node)):
            yield node.lineno


def _dollar_at_the_end(function: Function, change: Change) -> Iterator[int]:
    """`re.match(... + "$")` where the whole text is to match: `$` also matches before a last line's end."""
    if not change.mentions("whole", "entire", "literal", "exactly", "valid"):
        return
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"re.match", "re.search"} and node.args:
            texts = [
                n.value for n in ast.walk(node.args[0]) if isinstance(n, ast.Constant) and isinstance(n.value, str)
            ]
            if texts and texts[-1].endswith("$") and not texts[-1].endswith("\\$"):
                yield node.lineno


def _changed_before_refusal(function: Function, change: Change) -> Iterator[int]:
    """State of `self` is changed, and a check that may raise comes after it."""
    if not re.search(
        r"chang\w* nothing|unchanged|no effect|as (it was|they were)|stays? the same", change.task_text, re.IGNORECASE
    ):
        return
    touched: int | None = None
    for statement in function.body:
        if isinstance(statement, ast.If) and any(isinstance(s, ast.Raise) for s in statement.body) and touched:
            yield touched
            return
        if _touches_self(statement):
            touched = statement.lineno


def _mutable_default(function: Function, _change: Change) -> Iterator[int]:
    """`def f(x=[])`: all calls share one list."""
    for default in (*function.args.defaults, *(d for d in function.args.kw_defaults if d)):
        if isinstance(default, ast.List | ast.Dict | ast.Set) and not function.name.startswith("_"):
            yield default.lineno


RULES: tuple[tuple[Callable[[Function, Change], Iterator[int]], str], ...] = (
    (_acquired_inside, "it releases what it may never have acquired: acquire before the try"),
    (_misses_cancellation, "a cancelled call is not cleaned up after: use finally, or async with"),
    (_float_for_exact, "it rounds a float where the amount must be exact: use whole numbers or Decimal"),
    (_dollar_at_the_end, "'$' also matches before a final line break: use fullmatch"),
    (_changed_before_refusal, "it changes its state before a check that may refuse"),
    (_mutable_default, "a default value is shared by all calls"),
)


def _functions(tree: ast.Module | None) -> list[Function]:
    return [n for n in (ast.walk(tree) if tree else ()) if isinstance(n, Function)]


def _owner(statement: ast.stmt, method: str) -> str | None:
    """What `method` is called on by a plain statement, for instance `self.lock` of `await self.lock.acquire()`."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    value = value.value if isinstance(value, ast.Await) else value
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == method:
        return ast.unparse(value.func.value)
    return None


def _touches_self(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Assign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return any(ast.unparse(t).startswith("self.") for t in targets)
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        call = ast.unparse(statement.value.func)
        return bool(
            re.fullmatch(r"self\.\w+\.(append|add|update|extend|insert|pop|remove|clear|discard|setdefault)", call)
        )
    return False
