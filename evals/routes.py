"""Which door a case enters by: by its class and by where it says that it enters; what is unknown takes the nearest."""

from __future__ import annotations

import os
import re
from typing import Any, Final

from evals import doors, moments, tampering
from evals.corpus import Case
from evals.doors import Door, Seen
from evals.stage import Props, Stage

BY_KIND: Final[dict[str, Door]] = {
    "prompt-injection": doors.task,
    "task": doors.task,
    "secrets": doors.task,
    "tool-args": doors.tool,
    "patch": doors.patch,
    "ssrf-and-model": doors.reply,
    "sandbox": doors.python,
    "git-config": doors.git_tricks,
    "bus": doors.record,
    "log-injection": doors.words,
    "text": doors.words,
    "console": moments.shown,
    "dlq": moments.letter,
    "audit-log": tampering.tampered,
    "budget-and-kill": moments.bounded,
    "policy": moments.claims,
    "archive": moments.archive,
}
"""By the class of a case up to the slash; of a benign one, by what stands behind it."""

BY_ENTRANCE: Final[tuple[tuple[str, str, Door], ...]] = (
    ("bus", r"well-formed|wrong hand|forged", moments.forged),
    (
        "console",
        r"^(GET|POST|PUT|DELETE|HEAD|OPTIONS)\b|any page|^login|^/|cookie|session|header|websocket",
        moments.requested,
    ),
    ("secrets", r"command line|argv|config|mode 0|settings", moments.typed),
    ("secrets", r"dead|letter|dlq", moments.letter),
)
"""Entrances that have a door other than that of their class."""

BY_WORDS: Final[tuple[tuple[str, Door], ...]] = (
    (r"tool call|tool-call", doors.tool),
    (r"diff|patch", doors.patch),
    (r"test code|test run|sandbox", doors.python),
    (r"\.git|hook|clone", doors.git_tricks),
    (r"topic|record", doors.record),
    (r"archive|zip|tar", moments.archive),
    (r"log|text field|terminal", doors.words),
    (r"reply|model client|provider", doors.reply),
)
"""Of a class that nobody knows."""


def door_of(case: Case) -> Door:
    """The door of a case."""
    for kind, entrance, door in BY_ENTRANCE:
        if case.door == kind and re.search(entrance, case.enters, re.IGNORECASE):
            return door
    if case.kind == "ssrf-and-model" and isinstance(case.payload, dict) and "model_reply" not in case.payload:
        return moments.redirected
    if known := BY_KIND.get(case.door):
        return known
    said = f"{case.class_} {case.enters} {case.encoding}"
    return next((door for words, door in BY_WORDS if re.search(words, said, re.IGNORECASE)), doors.task)


async def play(stage: Stage, case: Case, payload: Any, props: Props) -> Seen:
    """The case by its door."""
    return await door_of(case)(stage, case, payload, props)


def cases_at_once() -> int:
    """How many cases are played side by side."""
    return max(2, os.cpu_count() or 1)
