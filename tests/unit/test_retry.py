"""What each class of error means for a delivery."""

from __future__ import annotations

import asyncio

import pytest

from bus.retry import BACKOFF_SECONDS, TABLE, DeadLetter, LetGo, Park, RetryIn, Stop, Verdict, decide
from contracts import errors

EXHAUSTED = errors.Exhausted("spent", axis="tokens", limit=1, spent=2)


@pytest.mark.parametrize(
    ("error", "verdicts"),
    [
        (errors.Retryable("later"), [RetryIn, RetryIn, RetryIn, DeadLetter]),
        (errors.Unavailable("bus is down"), [RetryIn] * 9),
        (errors.OutcomeUnknown("no answer"), [RetryIn] * 9),
        (errors.Skew("of a newer build"), [RetryIn, RetryIn, RetryIn, Park]),
        (errors.Rejected("wrong"), [DeadLetter]),
        (errors.Undecodable("no Avro"), [DeadLetter]),
        (errors.NotAllowed("not its word"), [DeadLetter]),
        (errors.TooLarge("2 GB"), [DeadLetter]),
        (errors.Refused("policy"), [Park]),
        (errors.Unverified("no signature"), [DeadLetter]),
        (EXHAUSTED, [Park]),
        (errors.Killed("kill 3"), [Park]),
        (errors.NeedsPerson("which one?"), [Park]),
        (errors.Corrupt("hash differs"), [Park]),
        (errors.Fenced("lease lost"), [LetGo]),
        (errors.Usage("no such word"), [DeadLetter]),
        (errors.Busy("two of us"), [RetryIn, RetryIn, RetryIn, DeadLetter]),
        (errors.NotFound("no task"), [RetryIn, RetryIn, RetryIn, DeadLetter]),
        (errors.Conflict("moved on"), [RetryIn, RetryIn, RetryIn, DeadLetter]),
        (ZeroDivisionError("1/0"), [RetryIn, RetryIn, RetryIn, DeadLetter]),
        (TimeoutError(), [RetryIn, RetryIn, RetryIn, DeadLetter]),
        (asyncio.CancelledError(), [Stop]),
        (KeyboardInterrupt(), [Stop]),
        (SystemExit(1), [Stop]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_the_class_of_an_error_decides(error: BaseException, verdicts: list[type[Verdict]]) -> None:
    assert [type(decide(error, attempt)) for attempt in range(len(verdicts))] == verdicts


def test_the_pauses_grow_and_the_last_one_is_repeated_while_a_dependency_is_down() -> None:
    pauses = [decide(errors.Unavailable("down"), attempt) for attempt in range(5)]
    assert [pause.seconds for pause in pauses if isinstance(pause, RetryIn)] == [1.0, 30.0, 300.0, 300.0, 300.0]


def test_a_verdict_says_why() -> None:
    assert decide(errors.NotAllowed("not its word", hint="ask"), 0) == DeadLetter("not its word (ask)", "not_allowed")
    assert decide(ZeroDivisionError("1/0"), 0) == RetryIn(BACKOFF_SECONDS[0], "1/0", "ZeroDivisionError")
    assert decide(TimeoutError(), 9) == DeadLetter("TimeoutError", "TimeoutError")
    assert decide(errors.NeedsPerson("who?", code="poison"), 0) == Park("who?", "poison")


def test_every_class_of_error_has_a_verdict_of_its_own_or_of_its_parent() -> None:
    ours = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, BaseException)]
    for cls in ours:
        assert any(parent in TABLE for parent in cls.__mro__ if parent not in {Exception, BaseException}) or cls in {
            errors.GavotteError,
            errors.CancelRequested,  # the worker ends the task itself before it asks
            errors.Conflict,
            errors.Illegal,
            errors.NotFound,
            errors.Busy,
        }, f"{cls.__name__} falls to the row of Exception: give it a row, or list it here"
