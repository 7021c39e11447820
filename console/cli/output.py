"""What the command line prints: data on stdout, talk on stderr; tables for people, plain columns into a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

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
    """Rows under headings; into a pipe they are columns divided by two spaces, nothing cut off."""
    clean = [[harmless(str(cell)) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        _put_columns(columns, clean)
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in clean:
        table.add_row(*(Text(cell) for cell in row))
    Console(no_color=not coloured(), highlight=False).print(table)


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
        put(f"{styled(name.ljust(width), 'dim')}  {value}")
