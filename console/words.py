"""Words for people: short ids, spans of time, moments, money."""

from __future__ import annotations

from datetime import datetime
from typing import Final

MINUTE: Final = 60
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
MICRO: Final = 1_000_000


def short_id(id_: str) -> str:
    """The last eight characters: the first ones of a time-ordered id are shared by all of the same minute."""
    return id_[-8:]


def short_digest(digest: str) -> str:
    """A digest that a person can compare at a glance."""
    return digest if len(digest) <= 16 else f"{digest[:15]}…"


def span(seconds: float) -> str:
    """How long, in at most two units: `4.2 s`, `3 min`, `2 h 10 min`, `3 d`."""
    if seconds < MINUTE:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    for unit, name, smaller, smaller_name in ((DAY, "d", HOUR, "h"), (HOUR, "h", MINUTE, "min")):
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{whole // unit} {name}" + (f" {rest} {smaller_name}" if rest else "")
    return f"{whole // MINUTE} min"


def moment(time_us: int) -> str:
    """A time of this machine's zone, to the second."""
    return datetime.fromtimestamp(time_us // MICRO).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def dollars(microdollars: int) -> str:
    """Money to the cent, finer only where it would read as nothing."""
    amount = microdollars / MICRO
    return f"${amount:.2f}" if microdollars == 0 or amount >= 0.01 else f"${amount:.4f}"


def count(number: int, noun: str, plural: str = "") -> str:
    """`1 file`, `2 files`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
