"""The style of the house as tests: each rule is one function, and each message says how to mend what it found."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES: list[str] = PROJECT["tool"]["setuptools"]["packages"]
ROOMS = sorted({name.split(".")[0] for name in PACKAGES})
BARE = ("bench", "deploy", "docs", "examples", "tests")  # folders that are no packages
ROLES = ("planning", "coding", "review", "deploy")
SAMPLE = ROOT / "console" / "demo_sample"  # somebody else's repository, with a bug on purpose

# fmt: off
HEAVY = {
    "aiokafka", "aiosqlite", "anthropic", "asyncpg", "cryptography", "fastavro", "httpx", "httpx2", "hypothesis",
    "opentelemetry", "prometheus_client", "psycopg", "py_avro_schema", "starlette", "tenacity", "uvicorn",
}
# fmt: on

VAGUE = {"common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"}

FILE_LINES_MAX = 600
LONGER_FILES: dict[str, tuple[int, str]] = {
    # path: (lines at most, why it is not two files)
    "agents/tools/confinement.py": (700, "a bare interpreter runs this one file inside the walls that it builds"),
    "agents/worker.py": (250, "the life of one delivery fits one reading; what grows here belongs beside it"),
}
FUNCTION_LINES_MAX = 60
LONGER_FUNCTIONS: dict[str, tuple[int, str]] = {
    # path:function: (lines at most, why it is not two functions)
}


def below(folders: tuple[str, ...] | list[str], pattern: str) -> list[Path]:
    """Files of these folders, without caches, generated egg-info and the sample of the demo."""
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob(pattern))]
    return [p for p in found if p.is_file() and "__pycache__" not in p.parts and SAMPLE not in p.parents]


def product() -> list[Path]:
    return below(ROOMS, "*.py")


def python() -> list[Path]:
    return below([*ROOMS, *BARE], "*.py")


def texts() -> list[Path]:
    """Everything a reader of the repository sees, but for the locks and the licence."""
    suffixes = {".avsc", ".cfg", ".html", ".json", ".md", ".py", ".sh", ".sql", ".toml", ".yaml", ".yml", ".css", ".js"}
    inside = [p for p in below([*ROOMS, *BARE], "*") if p.suffix in suffixes]
    top = [p for p in ROOT.iterdir() if p.is_file() and (p.suffix in suffixes or p.name == "Makefile")]
    return sorted([*inside, *top, ROOT / ".ci" / "run"])


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def imports(path: Path) -> set[str]:
    """The dotted names of modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def fail_on(faults: list[str], mend: str) -> None:
    if faults:
        pytest.fail("\n  ".join([mend, *faults]), pytrace=False)


def test_names_are_nouns_of_the_field() -> None:
    faults = []
    for path in python():
        words = set(re.split(r"[_.]", path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "_")))
        faults += [f"{name_of(path)}: {word}" for word in sorted(words & VAGUE)]
        faults += [name_of(path)] if path.stem == "base" else []
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef) and re.search(r"^Base[A-Z]|(Common|Helper|Manager|Util)s?$", node.name):
                faults.append(f"{name_of(path)}:{node.lineno}: class {node.name}")
    fail_on(faults, "Name it for what it is in docs/glossary.md, not for being of help:")


def test_each_file_says_its_reason_first() -> None:
    faults = []
    for path in python():
        doc = ast.get_docstring(tree(path)) or ""
        first = doc.split("\n\n")[0].replace("\n", " ").strip()
        if not re.match(r"[A-Z`\d\"'\u2018]", first) or not re.search(r"[.:!?`)]$", first):
            faults.append(f"{name_of(path)}: {first[:60]!r}")
    fail_on(faults, "Open the file with a docstring whose first sentence is its one reason to exist:")


def test_files_stay_small() -> None:
    faults = []
    for path in python():
        limit, why = LONGER_FILES.get(name_of(path), (FILE_LINES_MAX, "two reasons to exist make two files"))
        lines = len(path.read_text().splitlines())
        if lines > limit:
            faults.append(f"{name_of(path)}: {lines} lines, {limit} allowed: {why}")
    fail_on(faults, "Split the file along its second reason to exist, or give the reason in LONGER_FILES:")


