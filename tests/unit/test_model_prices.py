"""What calls cost: dates, caches, long prompts, and models that nobody has a price for."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agents.model.port import Usage
from agents.model.prices import PriceTable
from agents.settings import load_settings
from contracts.errors import Usage as WrongUse

TABLE = PriceTable.load()
MILLION = 1_000_000


def at(year: int, month: int, day: int) -> int:
    return int(datetime(year, month, day, 12, tzinfo=UTC).timestamp()) * MILLION


NOW = at(2026, 11, 21)


def cost(model: str, when: int = NOW, **tokens: int) -> tuple[int, bool]:
    return TABLE.cost_microdollars(model, Usage(**tokens), when)


def test_a_million_tokens_cost_what_the_page_says() -> None:
    assert cost("claude-sonnet-5-5", tokens_in=MILLION) == (2 * MILLION, True)
    assert cost("claude-sonnet-5-5", tokens_out=MILLION) == (10 * MILLION, True)
    assert cost("claude-sonnet-5-5", cache_write=MILLION) == (2_500_000, True)
    assert cost("claude-sonnet-5-5", cache_write_1h=MILLION) == (4 * MILLION, True)


def test_the_date_decides() -> None:
    assert cost("claude-sonnet-5-5", at(2026, 10, 6), cache_read=MILLION) == (200_000, True)
    assert cost("claude-sonnet-5-5", at(2026, 10, 8), cache_read=MILLION) == (100_000, True)
    assert not TABLE.knows("claude-sonnet-5-5", at(2026, 1, 1)), "it did not exist yet"


def test_a_long_prompt_costs_more_throughout() -> None:
    assert cost("claude-haiku-5-5", tokens_in=100_000, tokens_out=1000) == (10_500, True)
    assert cost("claude-haiku-5-5", tokens_in=1, cache_read=100_000, tokens_out=1000) == (7501, True)


def test_the_least_is_rounded_up_and_nothing_is_nothing() -> None:
    assert cost("claude-haiku-5-5", tokens_in=1) == (1, True)
    assert cost("claude-haiku-5-5") == (0, True)


def test_a_dated_version_has_the_price_of_its_name() -> None:
    assert cost("claude-haiku-4-5-20251001", tokens_in=1000) == (1000, True)
    assert not TABLE.knows("claude-haiku-4-5-turbo", NOW)


def test_an_unknown_price_is_an_alarm_and_not_nothing(caplog: pytest.LogCaptureFixture) -> None:
    table = PriceTable.load()
    with caplog.at_level(logging.ERROR):
        found = [table.cost_microdollars("mystery-1", Usage(tokens_out=1000), NOW) for _ in range(3)]
    assert found == [(50_000, False)] * 3
    assert caplog.messages == ["no price is known for the model 'mystery-1': it is charged like claude-fable-5-1"]


def test_the_worst_case_is_never_less_than_the_bill() -> None:
    for model in ("claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5", "mystery-2"):
        for total in (1000, 99_999, 100_001):
            most = TABLE.most_microdollars(model, total, 500, NOW)
            for usage in (
                Usage(tokens_in=total, tokens_out=500),
                Usage(cache_write=total, tokens_out=500),
                Usage(cache_read=total, tokens_out=500),
            ):
                assert TABLE.cost_microdollars(model, usage, NOW)[0] <= most


def test_every_model_of_the_defaults_has_a_price(tmp_path: Path) -> None:
    chosen = load_settings(data=tmp_path, environ={}).model
    names = [chosen.name_for(purpose) for purpose in ("triage", "planning", "coding", "review")]
    assert all(TABLE.knows(name, NOW) for name in [*names, *chosen.fallback])


ROW = """[[price]]
model = "{model}"
since = 2026-01-01
input = 7
output = 8
cache_write = 9
cache_write_1h = 10
cache_read = 1
"""


def test_a_file_of_ones_own_stands_in_front(tmp_path: Path) -> None:
    own = tmp_path / "prices.toml"
    own.write_text(ROW.format(model="llama") + ROW.format(model="claude-sonnet-5-5"))
    table = PriceTable.load(own)
    for model in ("llama", "claude-sonnet-5-5"):
        assert table.cost_microdollars(model, Usage(tokens_in=10), NOW) == (70, True)
    assert table.knows("claude-opus-5-5", NOW)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[price]]\nmodel = 'x'\n", "Field required"),
        (ROW.format(model="x") + "tip = 1\n", "tip: Extra inputs"),
        (ROW.format(model="x").replace("7", "-7"), "input: Input should be greater"),
        ("[[price", "is no table of prices"),
        ("price = 3", "is no table of prices"),
    ],
)
def test_a_file_that_is_off_is_named(tmp_path: Path, text: str, said: str) -> None:
    own = tmp_path / "mine.toml"
    own.write_text(text)
    with pytest.raises(WrongUse) as refused:
        PriceTable.load(own)
    assert "mine.toml" in refused.value.message
    assert said in refused.value.message


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="cannot be read"):
        PriceTable.load(tmp_path / "absent.toml")
