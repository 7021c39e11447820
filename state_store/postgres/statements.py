"""The named statements of `queries.sql` as PostgreSQL takes them: parameters numbered, their order remembered."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from state_store.queries import named
from state_store.transaction import Values

_PLACE: Final = re.compile(r"\?|(?<!:):([a-z]\w*)")


@dataclass(frozen=True, slots=True)
class Statement:
    """`text` has $1, $2 ...; `places` are the names of its parameters in that order, or numbers as text.

    A gathered statement takes an array for each parameter, see `queries.sql`.
    """

    name: str
    text: str
    places: tuple[str, ...]
    gathered: bool

    def arguments(self, values: Values) -> list[Any]:
        """The parameters in the order of their places."""
        if isinstance(values, dict):
            return [values[place] for place in self.places]
        return list(values)


def statement(name: str, mark: str, text: str) -> Statement:
    """A statement from its text with `?` or `:name`."""
    places: list[str] = []

    def number(found: re.Match[str]) -> str:
        place = found[1] or str(len(places))
        if place not in places:
            places.append(place)
        return f"${places.index(place) + 1}"

    return Statement(name, _PLACE.sub(number, text), tuple(places), mark == "gathered")


def _read() -> dict[str, Statement]:
    text = resources.files("state_store.postgres").joinpath("queries.sql").read_text()
    return {name: statement(name, mark, body) for name, mark, body in named(text)}


STATEMENTS: Final = _read()