def test_functions_stay_small() -> None:
    faults = []
    for path in product():
        for node in functions(path):
            key = f"{name_of(path)}:{node.name}"
            limit, why = LONGER_FUNCTIONS.get(key, (FUNCTION_LINES_MAX, "name the parts"))
            lines = (node.end_lineno or node.lineno) - node.body[0].lineno + 1  # options of a command are no length
            if lines > limit:
                faults.append(f"{key} (line {node.lineno}): {lines} lines, {limit} allowed: {why}")
    fail_on(faults, "Give the parts of the function names of their own, or the reason in LONGER_FUNCTIONS:")


def test_reasons_given_here_are_still_needed() -> None:
    lines = {name_of(path): len(path.read_text().splitlines()) for path in python()}
    excused = [name for name, (limit, _) in LONGER_FILES.items() if limit > FILE_LINES_MAX]
    faults = [f"LONGER_FILES: {name}" for name in excused if lines.get(name, 0) <= FILE_LINES_MAX]
    named = {f"{name_of(path)}:{node.name}" for path in product() for node in functions(path)}
    faults += [f"LONGER_FUNCTIONS: {key}" for key in LONGER_FUNCTIONS if key not in named]
    fail_on(faults, "Take the entry out, what it excused is gone:")


def test_ignores_carry_a_code_and_a_reason() -> None:
    good = re.compile(r"#\s*type: ignore\[[\w, -]+\]\s+#\s*\S+")
    faults = [
        f"{name_of(path)}:{number}: {line.strip()}"
        for path in python()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"#\s*type:\s*ignore", line) and not good.search(line) and path != Path(__file__)
    ]
    fail_on(faults, "Write `# type: ignore[code]  # why`, or better, mend the type:")


def test_only_the_rooms_are_packages() -> None:
    faults = [name_of(path) for path in below(BARE, "__init__.py")]
    fail_on(faults, "Delete it: these folders hold programs and pages, and a package there would shadow another:")


def test_the_package_list_is_the_tree() -> None:
    there = {name_of(path.parent).replace("/", ".") for path in below(ROOMS, "__init__.py")}
    faults = [f"listed, not there: {name}" for name in sorted(set(PACKAGES) - there)]
    faults += [f"there, not listed: {name}" for name in sorted(there - set(PACKAGES))]
    stray = {path.parent for path in product()} - {path.parent for path in below(ROOMS, "__init__.py")}
    faults += [f"Python files without __init__.py: {name_of(path)}" for path in sorted(stray)]
    fail_on(faults, "Bring [tool.setuptools] packages in pyproject.toml and the tree together:")


@pytest.mark.parametrize("package", PACKAGES)
def test_our_packages_are_ours(package: str) -> None:
    # `agents` is another SDK's name too, and two distributions can overwrite each other without a word. Editable
    # installs do not show in the metadata of others, therefore the file is looked at as well.
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is not importable: run make dev"
    assert spec.origin is not None
    assert Path(spec.origin).is_relative_to(ROOT), (
        f"{package} is loaded from {spec.origin}: uninstall what put it there"
    )
    owners = set(importlib.metadata.packages_distributions().get(package.partition(".")[0], []))
    assert owners <= {"gavotte"}, f"{package} is claimed by {owners - {'gavotte'}} as well: uninstall that"


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after this statement."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{statement}\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stderr.split()}


def test_importing_a_room_loads_nothing_heavy() -> None:
    roles = [f"agents.{role}" for role in ROLES if (ROOT / "agents" / f"{role}.py").exists()]
    found = loaded_by("\n".join(f"import {name}" for name in [*PACKAGES, *roles])) & (HEAVY | {"rich", "typer"})
    fail_on(sorted(found), "Import it where it is used, inside the function; `python -X importtime` shows who did:")


def test_help_loads_nothing_heavy() -> None:
    call = "from console.cli.main import main\nsys.argv = ['gavotte', '--help']\ntry: main()\nexcept SystemExit: pass"
    found = loaded_by(call) & HEAVY
    fail_on(sorted(found), "`gavotte --help` must answer at once: import it inside the command that needs it:")


def test_roles_know_facts_and_tools_alone() -> None:
    allowed = ("contracts.", "agents.tools", "pydantic", "__future__")
    there = [path for path in (ROOT / "agents" / f"{role}.py" for role in ROLES) if path.exists()]
    faults = [
        f"{name_of(path)}: {name}"
        for path in there
        for name in sorted(imports(path))
        if not name.startswith(allowed) and name.split(".")[0] not in sys.stdlib_module_names
    ]
    fail_on(faults, "A role decides over events and its tools; hand it what it needs through `tools` instead of:")


