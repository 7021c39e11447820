"""Calls of one turn are answered together, each with its own result or error."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from contracts.errors import Unavailable
from embedded.gathering import Gathering


class Answers:
    """Squares numbers, together; refuses odd ones."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    async def __call__(self, calls: Sequence[int]) -> Sequence[int | BaseException]:
        self.asked.append(list(calls))
        await asyncio.sleep(0)
        if 13 in calls:
            raise Unavailable("not today")
        return [call * call if call % 2 == 0 else ValueError(call) for call in calls]


async def test_one_turn_is_one_batch_in_order() -> None:
    answers = Answers()
    gathering = Gathering(answers)

    async def ask(number: int) -> int:
        first = await gathering(number)
        return await gathering(first)

    assert await asyncio.gather(*map(ask, (2, 4, 6))) == [16, 256, 1296]
    assert answers.asked == [[2, 4, 6], [4, 16, 36]]


async def test_an_error_is_its_callers_alone() -> None:
    gathering = Gathering(Answers())
    results = await asyncio.gather(*(gathering(number) for number in (2, 3, 4)), return_exceptions=True)
    assert results[::2] == [4, 16]
    assert isinstance(results[1], ValueError)


async def test_what_answering_raises_is_everybodys() -> None:
    gathering = Gathering(Answers())
    results = await asyncio.gather(*(gathering(number) for number in (2, 13)), return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)


async def test_who_went_away_is_not_asked_for() -> None:
    answers = Answers()
    gathering = Gathering(answers)
    gone, stays = gathering(2), gathering(4)
    gone.cancel()
    assert await stays == 16
    assert answers.asked == [[4]]
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_who_can_answer_at_once_does() -> None:
    asked: list[list[int]] = []

    def answer(calls: Sequence[int]) -> Sequence[int | BaseException]:
        asked.append(list(calls))
        if 13 in calls:
            raise Unavailable("not today")
        return [call * call if call % 2 == 0 else ValueError(call) for call in calls]

    gathering = Gathering(answer)
    assert await asyncio.gather(*(gathering(number) for number in (2, 4))) == [4, 16]
    with pytest.raises(ValueError, match="3"):
        await gathering(3)
    with pytest.raises(Unavailable):
        await gathering(13)
    assert asked == [[2, 4], [3], [13]]
