"""The page on scale says what its model makes of the measured points, and the model is not far from those it never saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import scale
from bench.scale_page import page

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(scale.RESULT.read_text())
    return found


def test_the_page_is_that_of_the_result(result: dict[str, Any]) -> None:
    assert (ROOT / "docs" / "scale.md").read_text() == page(result), "python bench/scale.py"


def test_points_that_the_model_was_not_fitted_to_are_near(result: dict[str, Any]) -> None:
    first, *between, last = measured = scale.points(result)
    assert len(between) >= 2
    costs = scale.fitted(measured, int(result["machine"]["cpus"]))
    for point in (first, last):
        assert scale.tasks_per_second(costs, point.window) == pytest.approx(point.rate, rel=0.05)
    for point in between:
        assert scale.tasks_per_second(costs, point.window) == pytest.approx(point.rate, rel=0.3)


def test_one_task_alone_takes_the_sum_of_its_stations() -> None:
    costs = scale.Costs(group=0.004, each=0.001, wait=0.005, cores=2)
    assert scale.tasks_per_second(costs, 1) == pytest.approx(20)


def test_many_tasks_are_as_fast_as_the_cores() -> None:
    costs = scale.Costs(group=0.0, each=0.001, wait=0.0, cores=2)
    assert scale.tasks_per_second(costs, 1000) == pytest.approx(2 / 0.005, rel=0.1)
    narrow = scale.Costs(group=0.0, each=0.001, wait=0.0, cores=1)
    assert scale.tasks_per_second(narrow, 1000) == pytest.approx(1 / 0.005, rel=0.1)


def test_more_tasks_need_more_of_everything(result: dict[str, Any]) -> None:
    full = scale.points(result)[-1]
    small, large = (scale.sizing(daily, full, 30_000, 20, 50) for daily in (10**5, 10**7))
    for name in ("agents_per_role", "connections", "postgres_cores", "lease_cores", "dollars_per_month"):
        assert 20 < getattr(large, name) / getattr(small, name) <= 105
