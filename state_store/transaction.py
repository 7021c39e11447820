"""A transaction as the rules of the store see it: named statements, rows, and the store's clock.

The rules (who may claim, what a commit does, what is due) are written once, as coroutines over this protocol, and never
await anything else. So a backend may answer each statement at once, or gather what many deliveries ask in the same
moment into one statement for all of them. The statements themselves are each backend's own, under the same names.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

Values = Sequence[Any] | Mapping[str, Any]
"""The parameters of a statement, by place or by name, as the statement has them."""
Row = tuple[Any, ...]


class Clash(Exception):
    """A row was refused: its place is taken, or a rule of its table forbids it. Nothing was written."""


class Transaction(Protocol):
    """Statements of one transaction, in the order in which they are awaited."""

    def now_us(self) -> int:
        """The store's clock."""
        ...

    def one(self, name: str, values: Values = ()) -> Awaitable[Row]:
        """The row of a query that always has one."""
        ...

    def row(self, name: str, values: Values = ()) -> Awaitable[Row | None]:
        """The first row of a query, or None."""
        ...

    def rows(self, name: str, values: Values = ()) -> Awaitable[Sequence[Row]]:
        """All rows of a query."""
        ...

    def run(self, name: str, values: Values = ()) -> Awaitable[int]:
        """Change rows; returns how many."""
        ...

    def each(self, name: str, values: Sequence[Values]) -> Awaitable[None]:
        """Change rows once for each of the values."""
        ...

    def insert(self, name: str, values: Values) -> Awaitable[int]:
        """Write one row; returns the number that the database gave to it. Raises Clash."""
        ...


def at_once(rules: Coroutine[Any, Any, T]) -> T:
    """Run rules whose transaction answers every statement at once."""
    try:
        rules.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    rules.close()
    raise RuntimeError("the rules of the store wait for nothing but their transaction")
