"""What a Python module does that a reader of a diff should know: calls, imports and conditions, told by name and place.

A signal is compared between base and head, so code that was there before, or only moved, is not blamed.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from agents.tools.gates.syntax import (
    called_at_import,
    docstrings,
    first_subscript,
    first_text,
    is_constant,
    is_date,
    makes_code,
    returns_true,
    telling,
    without_differences,
)
from agents.tools.gates.vocabulary import (
    CLOCK,
    CLOCK_PARTS,
    COMPILED_CALLS,
    CREDENTIALS,
    LOG_METHODS,
    NATIVE_MODULES,
    NETWORK_MODULES,
    PERSISTENCE,
    RUNNER_MODULES,
    SECRET_NAME,
    TEST_MARKS,
    WRITE_METHODS,
    Kind,
)


@dataclass(frozen=True)
class Signal:
    """Something a module does. `detail` tells two of a kind apart; `at_import` means importing the module does it."""

    kind: Kind
    detail: str
    line: int
    at_import: bool = False


def signals(tree: ast.Module | None) -> list[Signal]:
    """All signals of a module, in the order of its lines."""
    if tree is None:
        return []
    reader = _Reader(tree)
    reader.visit(tree)
    return sorted(reader.found, key=lambda signal: signal.line)


class _Reader(ast.NodeVisitor):
    def __init__(self, tree: ast.Module) -> None:
        self.found: list[Signal] = []
        self.aliases: dict[str, str] = {}
        self.clocks: set[str] = set()
        self.hosts: set[str] = set()
        self._functions: list[str] = []
        self._docstrings = docstrings(tree)
        self._main_depth = 0
        for node in ast.walk(tree):
            self._learn(node)
        self._import_time = called_at_import(tree)

    # -- names

    def _learn(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                self.aliases[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                self.aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {t.id for t in targets if isinstance(t, ast.Name)}
            if self._clock(node.value):
                self.clocks |= names
            if self._host(node.value):
                self.hosts |= names
            if isinstance(node.value, ast.Attribute | ast.Name) and len(names) == 1:
                known = self.name(node.value)
                if known.split(".")[0] in {"os", "sys", "builtins", "subprocess", "eval", "exec", "socket"}:
                    self.aliases.setdefault(next(iter(names)), known)

    def name(self, node: ast.AST) -> str:
        """The dotted name that an expression resolves to through the module's imports; `()` stands for a call."""
        if isinstance(node, ast.Name):
            return self.aliases.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            return f"{self.name(node.value)}.{node.attr}"
        if isinstance(node, ast.Call):
            function = self.name(node.func)
            constant = node.args[1].value if len(node.args) > 1 and isinstance(node.args[1], ast.Constant) else None
            if function in {"getattr", "builtins.getattr"} and isinstance(constant, str):
                return f"{self.name(node.args[0])}.{constant}"
            if (
                function in {"__import__", "importlib.import_module"}
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                return str(node.args[0].value)
            return f"{function}()"
        if isinstance(node, ast.Subscript):
            return f"{self.name(node.value)}[]"
        return "?"

    def say(self, kind: Kind, detail: str, node: ast.AST) -> None:
        at_import = not self._main_depth and (not self._functions or self._functions[0] in self._import_time)
        self.found.append(Signal(kind, detail, getattr(node, "lineno", 1), at_import))

    # -- places

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for outside in (*node.decorator_list, *node.args.defaults, *(d for d in node.args.kw_defaults if d)):
            self.visit(outside)
        for decorator in node.decorator_list:
            if not isinstance(decorator, ast.Call):
                call = ast.Call(func=decorator, args=[], keywords=[])
                self._judge_call(self.name(decorator), ast.copy_location(call, decorator))
        if node.name in {"__eq__", "__bool__", "__ge__", "__le__"} and returns_true(node):
            self.say("always-equal", node.name, node)
        self._functions.append(node.name)
        for child in node.body:
            self.visit(child)
        self._functions.pop()

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - the visitor's name

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._functions.append("<lambda>")
        self.generic_visit(node)
        self._functions.pop()

    def visit_If(self, node: ast.If) -> None:
        main = "__main__" in ast.dump(node.test)
        self._judge_condition(node.test)
        self._judge_special_case(node)
        self._main_depth += main
        self.generic_visit(node)
        self._main_depth -= main

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._judge_condition(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._judge_condition(node.test)
        self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        self._judge_condition(node.test)
        self.generic_visit(node)

    # -- statements

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._judge_import(alias.name, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if not node.level:
            for alias in node.names:
                self._judge_import(f"{node.module}.{alias.name}", node)

    def _judge_import(self, name: str, node: ast.AST) -> None:
        parts = name.split(".")
        prefixes = {".".join(parts[: n + 1]) for n in range(len(parts))}
        for kind, modules in (("network", NETWORK_MODULES), ("runner", RUNNER_MODULES), ("native", NATIVE_MODULES)):
            for module in sorted(prefixes & modules):
                self.say(f"{kind}-import", module, node)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._judge_target(target, node)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._judge_target(node.target, node)
        self.generic_visit(node)

    def visit_Delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            self._judge_target(target, node)

    def _judge_target(self, target: ast.AST, node: ast.AST) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            for part in target.elts:
                self._judge_target(part, node)
        elif isinstance(target, ast.Attribute):
            name = self.name(target)
            if name.split(".")[0] == "decimal" or name.startswith(("decimal.getcontext()",)):
                self.say("global", name, node)
            elif self._imported(target.value):
                self.say("patch", name, node)
        elif isinstance(target, ast.Subscript):
            name = self.name(target.value)
            if name == "os.environ":
                self.say("global", "os.environ[]", node)
            elif name in {"sys.modules", "globals()", "__builtins__", "builtins.__dict__"} or name.endswith(
                ".__dict__"
            ):
                self.say("patch", name, node)

    def _imported(self, node: ast.AST) -> bool:
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, ast.Name) and node.id in self.aliases

    def visit_Raise(self, node: ast.Raise) -> None:
        if node.exc is not None and self.name(node.exc).removesuffix("()") in {"SystemExit", "KeyboardInterrupt"}:
            self.say("exit", "SystemExit", node)
        self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        broad = node.type is None or (
            isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}
        )
        silent = all(
            isinstance(s, ast.Pass | ast.Continue | ast.Break)
            or (isinstance(s, ast.Return) and (s.value is None or isinstance(s.value, ast.Constant)))
            or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
            for s in node.body
        )
        if broad and silent:
            self.say("swallow", "except", node)
        self.generic_visit(node)

    def visit_For(self, node: ast.For | ast.AsyncFor | ast.comprehension) -> None:
        if self._all_environ(node.iter):
            self.say("environ-all", "iterated", node.iter)
        self.generic_visit(node)

    visit_AsyncFor = visit_For  # noqa: N815
    visit_comprehension = visit_For

    def visit_Dict(self, node: ast.Dict) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None and self.name(value) == "os.environ":
                self.say("environ-copy", "unpacked", node)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and id(node) not in self._docstrings:
            if CREDENTIALS.search(node.value):
                self.say("credential-path", node.value[:80], node)
            if PERSISTENCE.search(node.value):
                self.say("persistence-path", node.value[:80], node)
            if len(node.value) >= 120 and re.fullmatch(r"[A-Za-z0-9+/=_-]+|[0-9a-fA-F]+", node.value):
                self.say("blob", node.value[:20], node)
        elif (
            isinstance(node.value, bytes) and len(node.value) >= 120 and sum(b > 126 or b < 9 for b in node.value) > 40
        ):
            self.say("blob", repr(node.value[:20]), node)

    # -- expressions

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name = self.name(node)
        if name in {"os.environ", "os.environb"}:
            self.say("environ", name, node)
        if name == "ssl.CERT_NONE":
            self.say("insecure", name, node)
        if name == "sys.modules":
            self.say("introspection", name, node)
        if node.attr in {
            "__subclasses__",
            "__globals__",
            "__code__",
            "__closure__",
            "f_back",
            "f_globals",
            "f_locals",
            "gi_frame",
        }:
            self.say("introspection", node.attr, node)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in {"__builtins__", "__loader__"}:
            self.say("introspection", node.id, node)
        if self.aliases.get(node.id) == "os.environ":
            self.say("environ", "os.environ", node)

    def visit_Call(self, node: ast.Call) -> None:
        name = self.name(node.func)
        self._judge_call(name, node)
        self._judge_keywords(name, node)
        self._judge_arguments(name, node)
        self._judge_files(name, node)
        self._judge_told(name, node)
        self.generic_visit(node)

    def _judge_call(self, name: str, node: ast.Call) -> None:
        """Calls that are told by their name, also of a decorator without parentheses."""
        plain = name.removeprefix("builtins.")
        for kind, pattern in COMPILED_CALLS:
            if pattern.fullmatch(name) and not (plain == "compile" and not makes_code(node)):
                self.say(kind, plain, node)
        if plain in {"__import__", "importlib.import_module"} and not (
            node.args and isinstance(node.args[0], ast.Constant)
        ):
            self.say("exec", plain, node)
        if plain in {"__import__", "importlib.import_module"} and node.args and isinstance(node.args[0], ast.Constant):
            self._judge_import(str(node.args[0].value), node)
        if plain in {"getattr", "setattr", "delattr"}:
            self._judge_getattr(plain, node)

    def _judge_getattr(self, plain: str, node: ast.Call) -> None:
        target = self.name(node.args[0]) if node.args else ""
        module = target.split(".")[0].split("(")[0]
        if plain != "getattr" and node.args and self._imported(node.args[0]):
            self.say("patch", target, node)
        dynamic = len(node.args) > 1 and not isinstance(node.args[1], ast.Constant)
        if dynamic and module in {
            "os",
            "builtins",
            "__builtins__",
            "subprocess",
            "sys",
            "__import__",
            "importlib",
            "socket",
        }:
            self.say("exec", f"getattr({module})", node)

    def _judge_keywords(self, name: str, node: ast.Call) -> None:
        values = {k.arg: k.value for k in node.keywords}
        if is_constant(values.get("shell"), value=True):
            self.say("shell", f"{name} shell=True", node)
        if any(
            is_constant(values.get(k), value=False) for k in ("verify", "check_hostname", "verify_ssl", "ssl_verify")
        ):
            self.say("insecure", f"{name} unverified", node)
        if is_constant(values.get("allow_pickle"), value=True):
            self.say("unpickle", name, node)
        if name in {"yaml.load", "yaml.load_all"} and "Safe" not in ast.dump(node):
            self.say("unpickle", name, node)
        if name.endswith(".chmod") and any(
            isinstance(a, ast.Constant) and isinstance(a.value, int) and a.value & 0o002 for a in node.args
        ):
            self.say("insecure", "chmod for everyone", node)

    def _judge_arguments(self, name: str, node: ast.Call) -> None:
        if (
            name.rsplit(".", 1)[-1] in {"execute", "executemany", "executescript"}
            and node.args
            and self._built_text(node.args[0])
        ):
            self.say("sql", name, node)
        given = [*node.args, *(k.value for k in node.keywords if k.arg != "env")]
        whole = [a for a in given if self.name(a) == "os.environ" or self._copied(a)]
        if whole or name == "os.environ.copy":
            told = (
                name in {"print", "str", "repr", "json.dumps", "json.dump", "pprint.pprint"}
                or name.rsplit(".", 1)[-1] in LOG_METHODS
            )
            self.say("environ-all" if told else "environ-copy", name, node)
        if name in {"base64.b64decode", "bytes.fromhex", "codecs.decode", "zlib.decompress", "binascii.unhexlify"}:
            constant = node.args and isinstance(node.args[0], ast.Constant) and len(str(node.args[0].value)) > 24
            if constant:
                self.say("blob", name, node)

    def _copied(self, node: ast.AST) -> bool:
        """`dict(os.environ)` as an argument of another call."""
        return (
            isinstance(node, ast.Call)
            and self.name(node) == "dict()"
            and any(self.name(a) == "os.environ" for a in node.args)
        )

    def _built_text(self, node: ast.AST) -> bool:
        """Whether a query is put together from values: place-holders joined with commas are the right way and pass."""
        if isinstance(node, ast.JoinedStr):
            return any(
                isinstance(v, ast.FormattedValue) and "'?'" not in ast.dump(v) and "%s" not in ast.dump(v)
                for v in node.values
            )
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod | ast.Add):
            text = ast.dump(node)
            return ("Constant" in text) and "Name(" in text and "value='?'" not in text and "value=', '" not in text
        return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format"

    def _judge_files(self, name: str, node: ast.Call) -> None:
        if name in {"open", "io.open", "os.fdopen", "gzip.open", "codecs.open"} or name.endswith(".open"):
            position = 0 if name.endswith(".open") and not name.startswith(("io.", "gzip.", "codecs.")) else 1
            mode = next(
                (k.value for k in node.keywords if k.arg == "mode"),
                node.args[position] if len(node.args) > position else None,
            )
            if (
                isinstance(mode, ast.Constant)
                and isinstance(mode.value, str)
                and set(mode.value) & set("wax+")
                and len(mode.value) < 5
            ):
                self.say("write", "open to write", node)
        elif (
            isinstance(node.func, ast.Attribute)
            and node.func.attr in WRITE_METHODS
            and not (node.func.attr == "rename" and len(node.args) != 1)
        ):
            self.say("write", node.func.attr, node)

    def _judge_told(self, name: str, node: ast.Call) -> None:
        """Secrets given to a log or to the screen, by the names of the variables."""
        last = name.rsplit(".", 1)[-1]
        logs = name == "print" or (last in LOG_METHODS and re.search(r"(?i)log|sys\.std|audit|print", name))
        if not logs:
            return
        for argument in ast.walk(ast.Tuple(elts=[*node.args, *(k.value for k in node.keywords)], ctx=ast.Load())):
            identifier = (
                argument.id
                if isinstance(argument, ast.Name)
                else argument.attr
                if isinstance(argument, ast.Attribute)
                else ""
            )
            if SECRET_NAME.search(identifier):
                self.say("told", identifier, node)

    # -- conditions

    def _judge_condition(self, test: ast.AST) -> None:
        for node in ast.walk(test):
            if isinstance(node, ast.Compare):
                self._judge_compare(node)
            elif isinstance(node, ast.Call) and self.name(node.func) in {"os.environ.get", "os.getenv"}:
                self.say("environ-condition", first_text(node), node)
            if self._host(node):
                self.say("whoami-condition", self.name(node), node)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and TEST_MARKS.search(node.value):
                self.say("test-aware", node.value, node)

    def visit_Compare(self, node: ast.Compare) -> None:
        self._judge_password(node)
        self.generic_visit(node)

    def _judge_compare(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        for side in sides:
            others = [other for other in sides if other is not side]
            if (self._clock(side) and any(is_date(self.name(o), o) for o in others)) or (
                self._clock_part(side)
                and any(isinstance(o, ast.Constant | ast.Tuple | ast.List | ast.Set) for o in others)
            ):
                self.say("clock-condition", ast.unparse(node)[:80], node)

    def _judge_password(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        for side in sides:
            identifier = side.id if isinstance(side, ast.Name) else side.attr if isinstance(side, ast.Attribute) else ""
            identifier = first_subscript(side) or identifier
            texts = [o.value for o in sides if isinstance(o, ast.Constant) and isinstance(o.value, str | bytes)]
            if SECRET_NAME.search(identifier) and any(len(text) >= 3 for text in texts):
                self.say("master-key", identifier, node)

    def _judge_special_case(self, node: ast.If) -> None:
        """`if argument == LITERAL: return LITERAL`: an answer given to one question only."""
        answers = [s.value for s in node.body if isinstance(s, ast.Return) and s.value is not None]
        questions = [
            c
            for c in ast.walk(node.test)
            if isinstance(c, ast.Compare) and isinstance(c.ops[0], ast.Eq | ast.In | ast.Is)
        ]
        for question in questions:
            asked = telling(question.comparators[0]) or telling(question.left)
            given = next((telling(a) for a in answers if telling(a)), None)
            if (
                asked
                and self._functions
                and (given or (answers and isinstance(answers[0], ast.Constant) and answers[0].value is True))
            ):
                self.say("special-case", f"{asked} -> {given or 'True'}", node)

    def _clock(self, node: ast.AST) -> bool:
        return any(
            (isinstance(n, ast.Call) and CLOCK.fullmatch(self.name(n.func)) is not None)
            or (isinstance(n, ast.Name) and n.id in self.clocks)
            for n in without_differences(node)
        )

    def _clock_part(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Call):
            node = node.func
        return isinstance(node, ast.Attribute) and node.attr in CLOCK_PARTS and self._clock(node.value)

    def _host(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Name):
            return node.id in self.hosts
        if not isinstance(node, ast.Call):
            return False
        name = self.name(node.func)
        whoami = next(pattern for kind, pattern in COMPILED_CALLS if kind == "whoami")
        variable = name in {"os.environ.get", "os.getenv"} and first_text(node) in {
            "USER",
            "LOGNAME",
            "HOSTNAME",
            "USERNAME",
            "HOST",
        }
        return variable or whoami.fullmatch(name) is not None

    def _all_environ(self, node: ast.AST) -> bool:
        return self.name(node).removesuffix("()") in {
            "os.environ",
            "os.environ.items",
            "os.environ.keys",
            "os.environ.values",
        }
