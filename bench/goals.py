"""What is compared with what, and how near it came: the goals of the bench, and their rows from the rounds of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.machine import median

Figures = dict[str, float]
"""What one measurement of one system found: name -> value, the unit last in the name."""
Rounds = dict[str, list[Figures]]
"""system -> its measurements, in the order of the rounds."""


@dataclass(frozen=True)
class Size:
    """How much is measured: tasks in a burst of ours, single tasks on an idle system; peers do a fraction."""

    tasks: int
    idle_tasks: int


FULL, QUICK, SMALLEST = Size(4000, 200), Size(1000, 50), Size(40, 5)


@dataclass(frozen=True)
class Goal:
    """A row: our figure, `(system, name)`, over a peer's. `most` where less is better; no peer where it stands alone."""

    row: str
    what: str
    ours: tuple[str, str]
    theirs: tuple[str, str] | None
    floor: float
    aim: float
    most: bool = False


def middle(rounds: Rounds, system: str, figure: str) -> float | None:
    """The median of a figure over the rounds; None where it was not measured."""
    found = [figures[figure] for figures in rounds.get(system, []) if figure in figures]
    return median(found) if found else None


def rows(rounds: Rounds, goals: tuple[Goal, ...]) -> list[dict[str, Any]]:
    """The goals that both sides were measured for: the medians, the ratio round by round (median, range), the verdict."""
    made = []
    for goal in goals:
        ours = middle(rounds, *goal.ours)
        theirs = middle(rounds, *goal.theirs) if goal.theirs else 1.0
        if ours is None or not theirs:
            continue
        each = _ratios(rounds, goal)
        ratio = median(each)
        holds, reached = (limit >= ratio if goal.most else limit <= ratio for limit in (goal.floor, goal.aim))
        made.append(
            {
                "row": goal.row,
                "what": goal.what,
                "system": goal.ours[0],
                "against": goal.theirs[0] if goal.theirs else "",
                "ours": ours,
                "theirs": theirs if goal.theirs else None,
                "ratio": ratio,
                "lowest": min(each),
                "highest": max(each),
                "floor": goal.floor,
                "aim": goal.aim,
                "most": goal.most,
                "verdict": "aim" if reached else "floor" if holds else "below",
            }
        )
    return made


def _ratios(rounds: Rounds, goal: Goal) -> list[float]:
    system, figure = goal.ours
    if goal.theirs is None:
        return [one[figure] for one in rounds[system] if figure in one]
    other, name = goal.theirs
    pairs = zip(rounds[system], rounds[other], strict=False)
    return [one[figure] / against[name] for one, against in pairs if figure in one and against.get(name)]
