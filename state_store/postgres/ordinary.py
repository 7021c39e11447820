"""The ordinary case on PostgreSQL: what waits is asked with one query, and written with one statement that commits itself.

`state_store.ordinary` says what is ordinary and prepares it; the functions of migrations 0005 and 0006 write it. There is no
moment between the statements at which others wait for this process, and one round trip takes the place of eight.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate, islice
from operator import itemgetter
from typing import Any, Final, Generic, TypeVar

import asyncpg

from contracts.errors import Unavailable
from embedded.gathering import settle
from state_store import ordinary
from state_store.consequences import CORE_ROLES
from state_store.fold import FOLD_VERSION
from state_store.ordinary import Draft
from state_store.port import Claim, Commit, Committed, Delivery, Encoded, Recorded
from state_store.postgres.connections import Connections
from state_store.postgres.statements import STATEMENTS
from state_store.postgres.together import EVERYTHING, LOG, lock_key
from state_store.store import Asked
from state_store.views import view_row

A = TypeVar("A")
R = TypeVar("R")

AT_ONCE: Final = 96
"""Tasks of one statement: with the groups beside it they stay within the server's room for locks."""
RECORDED_AT: Final = 13
"""Where the time of the record stands in the row of an event."""

Answers = Sequence[R | BaseException]


