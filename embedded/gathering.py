"""Calls that come in one turn of the event loop are answered together: whatever is there, and nobody waits for more.

What costs the same for one call as for two hundred (a hop to a thread, a statement, a lock) is so paid once for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

A = TypeVar("A")
R = TypeVar("R")


class Gathering(Generic[A, R]):
    """`await gathering(call)`. All calls of one turn reach `answer` as one sequence, in order.

    `answer` gives a result for each of them, or an exception that is raised to this caller alone; what it raises itself
    is raised to all of them. It may be at work several times at once.
    """

    def __init__(self, answer: Callable[[Sequence[A]], Awaitable[Sequence[R | BaseException]]]) -> None:
        self._answer = answer
        self._waiting: list[tuple[A, asyncio.Future[R]]] = []
        self._answering: set[asyncio.Task[None]] = set()

    def __call__(self, call: A) -> asyncio.Future[R]:
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._begin, loop)
        future: asyncio.Future[R] = loop.create_future()
        self._waiting.append((call, future))
        return future

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting, self._waiting = self._waiting, []
        task = loop.create_task(self._settle([each for each in waiting if not each[1].done()]))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _settle(self, waiting: list[tuple[A, asyncio.Future[R]]]) -> None:
        answers: Sequence[R | BaseException]
        try:
            answers = await self._answer([call for call, _ in waiting])
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # whatever it is, those who wait must hear of it
            answers = [error] * len(waiting)
        settle(waiting, answers)


def settle(waiting: Sequence[tuple[A, asyncio.Future[R]]], answers: Sequence[R | BaseException]) -> None:
    """Tell each caller that still waits its result, or raise its error there."""
    for (_, future), answer in zip(waiting, answers, strict=True):
        if future.done():
            continue
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)
