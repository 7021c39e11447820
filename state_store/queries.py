"""The named statements of `queries.sql`, each loaded once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from typing import Final

_HEADING: Final = re.compile(r"^-- name: (\w+)(?: \((\w+)\))?$", re.MULTILINE)


def _read(name: str) -> str:
    return resources.files("state_store").joinpath(name).read_text()


def named(text: str) -> Iterator[tuple[str, str, str]]:
    """(name, mark, statement) of each; comments are dropped, so that what is sent is what is run."""
    parts = _HEADING.split(text)[1:]
    for name, mark, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        yield name, mark or "", _without_comments(body)


def _without_comments(body: str) -> str:
    lines = (line for line in body.splitlines() if not line.lstrip().startswith("--"))
    return "\n".join(lines).strip().rstrip(";")


SCHEMA: Final = _read("schema.sql")
"""Creates the store's tables; idempotent."""

SQL: Final = {name: statement for name, _, statement in named(_read("queries.sql"))}

ORDINARY: Final = {name: statement for name, _, statement in named(_read("ordinary.sql"))}
