"""A circuit breaker: after failures in a row a provider is left in peace for a while, then asked by one call alone.

closed -> open after `failures_max` failures in a row; open -> half-open when the pause is over; half-open -> closed when
the one call that is let through goes well, else open again with a pause twice as long.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Literal

log = logging.getLogger(__name__)


class Breaker:
    """The breaker of one provider in one process. Ask `wait_seconds` before a call, then tell how it went."""

    def __init__(
        self,
        name: str,
        *,
        failures_max: int = 5,
        pause_seconds: float = 10.0,
        pause_seconds_max: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.last_failure = ""
        self._failures_max = failures_max
        self._pause_seconds = self._first_pause_seconds = pause_seconds
        self._pause_seconds_max = pause_seconds_max
        self._clock = clock
        self._failures = 0
        self._opened_at: float | None = None
        self._probing = False

    @property
    def state(self) -> Literal["closed", "open", "half-open"]:
        if self._opened_at is None:
            return "closed"
        return "half-open" if self._clock() >= self._opened_at + self._pause_seconds else "open"

    def wait_seconds(self) -> float:
        """0 where the call may go ahead; it must then say how it went. Half-open, this takes the only place."""
        if self._opened_at is None:
            return 0.0
        left_seconds = self._opened_at + self._pause_seconds - self._clock()
        if left_seconds > 0 or self._probing:
            return max(left_seconds, 1.0)
        self._probing = True
        log.warning("breaker of %s: half-open, one call may try", self.name)
        return 0.0

    def succeeded(self) -> None:
        """The provider answered, whatever it said."""
        if self._opened_at is not None:
            log.warning("breaker of %s: closed, it answers again", self.name)
        self._failures, self._opened_at, self._probing = 0, None, False
        self._pause_seconds = self._first_pause_seconds

    def failed(self, why: str = "") -> None:
        """The provider did not answer, or said that it cannot."""
        self.last_failure = why
        self._failures += 1
        if self._probing:
            self._pause_seconds = min(self._pause_seconds * 2, self._pause_seconds_max)
            self._open()
        elif self._opened_at is None and self._failures >= self._failures_max:
            self._open()

    def let_go(self) -> None:
        """The call was given up from our side: nothing was learned."""
        self._probing = False

    def _open(self) -> None:
        self._opened_at, self._probing = self._clock(), False
        log.warning("breaker of %s: open for %g s after %d failures", self.name, self._pause_seconds, self._failures)
