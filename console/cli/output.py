"""What the command line prints: data on stdout, talk on stderr; tables for people, plain columns into a pipe."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from console.columns import hanging, laid_out
from console.harmless import harmless, to_json

STYLES: Final = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}


def on_terminal() -> bool:
    """Whether a person can be asked: both ways lead to a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def coloured(stream: Any = None) -> bool:
    """Whether a stream wants colours (NO_COLOR and TERM=dumb are respected)."""
    to = sys.stdout if stream is None else stream
    return bool(to.isatty()) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, style: str, stream: Any = None) -> str:
    """The text in a colour where the stream wants one."""
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if style and coloured(stream) else text


def say(text: str = "") -> None:
    """Talk: one line on stderr."""
    print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Talk that matters."""
    say(f"{styled('warning:', 'yellow', sys.stderr)} {harmless(text)}")


def put(text: str = "") -> None:
    """Data: one line on stdout, at once."""
    print(text, flush=True)


def put_json(value: Any) -> None:
    """One JSON document for programs."""
    put(to_json(value, indent=2))


def put_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Rows under headings, in columns divided by two spaces; a terminal's width is kept to, into a pipe nothing is cut off."""
    clean = [[harmless(str(cell)) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        _put_columns(columns, clean)
        return
    head, blocks = laid_out(
        [name.upper() for name in columns],
        _of_today(columns, clean),
        terminal_width(),
        [name.upper() for name in right],
    )
    put(styled(head, "bold"))
    for block in blocks:
        put("\n".join(block))


def _of_today(columns: Sequence[str], rows: list[list[str]]) -> list[list[str]]:
    """Moments of today without their date: it says nothing new to a person who looks now."""
    today = time.strftime("%Y-%m-%d ")
    moments = {place for place, name in enumerate(columns) if name in {"time", "since"}}
    return [[cell.removeprefix(today) if place in moments else cell for place, cell in enumerate(row)] for row in rows]


def _put_columns(columns: Sequence[str], rows: list[list[str]]) -> None:
    lines = [[name.upper() for name in columns], *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    for line in lines:
        put("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def put_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Names and values below each other; empty values are left out."""
    known = [(name, harmless(value)) for name, value in fields if value]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        head = f"{name.ljust(width)}  "
        put_hanging(head, value, styled(head, "dim"))


def put_hanging(head: str, text: str, shown: str = "") -> None:
    """A line of data behind its head (`shown`: with its styles); on a terminal long ones go on below their first word."""
    first, *rest = hanging(head, text, terminal_width()) if sys.stdout.isatty() else [head + text]
    put("\n".join([((shown or head) + first[len(head) :]).rstrip(), *rest]))


def terminal_width() -> int:
    """The width of the terminal, in cells."""
    return shutil.get_terminal_size().columns
