"""The tables of the embedded bus and its named statements, each read once from the files beside this one."""

from __future__ import annotations

import re
from importlib import resources
from typing import Final


def _text(name: str) -> str:
    return resources.files("bus").joinpath(name).read_text("utf-8")


def _named(text: str) -> dict[str, str]:
    """Statement by name; comments are dropped."""
    parts = re.split(r"^-- name: (\w+)$", text, flags=re.MULTILINE)[1:]
    return {
        name: re.sub(r"^--.*$", "", body, flags=re.MULTILINE).strip().rstrip(";")
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


SCHEMA: Final = _text("schema.sql")
SQL: Final = _named(_text("queries.sql"))
