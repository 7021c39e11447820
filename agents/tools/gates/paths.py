"""Rules on which paths a change may touch: the plan's scope, protected files, and the size of it all."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from agents.tools.gates.change import Change, ChangedFile, Severity, finding, is_test_path, parsed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from contracts.events import Finding

FILES_MAX = 50
LINES_MAX = 2000

PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
DEPENDENCY_WORDS = ("dependenc", "requirement", "upgrade", "bump", "pin ", "package", "install")

START_UP = re.compile(r"(^|/)([^/]+\.pth|(site|user)customize\.py)$", re.IGNORECASE)
COMPILED = re.compile(r"\.(pyc|pyo|so|pyd|dll|dylib|exe|whl|egg|jar|class|o|a|node)$|(^|/)__pycache__/", re.IGNORECASE)
PROTECTED: tuple[tuple[str, str], ...] = (
    (r"(^|/)conftest\.py$", "the test runner's own code"),
    (r"(^|/)(pytest\.ini|tox\.ini|noxfile\.py|\.coveragerc|jest\.config\.\w+)$", "settings of the test runner"),
    (r"(^|/)(pyproject\.toml|setup\.cfg|setup\.py|MANIFEST\.in|hatch_build\.py|build\.rs|package\.json)$", "how it is built"),
    (r"^\.(github|gitlab|circleci|buildkite|woodpecker)/|(^|/)(\.gitlab-ci\.yml|\.travis\.yml|Jenkinsfile|azure-pipelines\.yml)$", "CI"),
    (r"(^|/)(\.husky|\.githooks)/|^hooks/|(^|/)\.pre-commit-config\.yaml$|(^|/)lefthook\.yml$", "hooks"),
    (r"(^|/)\.git(attributes|modules|ignore-revs)$", "git's settings"),
    (r"(^|/)([^/]*\.lock|package-lock\.json|pnpm-lock\.yaml|go\.sum|poetry\.lock|uv\.lock)$", "locked dependencies"),
    (r"(^|/)(requirements|constraints)[^/]*\.(txt|in)$|(^|/)(Pipfile|environment\.ya?ml|go\.mod|Cargo\.toml)$", "dependencies"),
    (r"(^|/)(\.vscode|\.idea|\.devcontainer)/|(^|/)(\.envrc|\.env|\.npmrc|\.pypirc|pip\.conf|\.netrc|\.yarnrc[^/]*)$", "tools' settings"),
    (r"(^|/)(Dockerfile[^/]*|docker-compose[^/]*\.ya?ml|compose\.ya?ml|Makefile|makefile|justfile|Vagrantfile)$", "how it is run"),
    (r"(^|/)(CODEOWNERS|LICEN[CS]E[^/]*|SECURITY\.md|gavotte\.toml)$", "ownership and policy"),
    (r"(^|/)(AGENTS|CLAUDE|GEMINI)\.md$|(^|/)\.cursorrules$|(^|/)copilot-instructions\.md$", "instructions to agents"),
)  # fmt: skip
RUNNER_NAMES = {"pytest", "_pytest", "pluggy", "unittest", "nose", "hypothesis", "coverage", "pip", "setuptools"}


def judge_scope(change: Change) -> Iterator[Finding]:
    """Files outside the plan are refused; new tests are welcome beside it, and prose unless a person set the bounds."""
    added_names = _imported_by(change)
    for file in change.files:
        if not change.scope or in_scope(file.path, change.scope):
            continue
        if file.is_document and not change.scope_is_given:
            continue
        if file.is_test and file.kind == "added":
            continue
        if file.is_test or _protection(file) or START_UP.search(file.path):
            continue  # the gates on tests and protected paths speak of these
        if file.kind == "added" and file.is_python and PurePosixPath(file.path).stem in added_names:
            yield finding("scope", "minor", "a new module beside the plan, used by the change", file)
        else:
            yield finding(
                "scope", "blocker", "the plan does not name this file (submit with --scope to allow it)", file
            )


def judge_protected(change: Change) -> Iterator[Finding]:
    """Files that decide what runs, how it is tested or who may change it: a person looks, or nobody may."""
    for file in change.files:
        if START_UP.search(file.path):
            yield finding("protected", "blocker", "Python runs this file at every start", file)
        elif COMPILED.search(file.path) and file.kind != "deleted":
            yield finding("protected", "blocker", "compiled code cannot be reviewed", file)
        elif file.is_binary:
            yield finding("protected", "major", "a binary or very large file cannot be reviewed line by line", file)
        reason = _protection(file)
        if reason:
            severity = _protected_severity(change, file)
            yield finding("protected", severity, f"{file.kind} file is protected: {reason}", file)
        if file.kind == "changed" and file.old_mode != file.new_mode:
            yield finding("protected", "major", f"its mode changes from {file.old_mode} to {file.new_mode}", file)
        if file.kind == "added" and file.new_mode == "100755":
            yield finding("protected", "major", "a new file can be executed", file)
        if _shadows(file, change.base_paths):
            yield finding("protected", "blocker", f"a module named {file.path!r} hides the one of the same name", file)


def judge_size(change: Change) -> Iterator[Finding]:
    """A change that nobody can read in one sitting needs a person to say so."""
    lines = sum(len(file.added_lines) + file.removed_count for file in change.files)
    first = change.files[0] if change.files else None
    if first is None:
        return
    if len(change.files) > FILES_MAX:
        yield finding("size", "major", f"{len(change.files)} files change, more than {FILES_MAX}", first)
    if lines > LINES_MAX:
        yield finding("size", "major", f"{lines} lines change, more than {LINES_MAX}", first)


def in_scope(path: str, patterns: Iterable[str]) -> bool:
    """Whether a path matches one of the patterns: `*` and `?` stay in a folder, `**` crosses folders, `dir/` is all below."""
    return any(re.fullmatch(_as_regex(pattern), path) for pattern in patterns)


def grounded_scope(paths: Iterable[str], read: Callable[[str], bytes | None], text: str) -> tuple[str, ...]:
    """The source files that a task is about: named by its text, defining a name it uses, or reached by import from the tests."""
    sources = sorted(path for path in paths if path.endswith(".py") and not is_test_path(path))
    trees = {path: parsed(read(path) or b"") for path in sources}
    words = set(re.findall(r"[A-Za-z_][A-Za-z0-9_]*", text))
    wanted = {path for path in sources if is_named(path, text)}
    for path, tree in trees.items():
        names = {
            n.name
            for n in (tree.body if tree else ())
            if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        }
        if names & words:
            wanted.add(path)
    tests = [parsed(read(path) or b"") for path in paths if path.endswith(".py") and is_test_path(path)]
    reached = _reached(sources, tests)
    while reached - wanted:
        wanted |= reached
        reached = _reached(sources, [trees[path] for path in wanted])
    return tuple(sorted(wanted))


def is_named(path: str, text: str) -> bool:
    """Whether a text speaks of a file by its name, whatever folder it names with it."""
    return re.search(rf"(?<![\w-]){re.escape(PurePosixPath(path).name)}(?!\w)", text) is not None


def _reached(sources: Iterable[str], trees: Iterable[ast.Module | None]) -> set[str]:
    names = {name for tree in trees if tree is not None for name in _imports(tree)}
    modules = {path: path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in sources}
    return {path for path, module in modules.items() if any(module == n or module.endswith(f".{n}") for n in names)}


def _imports(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names |= {module} | {f"{module}.{alias.name}".lstrip(".") for alias in node.names}
    return names - {""}


def _imported_by(change: Change) -> set[str]:
    names = {name for file in change.files if file.new_tree for name in _imports(file.new_tree)}
    return {part for name in names for part in name.split(".")}


def _protection(file: ChangedFile) -> str | None:
    return next((reason for pattern, reason in PROTECTED if re.search(pattern, file.path)), None)


def _protected_severity(change: Change, file: ChangedFile) -> Severity:
    """Protected files whose new lines reach out, install or disarm are refused at once; the others wait for a person."""
    if _new_dependencies(file) and not change.mentions(*DEPENDENCY_WORDS, *_new_dependencies(file)):
        return "blocker"
    added = "\n".join(line for _, line in file.added_lines)
    refused = (
        r"ext::", r"--deselect|--ignore\b|--co\b|--collect-only|-p\s*no:|-k\s|collect_ignore|norecursedirs|python_(files|functions|classes)",
        r"pytest_(runtest|pyfunc|collection_modifyitems|ignore_collect|report|sessionfinish|runtestloop)",
        r"pull_request_target|secrets\.|printenv|\benv\s*\|", r"\b(curl|wget|nc|ncat)\b",
        r"(--(extra-)?index-url|--trusted-host|--find-links|git\+|http://|file:)", r'"(pre|post)?(install|prepare)"\s*:',
        r"cmdclass|post_install",
        r"folderOpen|core\.hooksPath|\bfilter\s*=\s*\S+\s+\S*=\s*!|os\._exit|\.outcome\s*=",
    )  # fmt: skip
    return "blocker" if any(re.search(pattern, added) for pattern in refused) else "major"


def _new_dependencies(file: ChangedFile) -> set[str]:
    """Names of packages that a list of dependencies holds now and did not before."""
    if file.name == "pyproject.toml":
        return _declared(file.new_text) - _declared(file.old_text)
    if not re.match(r"(requirements|constraints).*\.(txt|in)$", file.name):
        return set()
    names = [
        {m[0].lower() for line in text.splitlines() if (m := PACKAGE.match(line))}
        for text in (file.old_text, file.new_text)
    ]
    return names[1] - names[0]


def _declared(text: str) -> set[str]:
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return set()
    project, build = content.get("project", {}), content.get("build-system", {})
    lists = [
        project.get("dependencies", []),
        build.get("requires", []),
        *project.get("optional-dependencies", {}).values(),
    ]
    return {m[0].lower() for names in lists for name in names if (m := PACKAGE.match(str(name)))}


def _shadows(file: ChangedFile, base_paths: frozenset[str]) -> bool:
    """Whether a new top-level module takes the name of one of Python's or of the test runner's."""
    parts = PurePosixPath(file.path).parts
    if file.kind != "added" or not file.is_python or parts[0] == "src":
        return False
    top = PurePosixPath(parts[0]).stem
    known = any(path.startswith(f"{top}/") for path in base_paths)
    return (
        not known
        and len(parts) <= 2
        and (len(parts) == 1 or parts[1] == "__init__.py")
        and (top in sys.stdlib_module_names or top in RUNNER_NAMES)
    )


def _as_regex(pattern: str) -> str:
    if pattern.endswith("/"):
        pattern += "**"
    out = ""
    for token in re.findall(r"\*\*/|\*\*|\*|\?|[^*?]+", pattern.removeprefix("./")):
        out += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(token, re.escape(token))
    return out
