"""The examples do what the pages say of them, tried on tools that are made here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agents.tools.reading_tools import FileOf, FileText
from agents.wiring import load_further
from console.timeline import line_of
from contracts.envelope import root
from contracts.errors import Usage
from contracts.events import Body, ChangeProposed, FileChange
from contracts.topology import Topology

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "licence_scan.py"


async def test_the_fifth_agent_annotates_a_change() -> None:
    module: Any = load_further(EXAMPLE)
    Topology().add(module.AGENT)
    texts = {"a.py": "x = 1\n", "vendor/b.py": "# GNU General Public License, version 3\n"}

    async def read_file(wanted: FileOf) -> FileText:
        assert wanted.commit == "c0ffee"
        return FileText(text=texts[wanted.path])

    change = ChangeProposed(
        revision=1,
        base_commit="base",
        head_commit="c0ffee",
        branch="gavotte/1",
        digest="sha256:0",
        files=(*(FileChange(path=path, kind="changed") for path in texts), FileChange(path="old.py", kind="deleted")),
        diff=Body.of(""),
    )
    event = root(change)
    [said] = await module.handle(event, object(), SimpleNamespace(read_file=read_file))
    assert said.type == "LicencesScanned"
    assert said.envelope.causation_id == event.id
    assert said.payload.files == ("a.py", "vendor/b.py")
    assert said.payload.copyleft == ("vendor/b.py",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\nimport no_such_thing\n", "line 2: ModuleNotFoundError: No module named 'no_such_thing'"),
        ("def handle(:\n", "SyntaxError: "),
        ("AGENT = 1\n", "lacks EVENTS, handle"),
    ],
)
def test_what_is_off_with_an_agents_file_is_said(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(Usage) as caught:
        load_further(path)
    assert str(path) in caught.value.message
    assert said in caught.value.message


def test_a_further_agents_event_is_shown_by_its_fields() -> None:
    fields = {"head_commit": "c0ffee", "files": ["a.py", "b.py"], "note": "", "seen": None, "copyleft": []}
    assert line_of("LicencesScanned", "licences", fields).detail == "head_commit c0ffee, files 2, copyleft 0"
    assert line_of("LicencesScanned", "licences", None).detail == ""
