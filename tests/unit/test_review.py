"""The reader of a change, calibrated: what does not quote the diff does not count, and findings decide, not verdicts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from agents.review import Reading, read
from agents.tools.quotes import FINDINGS_MAX, ReaderFinding, calibrated, lines_of
from agents.tools.review_tools import ReviewDraft, ReviewTools
from agents.tools.toolbox import MindLimits
from contracts.events import Body
from contracts.prompts import Prompt

DIFF = """diff --git a/money.py b/money.py
index 1111111..2222222 100644
--- a/money.py
+++ b/money.py
@@ -3,4 +3,5 @@ import decimal
 def split(cents: int, people: int) -> list[int]:
-    return [cents // people] * people
+    share, rest = divmod(cents, people)
+    return [share + 1] * rest + [share] * (people - rest)
 # the end
diff --git a/docs/new page.md b/docs/new page.md
new file mode 100644
--- /dev/null
+++ b/docs/new page.md
@@ -0,0 +1,3 @@
+-- a rule
+Shares\tadd up.\u202e
+share, rest = divmod(cents, people)
diff --git a/old.py b/old.py
deleted file mode 100644
--- a/old.py
+++ /dev/null
@@ -7 +0,0 @@
-import telnetlib
"""


def finding(
    severity: str = "major", evidence: str = "share, rest = divmod(cents, people)", **fields: Any
) -> ReaderFinding:
    return ReaderFinding.model_validate({"severity": severity, "message": "m", "evidence": evidence, **fields})


@pytest.mark.parametrize(
    ("quote", "file", "line"),
    [
        ("    share, rest = divmod(cents, people)", "money.py", 4),
        ("+    share, rest = divmod(cents, people)", "money.py", 4),
        ("divmod(cents,  people)", None, None),
        ("divmod( cents", None, None),
        ("rest = divmod(cents, people)", "money.py", 4),
        ("def split(cents: int, people: int) -> list[int]:", "money.py", 3),
        ("-    return [cents // people] * people", "money.py", 4),
        ("def split(cents: int, people: int) -> list[int]:\n    share, rest = divmod(cents, people)", "money.py", 3),
        ("def split(cents: int, people: int) -> list[int]:\n    return [cents // people] * people\n # the end", "money.py", 3),
        ("```\n@@ -3,4 +3,5 @@\n+    share, rest = divmod(cents, people)\n```", "money.py", 4),
        ("share, rest = divmod(cents, people)\n# the end", None, None),
        ("-- a rule", "docs/new page.md", 1),
        ("# the end\n-- a rule", None, None),
        ("Shares add up.\\u202e", "docs/new page.md", 2),
        ("import telnetlib", "old.py", 7),
        ("+++ b/money.py", None, None),
        ("@@ -3,4 +3,5 @@", None, None),
        ("", None, None),
        (" \n ", None, None),
        ("):", None, None),
        ("os.system('rm -rf /')", None, None),
    ],
)  # fmt: skip
def test_a_quote_is_looked_up_and_placed(quote: str, file: str | None, line: int | None) -> None:
    if quote == "divmod(cents,  people)":  # blanks do not matter
        file, line = "money.py", 4
    held = calibrated([finding(evidence=quote, file="wrong.py", line=99)], DIFF)
    assert [(one.file, one.line) for one in held.findings] == ([(file, line)] if file else [])
    assert len(held.dropped) == (file is None)


def test_the_file_that_is_named_comes_first_where_the_quote_stands_there() -> None:
    held = calibrated([finding(file="docs/new page.md"), finding(file="money.py")], DIFF)
    assert [(one.file, one.line) for one in held.findings] == [("docs/new page.md", 3), ("money.py", 4)]


def test_the_lines_of_a_diff_have_their_numbers() -> None:
    assert [(line.file, line.mark, line.number) for line in lines_of(DIFF)][:5] == [
        ("money.py", " ", 3),
        ("money.py", "-", 4),
        ("money.py", "+", 4),
        ("money.py", "+", 5),
        ("money.py", " ", 6),
    ]


def test_findings_are_sorted_bounded_and_counted() -> None:
    held = calibrated([*[finding("info")] * FINDINGS_MAX, finding("minor"), finding(evidence="no such line")], DIFF)
    assert (held.findings[0].severity, len(held.findings)) == ("minor", FINDINGS_MAX)
    assert held.dropped == ("m: the quote is not in the diff", "m: there are more than 20")
    assert held.count() == "findings dropped: 1 as the quote is not in the diff, 1 as there are more than 20"
    mixed = calibrated([finding("info"), finding("blocker"), finding("minor"), finding("major")], DIFF)
    assert [one.severity for one in mixed.findings] == ["blocker", "major", "minor", "info"]
    assert [one.severity for one in mixed.weighty] == ["blocker", "major"]
    long = calibrated([finding(message="x" * 9000)], DIFF).findings[0]
    assert len(long.message) == 1000


def reading(verdict: str, *findings: ReaderFinding) -> Reading:
    draft = ReviewDraft.model_validate({"verdict": verdict, "summary": "s", "findings": findings})
    return Reading(draft, calibrated(draft.findings, DIFF))


def test_a_change_that_was_read_in_part_says_so() -> None:
    draft = reading("pass").draft
    assert "a part of it was read" in Reading(draft, calibrated([], DIFF), whole=False).gate.summary
    assert "a part" not in Reading(draft, calibrated([], DIFF)).gate.summary


async def test_a_reader_is_shown_the_whole_diff_where_there_is_room() -> None:
    state = SimpleNamespace(title="mend it", corrections={"description": ""})
    for limit, whole in ((8000, False), (64_000, True)):
        resources: Any = SimpleNamespace(minds=MindLimits(context_tokens=limit))
        tools = ReviewTools(cast("Any", SimpleNamespace(state=state)), resources)
        assert await tools.shows_whole(Prompt("review.v2", "You review."), DIFF)
        assert await tools.shows_whole(Prompt("review.v2", "You review."), DIFF + "+x = 'ä'\n" * 4000) is whole


INVENTED = finding("blocker", "eval(input())")


@pytest.mark.parametrize(
    ("verdict", "findings", "passes"),
    [
        ("pass", [], True),
        ("pass", [finding("minor")], True),
        ("pass", [finding("major")], True),
        ("pass", [finding("blocker")], False),
        ("pass", [INVENTED], True),
        ("changes", [finding("blocker")], False),
        ("changes", [finding("major")], False),
        ("changes", [finding("minor")], True),
        ("changes", [INVENTED], True),
        ("changes", [INVENTED, finding("major")], False),
        ("changes", [], True),
    ],
)
def test_findings_decide_and_not_the_verdict(verdict: str, findings: list[ReaderFinding], passes: bool) -> None:
    gate = reading(verdict, *findings).gate
    assert gate.passed is passes
    assert ("dropped" in gate.summary) is (INVENTED in findings)
    assert ("taken as notes" in gate.summary) is (verdict == "changes" and passes)
    assert len(gate.findings) == len([one for one in findings if one is not INVENTED])


class Reader:
    """Tools of review whose model gives these drafts in a row."""

    def __init__(self, *drafts: ReviewDraft) -> None:
        self.drafts = list(drafts)
        self.told: list[tuple[str, ...]] = []

    async def text(self, body: Body) -> str:
        return str(body.text)

    async def shows_whole(self, prompt: Prompt, diff: str) -> bool:
        return True

    async def read_change(self, prompt: Prompt, diff: str, tests: str, dropped: tuple[str, ...] = ()) -> ReviewDraft:
        self.told.append(tuple(dropped))
        return self.drafts.pop(0)


async def read_by(*drafts: ReviewDraft) -> tuple[Reading, list[tuple[str, ...]]]:
    tools: Any = Reader(*drafts)
    change: Any = SimpleNamespace(diff=Body.of(DIFF))
    tests: Any = SimpleNamespace(gate=SimpleNamespace(summary="9 passed"))
    found = await read(change, tools, Prompt("review.v2", "You review."), tests)
    assert not tools.drafts
    return found, tools.told


async def test_who_asks_for_changes_without_a_quote_is_asked_once_more() -> None:
    unfounded = reading("changes", INVENTED).draft
    better, told = await read_by(unfounded, reading("changes", finding("blocker")).draft)
    assert not better.gate.passed
    assert told == [(), ("m: the quote is not in the diff",)]
    stubborn, told = await read_by(unfounded, unfounded)
    assert stubborn.gate.passed
    assert len(told) == 2
    assert "findings dropped: 1 as the quote is not in the diff" in stubborn.gate.summary


async def test_who_passes_or_has_small_findings_alone_is_not_asked_again() -> None:
    for draft in (reading("pass", INVENTED).draft, reading("changes", finding("minor")).draft):
        found, told = await read_by(draft)
        assert found.gate.passed
        assert told == [()]
