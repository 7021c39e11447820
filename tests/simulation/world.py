"""The outside world of a simulation: a release target and a repository to push to, each remembering every act.

They behave as the real ones promise: the target answers a repeated effect from its own ledger and refuses a token below
the highest it has seen, the repository moves a ref by compare-and-set. Whether an act happened twice is judged by what
it means, not by the key under which it was made: a system that forgets its keys is found out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from contracts.errors import Refused, Retryable

Pause = Callable[[float], Awaitable[None]]


@dataclass
class World:
    """`acts` counts what truly happened, by meaning; `ledger` is what the target answers repeated effects from."""

    acts: Counter[tuple[str, ...]] = field(default_factory=Counter)
    ledger: dict[str, dict[str, str]] = field(default_factory=dict)
    highest_token: dict[str, int] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    ran: Counter[tuple[str, str, str, int]] = field(default_factory=Counter)
    """How often the body of a step was begun, by (task, cause, role, ordinal)."""
    attempts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """How often a handler was entered, by (task, role, event type): what makes a flaky handler recover."""
    faults: list[str] = field(default_factory=list)
    """What was seen to go wrong while it went wrong."""

    def release(self, task_id: str, environment: str, digest: str, key: str, token: int) -> dict[str, str]:
        """Make the digest live, once per key; a stale token is refused."""
        if key in self.ledger:
            return self.ledger[key]
        place = f"{task_id}/{environment}"
        if token < self.highest_token.get(place, 0):
            raise Refused(f"release with token {token} after {self.highest_token[place]}")
        self.highest_token[place] = token
        self.acts["release", task_id, environment, digest] += 1
        self.ledger[key] = {"digest": digest, "environment": environment}
        return self.ledger[key]

    def push(self, task_id: str, commit: str) -> dict[str, str]:
        """Create the task's ref where it is not there yet."""
        ref = f"refs/heads/gavotte/{task_id}"
        held = self.refs.get(ref)
        if held is not None and held != commit:
            raise Retryable(f"{ref} holds {held}")
        if held is None:
            self.refs[ref] = commit
            self.acts["push", task_id, commit] += 1
        return {"ref": ref, "commit": commit}

    def pushed(self, task_id: str) -> dict[str, str] | None:
        """What the ref holds: the answer to whether an intended push happened."""
        ref = f"refs/heads/gavotte/{task_id}"
        return {"ref": ref, "commit": self.refs[ref]} if ref in self.refs else None
