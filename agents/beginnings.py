"""Beginnings outside the path of one event: before bytes of doubtful records are decoded, after 30 s, after a pause."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from contracts.codec import read_envelope
from contracts.envelope import Envelope, Event
from contracts.errors import NeedsPerson
from state_store.port import Claim, Encoded, Recorded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from agents.work import Work
    from agents.worker import Worker
    from state_store.fold import TaskState

STARTS_MAX: Final = 5
"""So often a delivery may be begun without any progress before it is parked unread."""


async def brace(worker: Worker, work: Work) -> None:
    """For a partition whose holder died: the start is durable before the bytes are decoded, so that poison is counted.

    Raises NeedsPerson for a record that was begun too often.
    """
    if work.record is None:
        return
    work.envelope = work.record.envelope or read_envelope(work.record.key, work.record.headers)
    if work.envelope.type not in worker.agent.consumes:
        return
    role = worker.agent.role
    claim = await worker.store.claim(role, None, work.envelope)
    if claim.starts >= STARTS_MAX:
        raise poisonous(work.envelope, claim)
    if claim.status == "free":
        await worker.store.start(work.delivery(role, work.envelope, claim, worker.holder), None)


async def by_itself(worker: Worker, work: Work, alone: AbstractAsyncContextManager[object]) -> Sequence[Recorded]:
    """The path of such a record, with no other of them beside it: whichever kills the process is the one that began."""
    async with alone:
        return await worker.path(work)


async def detach(worker: Worker, work: Work) -> None:
    """Make a delivery durable that is not done after 30 s, running or queued, so that its offset may move on."""
    if work.recorded:  # it waits for the bus: whoever sweeps the store tells what this process may not live to tell
        return
    if work.session is not None:
        await work.session.begin()
        return
    event, value = await worker.read(work)
    if event is None:
        return
    role, consumed = worker.agent.role, Encoded(event, value)
    claim = await worker.store.claim(role, consumed, event.envelope, inbox_id=work.inbox_id, holder=worker.holder)
    if claim.status in {"free", "waiting"}:
        worker.verify(event, known=claim.known)
        delivery = work.delivery(role, event.envelope, claim, worker.holder)
        await worker.store.start(delivery, None if claim.known else consumed, waiting=True)


async def looks_anew(worker: Worker, work: Work, event: Event, state: TaskState) -> bool:
    """On TaskResumed: a parked delivery that was reopened goes on with its own journal; else the role looks anew.

    Where the task moved on since, whatever moved it has a delivery of its own, and is the cause of what follows.
    """
    if event.type != "TaskResumed" or state.step_sequence > work.sequence:
        return False
    return await worker.store.next_waiting(worker.agent.role, event.task_id, besides=event.id) is None


def poisonous(envelope: Envelope, claim: Claim) -> NeedsPerson:
    """What a record is called that ends its process again and again."""
    return NeedsPerson(f"{envelope.type} {envelope.id} was begun {claim.starts} times in vain", code="poison")
