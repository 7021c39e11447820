"""The pages are complete, current and lead somewhere: a command, event, error or setting without its page fails here."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """docs/generate.py, which is a program and no package."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_generated_parts_are_current(page: Path, generate: ModuleType) -> None:
    text = page.read_text()
    assert generate.rendered(text) == text, f"{named(page)} is out of date: run make docs"


def test_every_generator_has_its_page(generate: ModuleType) -> None:
    found = {match["name"] for page in PAGES for match in generate.MARKED.finditer(page.read_text())}
    assert found == set(generate.PARTS), "give each part of docs/generate.py a place between its marks"


def test_generated_files_are_current(generate: ModuleType) -> None:
    stale = [name for name, made in generate.FILES.items() if (ROOT / "docs" / name).read_text() != made()]
    assert not stale, f"out of date: run make docs for {stale}"


def anchors(page: Path) -> set[str]:
    """What a link may point to inside a page, as forges make it from the headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    faults = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            faults.append(target)
    assert not faults, f"{named(page)} links to what is not there: {faults}"


def test_paths_that_pages_name_exist() -> None:
    path = re.compile(r"`((?:\w+/)+[\w.]+\.(?:py|md|sql|sh|toml))`")
    spoken = [(page, name) for page in PAGES for name in path.findall(page.read_text())]
    faults = [f"{named(page)}: {name}" for page, name in spoken if not (ROOT / name).exists()]
    assert not faults, f"these pages name files that are not there: {faults}"


def test_every_variable_is_documented() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    sources = [
        path
        for room in ("agents", "bus", "console", "contracts", "embedded", "state_store")
        for path in (ROOT / room).rglob("*.py")
    ]
    used = {
        name
        for path in [*sources, ROOT / "deploy" / "setup.sh"]
        for name in re.findall(r"GAVOTTE_[A-Z_]*[A-Z]", path.read_text())
    }
    missing = sorted(name for name in used if name not in page)
    assert not missing, f"say in docs/settings.md what these variables do: {missing}"


def test_every_project_setting_is_documented() -> None:
    from agents.projects import Proposal

    page = (ROOT / "docs" / "settings.md").read_text()
    missing = [name for name in Proposal.model_fields if f"| `{name}` |" not in page]
    assert not missing, f"say in docs/settings.md what these project settings are: {missing}"


def test_commands_that_pages_name_exist(generate: ModuleType) -> None:
    known = set(re.findall(r"^### gavotte (.+)$", generate.command_pages(), re.MULTILINE))
    words = re.compile(r"(?:^|`)gavotte ([a-z-]+(?: [a-z]+)?)", re.MULTILINE)
    spoken = [(page, said) for page in PAGES for said in words.findall(page.read_text())]
    faults = [f"{named(page)}: gavotte {said}" for page, said in spoken if not {said, said.split()[0]} & known]
    assert not faults, f"these pages name commands that are not there: {faults}"


def test_every_parameter_says_what_it_is(generate: ModuleType) -> None:
    silent = re.findall(r"^\| (`[^`]+`) \| +\|$", generate.command_pages(), re.MULTILINE)
    assert not silent, f"give these options a help text: {silent}"


def test_decisions_are_listed_and_numbered() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text()
    pages = sorted(folder.glob("[0-9]*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1)), "number the decisions in a row"
    missing = [page.name for page in pages if f"]({page.name})" not in index]
    assert not missing, f"list in docs/decisions/README.md: {missing}"


def test_the_glossary_is_in_order() -> None:
    words = re.findall(r"^\| ([a-z][\w -]*) \|", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)[1:]
    assert words == sorted(words), "keep the glossary in alphabetical order"
    vocabulary = "task event delivery verdict letter step effect receipt lineage stream sequence position fold view lane inbox sweep lease basis owner gate evidence"
    assert set(vocabulary.split()) <= set(words)
