"""The stuck detector as a table: which turns bring evidence, and after which the work is stuck."""

from __future__ import annotations

from typing import Any

import pytest

from agents.model.progress import Progress, Turn

BASE = "tree-0"


def reads(path: str, *lines: str) -> Turn:
    turn = Turn()
    turn.shows(path, lines)
    return turn


def edits(*trees: str) -> Turn:
    return Turn(trees=list(trees))


def runs(*failed: str) -> Turn:
    return Turn(results=[failed])


NOTHING = Turn()
FAILS = Turn(failed=1)

TABLE: list[tuple[str, list[tuple[Turn, bool]], bool]] = [
    ("garbage", [(NOTHING, False)] * 3, True),
    ("calls that fail", [(FAILS, False)] * 3, True),
    ("one word of sense in between", [(NOTHING, False), (edits("a"), True), (NOTHING, False), (NOTHING, False)], False),
    ("the same file again and again", [(reads("a", "x = 1"), True), *[(reads("a", "x = 1"), False)] * 3], True),
    ("other lines of the same file", [(reads("a", "x"), True), (reads("a", "y"), True), (reads("a", "x", "y"), False)], False),
    ("the same words in another file", [(reads("a", "x"), True), (reads("b", "x"), True)], False),
    ("empty lines and finds of nothing", [(reads("a", "", "  "), False), (reads("a"), False)], False),
    ("the same edit again", [(edits("a"), True), (edits("a"), False), (edits("a"), False)], False),
    ("to and fro between two trees", [(edits("a"), True), (edits("b"), True), *[(edits("a"), False), (edits("b"), False)] * 2], True),
    ("back to the base", [(edits(BASE), False)] * 3, True),
    ("a new tree on the way back", [(edits("a"), True), (edits(BASE, "b"), True)], False),
    ("the base's own result", [(runs("t1"), False)], False),
    ("a new failing set, then green", [(runs("t2"), True), (runs(), True), (runs(), False)], False),
    ("red again after green", [(runs(), True), (runs("t1"), False), (runs(), False), (runs("t1"), False)], True),
    (
        "ever new edits that change no result",
        [(edits("a"), True), *[(runs("t1"), False), (edits("b"), True), (runs("t1"), False), (edits("c"), True)],
         (runs("t1"), False), (edits("d"), False), (edits("e"), False)],
        True,
    ),
    (
        "a new result gives edits their worth back",
        [(runs("t1"), False), (runs("t1"), False), (runs("t2"), True), (edits("d"), True)],
        False,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("turns", "stuck"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_evidence_counts_and_motion_does_not(turns: list[tuple[Turn, bool]], stuck: bool) -> None:
    progress = Progress(3, tree=BASE, result=("t1",))
    assert [progress.take(turn) for turn, _ in turns] == [evidence for _, evidence in turns]
    assert progress.stuck is stuck


def test_what_was_shown_before_is_no_evidence() -> None:
    progress = Progress(3, tree=BASE)
    progress.knows("a.py", ["import os", "x = 1"])
    assert not progress.take(reads("a.py", "x = 1"))
    assert progress.take(reads("a.py", "y = 2"))


def test_the_reason_says_what_the_turns_went_on() -> None:
    progress = Progress(3, tree=BASE)
    for turn in (NOTHING, FAILS, NOTHING):
        progress.take(turn)
    assert (
        progress.reason == "3 turns brought nothing new: 2 x an answer that could not be used, 1 x a call that failed"
    )
    progress.take(edits("a"))
    assert progress.idle == 0


def test_a_run_of_turns_is_judged_alike_on_every_rerun() -> None:
    turns = [reads("a", "x"), edits("a"), runs("t2"), NOTHING, edits(BASE)]
    judged: list[Any] = []
    for _ in range(2):
        progress = Progress(2, tree=BASE)
        judged.append([(progress.take(turn), progress.idle) for turn in turns])
    assert judged[0] == judged[1]
