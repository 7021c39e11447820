"""Questions about Python syntax: what an import runs, what a literal says, whether a comparison is with a date."""

from __future__ import annotations

import ast
import re


def called_at_import(tree: ast.Module) -> set[str]:
    """Names of functions and methods that importing the module runs: called at its top level, or from one that is."""
    bodies: dict[str, list[ast.AST]] = {}
    methods: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            bodies.setdefault(node.name, []).extend(node.body)
        elif isinstance(node, ast.ClassDef):
            methods[node.name] = {"__init__", "__new__", "__post_init__", "__init_subclass__", "__enter__", "__call__"}
    reached: set[str] = set()
    waiting: list[ast.AST] = list(top_level(tree.body))
    while waiting:
        for call in calls(waiting.pop()):
            name = call.id if isinstance(call, ast.Name) else call.attr if isinstance(call, ast.Attribute) else ""
            # a method's name alone does not say whose it is: only calls on what this module defines count
            local = isinstance(call, ast.Name) or (
                isinstance(call, ast.Attribute) and root(call) in bodies.keys() | methods.keys()
            )
            names = ({name} if local else set()) | methods.get(name, set()) if local else set()
            for found in (names & bodies.keys()) - reached:
                reached.add(found)
                waiting.extend(bodies[found])
    return reached


def top_level(body: list[ast.stmt]) -> list[ast.AST]:
    """What runs when these statements do: not the insides of functions, nor of `if __name__ == "__main__"`."""
    out: list[ast.AST] = []
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            out += [
                ast.Expr(ast.Call(func=d, args=[], keywords=[])) if isinstance(d, ast.Name) else d
                for d in node.decorator_list
            ]
            out += node.args.defaults
        elif isinstance(node, ast.ClassDef):
            out += [*node.decorator_list, *top_level(node.body)]
        elif not (isinstance(node, ast.If) and "__main__" in ast.dump(node.test)):
            out.append(node)
    return out


def calls(node: ast.AST) -> list[ast.AST]:
    """The functions called in a node, but not in a lambda or function inside it."""
    found: list[ast.AST] = []
    waiting = [node]
    while waiting:
        at = waiting.pop()
        if isinstance(at, ast.Lambda | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(at, ast.Call):
            found.append(at.func)
            found += [a for a in at.args if isinstance(a, ast.Name)]  # handed over to be called
        waiting.extend(ast.iter_child_nodes(at))
    return found


def root(node: ast.AST) -> str:
    while isinstance(node, ast.Attribute | ast.Call):
        node = node.value if isinstance(node, ast.Attribute) else node.func
    return node.id if isinstance(node, ast.Name) else ""


def docstrings(tree: ast.Module) -> set[int]:
    found = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            found |= {id(s.value) for s in body if isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)}
    return found


def without_differences(node: ast.AST) -> list[ast.AST]:
    """The nodes of an expression, but not of a difference: `now - then > 60` is a duration and no date."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        return []
    return [node, *(inner for child in ast.iter_child_nodes(node) for inner in without_differences(child))]


def is_date(name: str, node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return (isinstance(node.value, int | float) and abs(node.value) > 1e8) or (
            isinstance(node.value, str) and bool(re.search(r"\d{2}", node.value))
        )
    if isinstance(node, ast.BinOp):
        return all(isinstance(n, ast.Constant | ast.BinOp | ast.operator) for n in ast.walk(node))
    return bool(
        re.fullmatch(r"(.*\.)?(datetime|date|strptime|fromisoformat|fromtimestamp|mktime|timestamp)\(\)(\..*)?", name)
    ) and any(isinstance(n, ast.Constant) for n in ast.walk(node))


def telling(node: ast.AST | None) -> str | None:
    """The `repr` of a literal that is no everyday value, else None."""
    try:
        value = ast.literal_eval(node) if node is not None else None
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return None
    everyday = value is None or isinstance(value, bool) or (isinstance(value, int | float) and abs(value) <= 2)
    everyday = everyday or (isinstance(value, str | bytes | list | tuple | dict | set) and len(value) <= 1)
    return None if everyday else repr(value)


def makes_code(node: ast.Call) -> bool:
    return (
        len(node.args) >= 3
        and isinstance(node.args[2], ast.Constant)
        and node.args[2].value in {"exec", "eval", "single"}
    )


def returns_true(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    body = [s for s in node.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    return len(body) == 1 and isinstance(body[0], ast.Return) and is_constant(body[0].value, value=True)


def is_constant(node: ast.AST | None, *, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def first_text(node: ast.Call) -> str:
    return str(node.args[0].value) if node.args and isinstance(node.args[0], ast.Constant) else ""


def first_subscript(node: ast.AST) -> str:
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return str(node.slice.value)
    return first_text(node) if isinstance(node, ast.Call) else ""
