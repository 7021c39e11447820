"""A change in the making: exact edits, kept to the plan, that give the same tree on every rerun."""

from __future__ import annotations

import pytest

from agents.tools.drafts import FILE_BYTES_MAX, BadEdit, Draft, Edit
from contracts.redaction import MASK

BASE = {"money.py": "x = 1\ny = 2\nx = 1\n", "docs/a.md": "Shares.\n"}
EMPTY = Draft("c0", ("money.py", "docs/", "new.py"))


def drafted(*edits: tuple[str, str, str], draft: Draft = EMPTY) -> Draft:
    for path, find, replace in edits:
        draft = draft.edited(Edit(path=path, find=find, replace=replace), BASE.get(path))
    return draft


def test_edits_add_up_and_see_each_other() -> None:
    draft = drafted(("money.py", "y = 2", "y = 3"), ("money.py", "y = 3", "y = 4"), ("new.py", "", "z = 0\n"))
    assert draft.texts == {"money.py": "x = 1\ny = 4\nx = 1\n", "new.py": "z = 0\n"}
    assert draft.diff(dict(BASE)) == (
        "--- a/money.py\n+++ b/money.py\n@@ -1,3 +1,3 @@\n x = 1\n-y = 2\n+y = 4\n x = 1\n"
        "--- /dev/null\n+++ b/new.py\n@@ -0,0 +1 @@\n+z = 0\n"
    )


def test_a_tree_is_known_by_its_texts_alone() -> None:
    one = drafted(("money.py", "y = 2", "y = 3"), ("docs/a.md", "Shares", "All shares"))
    other = drafted(("docs/a.md", "", "All shares.\n"), ("money.py", "y = 2", "y = 3"))
    assert one.digest == other.digest
    back = drafted(
        ("money.py", "y = 3", "y = 2"), ("docs/a.md", "All ", ""), ("docs/a.md", "shares", "Shares"), draft=one
    )
    assert back.digest == EMPTY.digest
    assert len({EMPTY.digest, one.digest, Draft("c1").digest}) == 3


def test_a_file_may_go_and_come_back() -> None:
    gone = EMPTY.edited(Edit(path="docs/a.md", delete=True), BASE["docs/a.md"])
    assert gone.texts == {"docs/a.md": None}
    assert gone.diff(dict(BASE)) == "--- a/docs/a.md\n+++ /dev/null\n@@ -1 +0,0 @@\n-Shares.\n"
    with pytest.raises(BadEdit, match="there is no file"):
        gone.edited(Edit(path="docs/a.md", find="Shares", replace="x"), BASE["docs/a.md"])
    with pytest.raises(BadEdit, match="there is no file"):
        gone.edited(Edit(path="docs/a.md", delete=True), BASE["docs/a.md"])
    with pytest.raises(BadEdit, match="nothing to find"):
        EMPTY.edited(Edit(path="money.py", delete=True, replace="x"), BASE["money.py"])
    back = gone.edited(Edit(path="docs/a.md", replace="Shares.\n"), BASE["docs/a.md"])
    assert back.digest == EMPTY.digest != gone.digest
    new = EMPTY.edited(Edit(path="new.py", replace="x"), None).edited(Edit(path="new.py", delete=True), None)
    assert new.digest == EMPTY.digest


@pytest.mark.parametrize(
    ("path", "find", "replace", "said"),
    [
        ("money.py", "x = 1", "x = 2", "occurs 2 times in 'money.py', it must occur once"),
        ("money.py", "gone", "x = 2", "occurs 0 times in 'money.py'"),
        ("new.py", "x", "y", "there is no file 'new.py' to edit"),
        ("setup.py", "", "x", "'setup.py' is none of the files of the plan: money.py, docs/, new.py"),
        ("docs/../setup.py", "", "x", "leaves the repository"),
        (".git/config", "", "x", "git's own folder"),
        ("/etc/passwd", "", "x", "absolute path"),
        ("money.py", "y = 2", f"y = {MASK!r}", "writes a masked secret"),
        ("new.py", "", "x" * (FILE_BYTES_MAX + 1), "more than 256 KiB"),
    ],
)
def test_what_may_not_be_is_refused(path: str, find: str, replace: str, said: str) -> None:
    with pytest.raises(BadEdit) as refused:
        drafted((path, find, replace))
    assert said in str(refused.value)


def test_line_ends_of_dos_and_bytes_that_are_no_text_stay() -> None:
    draft = Draft("c0").edited(Edit(path="a", find="x\r\n", replace="y\r\n"), "\udc80x\r\n")
    assert draft.texts["a"] == "\udc80y\r\n"
    assert draft.digest != Draft("c0").digest
