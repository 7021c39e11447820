"""Errors that say whose fault it is and what to do next.

Each class has a `code`, stable for programs, and an `exit_code` for the command line (0 done, 1 failed, 2 usage,
3 not found, 4 denied by policy or budget, 5 dependency down, 6 waits for a person). `bus.retry.decide` turns a class
into a verdict, so an error's class is chosen by who can mend it, not by where it was raised.
"""

from __future__ import annotations


class GavotteError(Exception):
    """Something went wrong that a person or the retry table can act on."""

    code = "error"
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class Retryable(GavotteError):
    """The world is at fault and may recover: try again later, in `retry_seconds` where somebody knows when."""

    code = "retryable"
    exit_code = 5

    def __init__(
        self, message: str, *, hint: str = "", code: str | None = None, retry_seconds: float | None = None
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.retry_seconds = retry_seconds


class Unavailable(Retryable):
    """A dependency (bus, store, registry, model) does not answer."""

    code = "unavailable"


class OutcomeUnknown(Retryable):
    """A write was sent and no answer came: ask before repeating it."""

    code = "outcome_unknown"


class Rejected(GavotteError):
    """The message is at fault: no retry will help, it becomes a letter."""

    code = "rejected"
    exit_code = 2


class Undecodable(Rejected):
    """Bytes that are not one of our events."""

    code = "undecodable"


class NotAllowed(Rejected):
    """A source said what it may not say, or on a topic that is not its own."""

    code = "not_allowed"
    exit_code = 4


class TooLarge(Rejected):
    """A message or body exceeds its cap."""

    code = "too_large"


class Skew(Retryable):
    """An event of a version or schema newer than this build: wait for the upgrade, then park."""

    code = "skew"


class Refused(GavotteError):
    """Policy or safety says no: nothing was done."""

    code = "refused"
    exit_code = 4


class Unverified(Refused):
    """An act of authority without a valid signature of a known operator."""

    code = "unverified"


class Exhausted(Refused):
    """A budget is spent: the delivery parks until it is raised."""

    code = "exhausted"

    def __init__(
        self, message: str, *, axis: str, limit: int, spent: int, reserved: int = 0, wanted: int = 0, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.axis = axis
        self.limit = limit
        self.spent = spent
        self.reserved = reserved
        self.wanted = wanted


class Killed(Refused):
    """The kill switch covers this work: it parks until the kill is lifted."""

    code = "killed"


class NeedsPerson(Refused):
    """The role cannot go on alone: the delivery parks and the task escalates with this reason."""

    code = "needs_person"
    exit_code = 6


class CancelRequested(GavotteError):
    """The operator asked to cancel the task while its owner was at work: the owner ends it."""

    code = "cancel_requested"


class Fenced(GavotteError):
    """Another worker holds the task's lease now: this one lets go and writes nothing more."""

    code = "fenced"


class Conflict(GavotteError):
    """The state moved on since it was read: read it again and decide anew."""

    code = "conflict"


class Illegal(Conflict):
    """An event that the task's state does not allow."""

    code = "illegal"


class NotFound(GavotteError):
    """No such task, event, project or letter."""

    code = "not_found"
    exit_code = 3


class Usage(GavotteError):
    """The words of the command or the request are off."""

    code = "usage"
    exit_code = 2


class Busy(GavotteError):
    """Another process holds what this one needs, for instance a second `up` on one data folder."""

    code = "busy"
    exit_code = 5


class Corrupt(GavotteError):
    """Stored bytes do not match their hash or schema."""

    code = "corrupt"