class Turns(Generic[A, R]):
    """Calls that come while others are answered are answered together afterwards: nobody waits for more to come."""

    def __init__(self, answer: Callable[[Sequence[A]], Awaitable[Answers[R]]]) -> None:
        self._answer = answer
        self._waiting: list[tuple[A, asyncio.Future[R]]] = []
        self._serving: asyncio.Task[None] | None = None

    async def __call__(self, call: A) -> R:
        """The answer to this call, or its error."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._waiting.append((call, future))
        if self._serving is None:
            self._serving = loop.create_task(self._serve())
        return await future

    async def close(self) -> None:
        """Finish what waits."""
        if self._serving is not None:
            await asyncio.wait([self._serving])

    async def _serve(self) -> None:
        try:
            while self._waiting:
                taken, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
                waiting = [each for each in taken if not each[1].done()]
                answers: Answers[R]
                try:
                    answers = await self._answer([call for call, _ in waiting])
                except Exception as error:  # noqa: BLE001  # whatever it is, those who wait must hear of it
                    answers = [error] * len(waiting)
                settle(waiting, answers)
        finally:
            self._serving = None


class Ordinary:
    """What nearly every delivery asks of the store. The `judge`s answer, by the rules, whatever is not ordinary."""

    def __init__(
        self,
        connections: Connections,
        now_us: Callable[[], int],
        *,
        judge_append: Callable[[Sequence[Encoded]], Awaitable[list[Recorded]]],
        judge_claim: Callable[[Asked], Awaitable[Claim]],
        judge_commit: Callable[[Commit], Awaitable[Committed]],
    ) -> None:
        self._connections = connections
        self._now_us = now_us
        self._judge_append, self._judge_claim, self._judge_commit = judge_append, judge_claim, judge_commit
        self.append: Turns[Sequence[Encoded], list[Recorded]] = Turns(self._append_all)
        self.claim: Turns[Asked, Claim] = Turns(self._claim_all)
        self.commit: Turns[Commit, Committed] = Turns(self._commit_all)

    async def close(self) -> None:
        """Finish what is under way."""
        await asyncio.gather(self.append.close(), self.claim.close(), self.commit.close())

    async def published(self, role: str, event_ids: Sequence[str]) -> bool:
        """Mark deliveries; whether that was done."""
        try:
            async with self._connections.borrow() as connection:
                await connection.fetch("ordinary_published", (role, event_ids))
        except (asyncpg.PostgresError, asyncpg.InterfaceError, Unavailable):
            return False
        return True

    async def _append_all(self, calls: Sequence[Sequence[Encoded]]) -> Answers[list[Recorded]]:
        now_us, events = self._now_us(), [encoded for call in calls for encoded in call]
        made = [ordinary.first_row(encoded, now_us) for encoded in events]
        keys = sorted({lock_key(encoded.event.task_id) for encoded in events})
        last = await self._written(
            "ordinary_first",
            *(EVERYTHING, LOG, keys, FOLD_VERSION, now_us),
            [_event(row) for _, row in made],
            [_view(view_row(head, now_us)) for head, _ in made],
        )
        if last is None:
            return await asyncio.gather(*map(self._judge_append, calls), return_exceptions=True)
        recorded = iter(
            ordinary.as_recorded(encoded, row, last + index)
            for index, (encoded, (_, row)) in enumerate(zip(events, made, strict=True), 1)
        )
        return [list(islice(recorded, len(call))) for call in calls]

    async def _claim_all(self, calls: Sequence[Asked]) -> Answers[Claim]:
        role = calls[0].role
        plain = [call.role == role and call.inbox_id is None and call.event is not None for call in calls]
        wanted = [call.envelope.id for call, own in zip(calls, plain, strict=True) if own]
        found = await self.ready(role, wanted) if wanted else {}
        known = [found.get(call.envelope.id) if own else None for call, own in zip(calls, plain, strict=True)]
        rest = [self._judge_claim(call) for call, claim in zip(calls, known, strict=True) if claim is None]
        judged = iter(await asyncio.gather(*rest, return_exceptions=True))
        return [next(judged) if claim is None else claim for claim in known]

    async def _commit_all(self, calls: Sequence[Commit]) -> Answers[Committed]:
        now_us, first = self._now_us(), calls[0].delivery
        drafts = [ordinary.draft(call, now_us) if _is_like(call, first) else None for call in calls]
        together = [draft for draft in drafts if draft is not None]
        last = await self._write(together, now_us) if together else None
        if last is None:
            return await asyncio.gather(*map(self._judge_commit, calls), return_exceptions=True)
        rest = [self._judge_commit(call) for call, draft in zip(calls, drafts, strict=True) if draft is None]
        judged = iter(await asyncio.gather(*rest, return_exceptions=True))
        answers: list[Committed | BaseException] = []
        for draft in drafts:
            if draft is None:
                answers.append(next(judged))
            else:
                answers.append(ordinary.committed(draft, last))
                last += len(draft.rows)
        return answers

    async def ready(self, role: str, event_ids: Sequence[str]) -> dict[str, Claim]:
        """event id -> claim, of those that are free without a question."""
        asked = {"role": role, "events": event_ids, "fold_version": FOLD_VERSION}
        try:
            async with self._connections.borrow() as connection:
                rows = await connection.fetch("ready", STATEMENTS["ready"].arguments(asked))
        except (asyncpg.PostgresError, asyncpg.InterfaceError, Unavailable):
            return {}  # the rules try again, and say what is wrong
        return ordinary.free_claims(role, rows)

    async def _write(self, drafts: Sequence[Draft], now_us: int) -> int | None:
        """The position before the first event, or None where the rules are to judge."""
        delivery = drafts[0].request.delivery
        keys = sorted({lock_key(draft.head.task_id) for draft in drafts})
        upto = accumulate(len(draft.rows) for draft in drafts)
        return await self._written(
            "ordinary_commit",
            *(EVERYTHING, LOG, keys, FOLD_VERSION, now_us, delivery.role, delivery.holder, _CORE_ROLES),
            min(draft.request.delivery.kill_seq for draft in drafts),
            any(draft.ends for draft in drafts),
            [_done(draft, number, now_us) for draft, number in zip(drafts, upto, strict=True)],
            [_event(row) for draft in drafts for row in draft.rows],
        )

    async def _written(self, name: str, *values: Any) -> int | None:
        """Whoever was in the way, or whatever went wrong: the rules find out what was done, and say so to each."""
        try:
            async with self._connections.borrow() as connection:
                ((last, server_us),) = await connection.fetch(name, values)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, Unavailable):
            return None
        self._connections.clock.told(server_us)
        return None if last is None else int(last)


def _is_like(call: Commit, first: Delivery) -> bool:
    """Whether it can be written beside this delivery, and has no words that only the rules write."""
    d = call.delivery
    return d.role == first.role and d.holder == first.holder and not call.reason and not call.reason_code


def _done(draft: Draft, upto: int, now_us: int) -> tuple[Any, ...]:
    """A delivery and the view of its task, as the server's type `ordinary_delivery` has them; `upto` counts the events."""
    sight, d, view = draft.sight, draft.request.delivery, draft.view or view_row(draft.head, now_us)
    return (
        *(d.event_id, d.task_id, sight.type, sight.sequence, d.basis, draft.request.attempt),
        *(len(draft.rows), draft.ends, view["sequence"]),
        *_view(view),
        upto,
    )


_CORE_ROLES: Final = sorted(CORE_ROLES)
_view: Final = itemgetter("head_hash", "status", "step", "owner", "due_us", "title", "state")
"""Of a view what `ordinary_view` has."""


def _event(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """An event as `ordinary_event` has it: without the time of the record, which is one for all."""
    return row[:RECORDED_AT] + row[RECORDED_AT + 1 :]