SQL = re.compile(
    r"\b(SELECT\b.+\bFROM|INSERT INTO|UPDATE \w+ SET|DELETE FROM|CREATE (TABLE|INDEX|TRIGGER))\b", re.DOTALL
)
SQL_ROOMS = ("bus/embedded", "embedded/", "evals/tampering", "state_store/")  # who tampers writes past the store
SQL_LINES_MAX = 3


def test_sql_lives_beside_the_stores() -> None:
    faults = []
    for path in product():
        at_home = name_of(path).startswith(SQL_ROOMS)
        for node in ast.walk(tree(path)):
            if not (isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.search(node.value)):
                continue
            if not at_home or len(node.value.strip().splitlines()) > SQL_LINES_MAX:
                faults.append(f"{name_of(path)}:{node.lineno}: {' '.join(node.value.split())[:60]}")
    fail_on(faults, "Put the query, with its name and a line of purpose, into the .sql file beside the store:")


def test_nothing_names_one_machine() -> None:
    elsewhere = re.compile(r"(?<![\w.}$~/*-])/(?:home/(?!sam\b)|Users/|root/|work/)\w+")  # Sam is nobody
    hosts = re.compile(r"\b(pypi|pythonhosted|npmjs|crates|maven)\.(org|com|io)\b")
    faults = []
    for path in texts():
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            found = elsewhere.search(line) or hosts.search(line)
            if found:
                faults.append(f"{name_of(path)}:{number}: {found.group()}")
    fail_on(faults, "Use a path relative to the clone, or a setting; registries are the machine's own choice:")


def test_sleeping_is_no_way_to_wait() -> None:
    # a child that sleeps for ten seconds and more does not wait: it is there to be killed
    faults = []
    for path in below(("tests",), "test_*.py"):
        module = tree(path)
        loops = [node for node in ast.walk(module) if isinstance(node, ast.While | ast.For | ast.AsyncFor)]
        looped = {id(node) for loop in loops for node in ast.walk(loop)}
        calls = [node for node in ast.walk(module) if isinstance(node, ast.Call) and id(node) not in looped]
        found = [node for node in calls if re.fullmatch(r"time\.sleep\((?!\d{2,}\)).*\)", ast.unparse(node))]
        faults += [f"{name_of(path)}:{node.lineno}: {ast.unparse(node)}" for node in found]
    fail_on(faults, "Wait for the condition in a loop with a deadline:")


def requirement_name(line: str) -> str:
    return re.split(r"[\s<>=!~\[;]", line, maxsplit=1)[0].lower().replace("_", "-")


def declared() -> set[str]:
    extras = PROJECT["project"]["optional-dependencies"].values()
    return {requirement_name(line) for lines in [PROJECT["project"]["dependencies"], *extras] for line in lines}


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_locks_pin_by_hash_and_name_no_place(lock: str) -> None:
    text = (ROOT / lock).read_text()
    pins = re.split(r"\n(?=[a-z])", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    faults = [pin.splitlines()[0] for pin in pins if pin.strip() and "--hash=sha256:" not in pin]
    faults += [line for line in text.splitlines() if re.search(r"://|--(extra-)?index-url|--find-links", line)]
    fail_on(faults, f"Run make lock; in {lock} these are pinned to no hash, or to a place:")


def test_locks_hold_what_is_declared() -> None:
    pinned = {
        requirement_name(line) for line in (ROOT / "requirements-dev.lock").read_text().splitlines() if "==" in line
    }
    fail_on(sorted(declared() - pinned), "Run make lock, these of pyproject.toml are not in it:")


def test_each_dependency_has_its_reason() -> None:
    pages = (ROOT / "docs" / "decisions").glob("*dependenc*.md")
    reasons = "\n".join(page.read_text() for page in pages)
    fail_on(
        [name for name in sorted(declared()) if f"`{name}`" not in reasons],
        "Say in docs/decisions, on the page of the dependencies, why we carry:",
    )


def test_continuous_integration_runs_what_the_readme_says() -> None:
    assert re.search(r"^(exec )?make test$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme, "the README opens with the two commands"
    assert "make test" in readme, "the README opens with the two commands"
