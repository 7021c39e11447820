"""Rows and long lines in the width of a terminal: nothing is lost, no short word is broken."""

from __future__ import annotations

import pytest

from console.columns import cells, hanging, laid_out, wrapped

LOG = ("#", "TIME", "EVENT", "TYPE", "WHAT")
ROWS = [
    ("1", "10:14:30", "9ef71461", "TaskSubmitted", "by command: ruff check --fix ."),
    (
        "2",
        "10:15:24",
        "c2c966cd",
        "ApprovalRequested",
        "waits for a person (policy: always; tests/conftest.py: it runs)",
    ),
    ("10", "10:16:00", "8102ec27", "TaskSucceeded", ""),
]


@pytest.mark.parametrize("width", [40, 60, 80, 120, 300])
def test_rows_keep_to_the_width_and_lose_nothing(width: int) -> None:
    head, blocks = laid_out(LOG, ROWS, width, right=("#",))
    assert head.split()[:3] == list(LOG[:3])
    for row, block in zip(ROWS, blocks, strict=True):
        assert all(cells(line) <= width for line in (*head.splitlines(), *block)), (width, block)
        assert sorted(" ".join(block).split()) == sorted(" ".join(row).split())


def test_what_fits_is_one_line_for_a_row() -> None:
    head, blocks = laid_out(("A", "B"), [("1", "two words"), ("22", "x")], 80, right=("A",))
    assert (head, blocks) == (" A  B", [[" 1  two words"], ["22  x"]])


def test_prose_in_the_middle_gives_way_and_prose_at_the_end_goes_below() -> None:
    _, [block] = laid_out(("ID", "TITLE", "WHERE"), [("12345678", "a rather long title of it", "repository")], 40)
    assert block == ["12345678  a rather long       repository", "          title of it"]
    head, [block] = laid_out(("ID", "TYPE", "WHAT"), [("12345678", "ApprovalRequested", "it waits for a person")], 40)
    assert head == "ID        TYPE\n    WHAT"
    assert block == ["12345678  ApprovalRequested", "    it waits for a person"]


def test_wide_letters_count_twice_and_long_words_are_broken_only_in_columns() -> None:
    assert cells("\u4e16\u754c") == 4
    assert wrapped("a" * 30, 10) == ["a" * 30]
    assert wrapped("a" * 25, 10, broken=True) == ["a" * 10, "a" * 10, "a" * 5]
    assert wrapped("", 10) == [""]


def test_a_long_value_hangs_below_its_first_word() -> None:
    assert hanging("outcome  ", "short", 80) == ["outcome  short"]
    assert hanging("outcome  ", "one two three four five six seven", 35) == [
        "outcome  one two three four five",
        "         six seven",
    ]
