"""Fits rows and long lines into the width of a terminal, broken between words. Pure functions, widths in cells."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from typing import Final

GAP: Final = 2
WORD_WIDTH_MAX: Final = 32
"""Longer words may be broken, so that one path does not push the other columns out."""
PROSE_WIDTH_MIN: Final = 24
"""A last column that would be narrower stands below its row instead."""
INDENT: Final = 4

Block = list[str]
"""The lines of one row."""


def cells(text: str) -> int:
    """How many cells of a terminal a text takes."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


def wrapped(text: str, width: int, *, broken: bool = False) -> list[str]:
    """The text in lines of at most `width`; a longer word stands alone, or is `broken`. At least one line."""
    lines = [""]
    for word in text.split():
        parts = _pieces(word, width) if broken else [word]
        for part in parts:
            if lines[-1] and cells(lines[-1]) + 1 + cells(part) > width:
                lines.append(part)
            else:
                lines[-1] = f"{lines[-1]} {part}".strip()
    return lines


def hanging(head: str, text: str, width: int) -> Block:
    """A text behind its head, later lines below its first word. `head` counts as it is shown: without styles."""
    room = max(width - cells(head), PROSE_WIDTH_MIN)
    if cells(head) + cells(text) <= width:
        return [head + text]
    first, *rest = wrapped(text, room)
    return [head + first, *(" " * cells(head) + line for line in rest)]


def laid_out(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int, right: Collection[str] = ()
) -> tuple[str, list[Block]]:
    """The headings, and each row as its lines, none wider than `width` where that can be."""
    natural = [max(cells(line[place]) for line in (columns, *rows)) for place in range(len(columns))]
    widths = _shrunk(columns, rows, natural, width)
    last = len(columns) - 1
    if last > 0 and (_total(widths) > width or widths[last] < min(natural[last], PROSE_WIDTH_MIN)):
        head, blocks = laid_out(columns[:-1], [row[:-1] for row in rows], width, right)
        for block, row in zip(blocks, rows, strict=True):
            block += [" " * INDENT + line for line in wrapped(row[last], width - INDENT) if line]
        return f"{head}\n{' ' * INDENT}{columns[last]}", blocks
    return _joined(columns, columns, widths, right)[0], [_joined(row, columns, widths, right) for row in rows]


def _shrunk(columns: Sequence[str], rows: Sequence[Sequence[str]], natural: list[int], width: int) -> list[int]:
    """The widest columns give way first, none below its longest word."""
    widths = list(natural)
    least = [
        max(
            cells(columns[place]), *(min(cells(word), WORD_WIDTH_MAX) for row in rows for word in row[place].split()), 1
        )
        for place in range(len(columns))
    ]
    while _total(widths) > width:
        giving = [place for place in range(len(columns)) if widths[place] > least[place]]
        if not giving:
            break
        widths[max(giving, key=lambda place: widths[place])] -= 1
    return widths


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _joined(row: Sequence[str], columns: Sequence[str], widths: Sequence[int], right: Collection[str]) -> Block:
    parts = [
        [cell] if cells(cell) <= width else wrapped(cell, width, broken=True)
        for cell, width in zip(row, widths, strict=True)
    ]
    lines = []
    for number in range(max(map(len, parts))):
        shown = [part[number] if number < len(part) else "" for part in parts]
        padded = [
            " " * (width - cells(cell)) + cell if name in right else cell + " " * (width - cells(cell))
            for name, cell, width in zip(columns, shown, widths, strict=True)
        ]
        lines.append((" " * GAP).join(padded).rstrip())
    return lines


def _pieces(word: str, width: int) -> list[str]:
    pieces = [""]
    for character in word:
        if pieces[-1] and cells(pieces[-1]) + cells(character) > width:
            pieces.append("")
        pieces[-1] += character
    return pieces
