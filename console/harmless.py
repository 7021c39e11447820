"""How text of strangers is printed: one harmless line of some length, or JSON in ASCII alone."""

from __future__ import annotations

import json
from typing import Any

from contracts.harmless import harmless, harmless_lines

__all__ = ["clipped", "harmless", "harmless_lines", "to_json"]


def clipped(text: str, characters_max: int) -> str:
    """One harmless line of at most so many characters."""
    line = harmless(" ".join(text.split()))
    return line if len(line) <= characters_max else line[: characters_max - 1] + "…"


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON in ASCII alone: harmless on a terminal, exact for a program."""
    return json.dumps(value, ensure_ascii=True, indent=indent, default=str)
