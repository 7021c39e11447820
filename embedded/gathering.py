"""Calls that come in one turn of the event loop are answered together: whatever is there, and nobody waits for more.

What costs the same for one call as for two hundred (a statement, a lock, a flush) is so paid once for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

A = TypeVar("A")
R = TypeVar("R")

Answers = Sequence[R | BaseException]


class Gathering(Generic[A, R]):
    """`await gathering(call)`. All calls of one turn reach `answer` as one sequence, in order.

    `answer` gives a result for each of them, or an exception that is raised to this caller alone; what it raises itself
    is raised to all of them. It answers at once, or with something to await: then it may be at work several times at once.
    """

    def __init__(self, answer: Callable[[Sequence[A]], Answers[R] | Awaitable[Answers[R]]]) -> None:
        self._answer = answer
        self._waiting: list[tuple[A, asyncio.Future[R]]] = []
        self._answering: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, call: A) -> asyncio.Future[R]:
        if self._waiting and self._loop is not None:
            loop = self._loop
        else:
            self._loop = loop = asyncio.get_running_loop()
            loop.call_soon(self._begin)
        future: asyncio.Future[R] = loop.create_future()
        self._waiting.append((call, future))
        return future

    def _begin(self) -> None:
        everybody, self._waiting = self._waiting, []
        waiting = [each for each in everybody if not each[1].done()]
        answers: Answers[R] | Awaitable[Answers[R]]
        try:
            answers = self._answer([call for call, _ in waiting])
        except Exception as error:  # noqa: BLE001  # whatever it is, those who wait must hear of it
            answers = [error] * len(waiting)
        if not isinstance(answers, Awaitable):
            settle(waiting, answers)
            return
        task = asyncio.ensure_future(self._settle(waiting, answers))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _settle(self, waiting: list[tuple[A, asyncio.Future[R]]], answering: Awaitable[Answers[R]]) -> None:
        answers: Answers[R]
        try:
            answers = await answering
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # whatever it is, those who wait must hear of it
            answers = [error] * len(waiting)
        settle(waiting, answers)


def settle(waiting: Sequence[tuple[A, asyncio.Future[R]]], answers: Answers[R]) -> None:
    """Tell each caller that still waits its result, or raise its error there."""
    for (_, future), answer in zip(waiting, answers, strict=True):
        if future.done():
            continue
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)
