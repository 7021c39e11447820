"""Makes text of strangers harmless before it reaches a terminal: what could steer or deceive is shown as an escape."""

from __future__ import annotations

import json
import unicodedata
from typing import Any, Final

HIDDEN_CATEGORIES: Final = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
BLANK_LETTERS: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
"""Letters and marks by their category, and yet nothing is seen of them."""


def harmless(text: str) -> str:
    """One line: control, bidi, invisible and tag characters become escapes like `\\u202e`."""
    return text if text.isascii() and text.isprintable() else "".join(map(_shown, text))


def harmless_lines(text: str) -> str:
    """The same for text of many lines: line ends and tabs stay."""
    return "\n".join("\t".join(harmless(part) for part in line.split("\t")) for line in text.split("\n"))


def clipped(text: str, characters_max: int) -> str:
    """One harmless line of at most so many characters."""
    line = harmless(" ".join(text.split()))
    return line if len(line) <= characters_max else line[: characters_max - 1] + "…"


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON in ASCII alone: harmless on a terminal, exact for a program."""
    return json.dumps(value, ensure_ascii=True, indent=indent, default=str)


def _shown(character: str) -> str:
    code = ord(character)
    selector = 0xFE00 <= code <= 0xFE0E or 0xE0100 <= code <= 0xE01EF
    if unicodedata.category(character) not in HIDDEN_CATEGORIES and character not in BLANK_LETTERS and not selector:
        return character
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
