"""What a failure means for a delivery: one pure function over one table of error classes.

| verdict | inbox row | offset | who reopens |
|---|---|---|---|
| RetryIn | `retry`, due | acknowledged | the sweep, when due |
| DeadLetter | `dead` | acknowledged after its letter is confirmed | a redrive |
| Park | `parked` | acknowledged | resume, raise or lift |
| LetGo | untouched | acknowledged | whoever holds the task's lease, or the sweep |
| Stop | untouched | untouched | the next start of a worker |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from contracts import errors

BACKOFF_SECONDS: Final = (1.0, 30.0, 300.0)
"""The pause before the second, third and fourth attempt, where nobody knows better."""
WAIT_SECONDS_MIN: Final = 1.0
WAIT_SECONDS_MAX: Final = 3600.0
"""Of a pause that somebody asked for, for instance a provider by its retry-after."""


@dataclass(frozen=True, slots=True)
class RetryIn:
    """Try again after so many seconds; the world is at fault and may recover."""

    seconds: float
    reason: str
    code: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The record becomes a letter; a person or a tool repairs it."""

    reason: str
    code: str


@dataclass(frozen=True, slots=True)
class Park:
    """The delivery rests, with its journal, until somebody lets it go on."""

    reason: str
    code: str


@dataclass(frozen=True, slots=True)
class LetGo:
    """The delivery is another worker's now: write nothing more, acknowledge, go on with other work."""

    reason: str
    code: str


@dataclass(frozen=True, slots=True)
class Stop:
    """This process is ending: leave everything as it is."""

    reason: str
    code: str


Verdict = RetryIn | DeadLetter | Park | LetGo | Stop


@dataclass(frozen=True, slots=True)
class Rule:
    """Pauses between attempts, and the verdict when they are used up; None repeats the last pause for ever."""

    backoff_seconds: tuple[float, ...]
    then: type[DeadLetter | Park | LetGo | Stop] | None


TABLE: Final[dict[type[BaseException], Rule]] = {
    # the process is ending: CancelledError, KeyboardInterrupt, SystemExit and whatever else is no Exception
    BaseException: Rule((), Stop),
    # nobody knows: patience first, then a person
    Exception: Rule(BACKOFF_SECONDS, DeadLetter),
    errors.Retryable: Rule(BACKOFF_SECONDS, DeadLetter),
    # bus, store, registry or model is down: no fault of the record, so its task's deadline ends the waiting, not we
    errors.Unavailable: Rule(BACKOFF_SECONDS, None),
    errors.OutcomeUnknown: Rule(BACKOFF_SECONDS, None),
    # newer than this build: an upgrade is on its way, and a letter would lose the task's order
    errors.Skew: Rule(BACKOFF_SECONDS, Park),
    # the record itself is wrong, and will be as wrong tomorrow
    errors.Rejected: Rule((), DeadLetter),
    errors.Usage: Rule((), DeadLetter),
    # policy, budget, kill switch or the role itself asks for a person
    errors.Refused: Rule((), Park),
    # nobody who may has said it: it is put aside, and holds up nothing behind it
    errors.Unverified: Rule((), DeadLetter),
    # what is stored is damaged: neither retries nor a letter mend it
    errors.Corrupt: Rule((), Park),
    errors.Fenced: Rule((), LetGo),
}
"""The most specific class of an error decides."""


def decide(error: BaseException, attempt: int) -> Verdict:
    """The verdict on an error; `attempt` counts the failed attempts before this one, 0 for the first."""
    rule = next(TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)
    code, reason = code_of(error), reason_of(error)
    if attempt >= len(rule.backoff_seconds) and rule.then is not None:
        return rule.then(reason, code)
    wanted_seconds = error.retry_seconds if isinstance(error, errors.Retryable) else None
    if wanted_seconds is not None:
        return RetryIn(min(max(wanted_seconds, WAIT_SECONDS_MIN), WAIT_SECONDS_MAX), reason, code)
    return RetryIn(rule.backoff_seconds[min(max(attempt, 0), len(rule.backoff_seconds) - 1)], reason, code)


def code_of(error: BaseException) -> str:
    """A word for programs: our errors carry one, of others it is the class."""
    return error.code if isinstance(error, errors.GavotteError) else type(error).__name__


def reason_of(error: BaseException) -> str:
    """A sentence for people; never empty."""
    return str(error) or type(error).__name__
