"""What a call costs: the table of prices with their dates. An unknown price is an alarm and never nothing."""

from __future__ import annotations

import logging
import math
import re
import tomllib
from datetime import UTC, date, datetime
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agents.model.port import Usage
from contracts.errors import Usage as WrongUse

log = logging.getLogger(__name__)

MICROSECONDS: Final = 1_000_000


class Rates(BaseModel):
    """Dollars per million tokens, which is micro-dollars per token. Caches are written for 5 minutes or an hour."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cache_write: float = Field(ge=0)
    cache_write_1h: float = Field(ge=0)
    cache_read: float = Field(ge=0)

    def cost_microdollars(self, usage: Usage) -> int:
        """What these tokens cost, rounded up."""
        exact = (
            usage.tokens_in * self.input
            + usage.cache_write * self.cache_write
            + usage.cache_write_1h * self.cache_write_1h
            + usage.cache_read * self.cache_read
            + usage.tokens_out * self.output
        )
        return math.ceil(round(exact, 6))

    def most_microdollars(self, tokens_in: int, tokens_out: int) -> int:
        """What so many tokens cost at most, however they are cached."""
        dearest = max(self.input, self.cache_write, self.cache_read)
        return math.ceil(round(tokens_in * dearest + tokens_out * self.output, 6))


class LongRates(Rates):
    """The rates of a prompt with more tokens than `above_tokens`, what is cached included."""

    above_tokens: int = Field(ge=0)


class Price(Rates):
    """The rates of a model from a date on."""

    model: str
    since: date
    long: LongRates | None = None

    def rates(self, tokens_in: int) -> Rates:
        """The rates for a prompt of this size."""
        return self.long if self.long is not None and tokens_in > self.long.above_tokens else self


class PriceTable:
    """Prices by model and date. `known` is False in an answer where a model had none and the dearest stood in."""

    def __init__(self, prices: list[Price]) -> None:
        self._prices = prices
        self._alarmed: set[str] = set()

    @classmethod
    def load(cls, own: Path | None = None) -> PriceTable:
        """The table that comes with gavotte; of models that a file of the user's names, that file's rows instead."""
        bundled = resources.files("agents.model").joinpath("prices.toml").read_text("utf-8")
        ours = _read(own.name, _text(own)) if own else []
        named = {price.model for price in ours}
        return cls([*ours, *(price for price in _read("prices.toml", bundled) if price.model not in named)])

    def cost_microdollars(self, model: str, usage: Usage, at_us: int) -> tuple[int, bool]:
        """What a call cost, and whether the price was known."""
        price = self._at(model, at_us)
        rates = (price or self.dearest).rates(usage.tokens_in_all)
        return rates.cost_microdollars(usage), price is not None

    def most_microdollars(self, model: str, tokens_in: int, tokens_out: int, at_us: int) -> int:
        """What a call may cost at most."""
        price = self._at(model, at_us) or self.dearest
        return max(rates.most_microdollars(tokens_in, tokens_out) for rates in (price, price.rates(tokens_in)))

    def rows(self) -> list[Price]:
        """All prices, as they stand in the files."""
        return list(self._prices)

    def knows(self, model: str, at_us: int) -> bool:
        """Whether a model has a price at this time."""
        return self._find(model, at_us) is not None

    @cached_property
    def dearest(self) -> Price:
        """What stands in for a price that nobody knows."""
        return max(self._prices, key=lambda price: (price.output, price.input))

    def _at(self, model: str, at_us: int) -> Price | None:
        found = self._find(model, at_us)
        if found is None and model not in self._alarmed:
            self._alarmed.add(model)
            log.error("no price is known for the model %r: it is charged like %s", model, self.dearest.model)
        return found

    def _find(self, model: str, at_us: int) -> Price | None:
        """Of a model's rows the newest whose date has come."""
        day = datetime.fromtimestamp(at_us / MICROSECONDS, UTC).date()
        plain = re.sub(r"[-@]20\d{6}$", "", model)
        named = [price for price in self._prices if price.model == model]
        named = named or [price for price in self._prices if price.model == plain]
        return max((price for price in named if price.since <= day), key=lambda price: price.since, default=None)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUse(f"the prices {path} cannot be read: {error}", hint="setting model.prices") from None


def _read(name: str, text: str) -> list[Price]:
    try:
        rows: Any = tomllib.loads(text).get("price", [])
        return [Price.model_validate(row) for row in rows]
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise WrongUse(f"{name} is no table of prices: {error}") from None
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(str(part) for part in problem["loc"])
        raise WrongUse(f"{name}: {at}: {problem['msg']}", hint="docs/models.md shows a row") from None
