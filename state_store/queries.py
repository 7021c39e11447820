"""The named statements of `queries.sql`, each loaded once."""

from __future__ import annotations

import re
from importlib import resources
from typing import Final

_HEADING: Final = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def _read(name: str) -> str:
    return resources.files("state_store").joinpath(name).read_text()


def _named(text: str) -> dict[str, str]:
    """name -> statement; comments are dropped, so that what is sent is what is run."""
    parts = _HEADING.split(text)[1:]
    return {name: _without_comments(body) for name, body in zip(parts[::2], parts[1::2], strict=True)}


def _without_comments(body: str) -> str:
    lines = (line for line in body.splitlines() if not line.lstrip().startswith("--"))
    return "\n".join(lines).strip().rstrip(";")


SCHEMA: Final = _read("schema.sql")
"""Creates the store's tables; idempotent."""

SQL: Final = _named(_read("queries.sql"))
