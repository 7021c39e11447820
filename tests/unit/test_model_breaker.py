"""The breaker of a provider: when it opens, whom it lets through, when it closes."""

from __future__ import annotations

from agents.model.breaker import Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    breaker = Breaker("provider", failures_max=3, pause_seconds=10, pause_seconds_max=35, clock=clock)
    for _ in range(3):
        assert breaker.wait_seconds() == 0
        breaker.failed("overloaded")
    return breaker


def test_it_opens_after_failures_in_a_row() -> None:
    clock = Clock()
    breaker = opened(clock)
    assert (breaker.state, breaker.wait_seconds(), breaker.last_failure) == ("open", 10, "overloaded")
    clock.now += 4
    assert breaker.wait_seconds() == 6


def test_an_answer_in_between_starts_the_count_anew() -> None:
    breaker = Breaker("provider", failures_max=2, clock=Clock())
    for _ in range(5):
        breaker.failed()
        breaker.succeeded()
    assert breaker.state == "closed"


def test_half_open_lets_one_through_and_closes_on_its_success() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 10
    assert breaker.state == "half-open"
    assert breaker.wait_seconds() == 0
    assert breaker.wait_seconds() == 1, "a second one must wait for the first"
    breaker.succeeded()
    assert (breaker.state, breaker.wait_seconds()) == ("closed", 0)


def test_half_open_opens_again_for_longer_each_time() -> None:
    clock = Clock()
    breaker = opened(clock)
    for pause in (10, 20, 35, 35):
        assert breaker.wait_seconds() == pause
        clock.now += pause
        assert breaker.wait_seconds() == 0
        breaker.failed()
    clock.now += 35
    assert breaker.wait_seconds() == 0
    breaker.succeeded()
    for _ in range(3):
        breaker.failed()
    assert breaker.wait_seconds() == 10, "the pause is short again"


def test_a_probe_that_was_given_up_leaves_its_place() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 10
    assert breaker.wait_seconds() == 0
    breaker.let_go()
    assert breaker.wait_seconds() == 0


def test_failures_of_calls_that_were_under_way_do_not_prolong_the_pause() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 9
    breaker.failed()
    assert breaker.wait_seconds() == 1
