"""Makes text of strangers harmless to whoever reads it, a person or a model: what could steer or deceive becomes an escape."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from typing import Final

HIDDEN_CATEGORIES: Final = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
BLANK_LETTERS: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
"""Letters and marks by their category, and yet nothing is seen of them."""


def harmless(text: str) -> str:
    """One line: control, bidi, invisible and tag characters become escapes like `\\u202e`."""
    return text if text.isascii() and text.isprintable() else "".join(map(_shown, text))


def harmless_lines(text: str) -> str:
    """The same for text of many lines: line ends and tabs stay."""
    return "\n".join("\t".join(harmless(part) for part in line.split("\t")) for line in text.split("\n"))


def marked(kind: str, text: str, **about: str | int) -> str:
    """Text of people, files and programs as a prompt carries it: bounded by marks that nothing inside can close.

    Both marks hold a digest of what is between them, so a text that held its own end mark would have to hold its own
    digest. The same text is marked the same way on every rerun. Line ends of DOS stay, so that they can be quoted.
    """
    shown = "\r".join(harmless_lines(part) for part in text.split("\r"))
    words = "".join(f" {name}={_attribute(value)}" for name, value in {"kind": kind, **about}.items())
    digest = hashlib.sha256(f"{words}\0{shown}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"<untrusted id={digest}{words}>\n{shown}\n</untrusted id={digest}>"


def _attribute(value: str | int) -> str:
    """A value that stays inside its mark: ASCII, in quotes where it is a text, without angle brackets."""
    return json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e")


def _shown(character: str) -> str:
    code = ord(character)
    selector = 0xFE00 <= code <= 0xFE0E or 0xE0100 <= code <= 0xE01EF
    if unicodedata.category(character) not in HIDDEN_CATEGORIES and character not in BLANK_LETTERS and not selector:
        return character
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
