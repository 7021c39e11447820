"""One thing to deliver: a record of the bus, or what the sweep found in the store."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from agents.session import Session
from bus.port import Record
from contracts.envelope import Envelope, Event
from contracts.errors import GavotteError
from state_store.port import Claim, Delivery, Due


@dataclass(slots=True)
class Work:
    """A delivery under way. `session` is open from stop 3 on; `thinking` is set while the role itself runs;
    `sequence` is the event's place in its task.

    `killed_by` says why a kill covers the task: then all that is left to do is to end it.

    `alone` is set for a record of a partition whose last holder died: each attempt at it is made inside. `foreseen` is what
    stops 2 and 3 found for many at once, until it is used. `idling` is set between attempts: nothing is lost by ending it
    there. `recorded` is set once what came of it is in the store, and only the bus is still to hear of it.
    """

    key: bytes
    record: Record | None = None
    due: Due | None = None
    alone: AbstractAsyncContextManager[object] | None = None
    idling: bool = False
    recorded: bool = False
    envelope: Envelope | None = None
    foreseen: tuple[Event, bytes, Claim] | None = None
    session: Session | None = None
    sequence: int = 0
    attempt: int = 0
    killed_by: str = ""
    thinking: asyncio.Task[Any] | None = None
    stopped_by: GavotteError | None = None

    @property
    def careful(self) -> bool:
        """Whether its start is to be durable before its bytes are decoded: whoever had it before may have died of it."""
        return self.alone is not None

    @property
    def inbox_id(self) -> str | None:
        """The inbox key where it is not the event's id: that of a deadline."""
        return self.due.deadline_id if self.due is not None else None

    def opened(self) -> Session:
        """The session that stop 3 opened."""
        if self.session is None:
            raise ValueError("stop 3 opened no session")
        return self.session

    def fresh(self) -> Work:
        """The same thing to deliver once more."""
        return Work(self.key, self.record, self.due, self.alone)

    def delivery(self, role: str, envelope: Envelope, claim: Claim, holder: str) -> Delivery:
        """The inbox key of this work and what its handling is based on."""
        return Delivery(
            role=role,
            event_id=self.inbox_id or envelope.id,
            task_id=envelope.task_id,
            cause_id=envelope.id,
            basis=claim.basis,
            kill_seq=claim.kill_seq,
            holder=holder,
            seen=claim.seen,
        )

    def interrupt(self, error: GavotteError) -> None:
        """Stop the role in the middle of its handling, for a kill or a lost lease; commits and receipts are not cut."""
        if self.thinking is not None:
            self.stopped_by = error
            self.thinking.cancel()
