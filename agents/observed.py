"""A worker that is watched: the path of `agents.worker`, and beside it the times of its stops for telemetry and logs.

Nothing of it is in the path itself: an agent that shows nothing runs the plain worker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast

from agents.work import Work
from agents.worker import Worker
from bus.retry import LetGo, decide
from contracts.envelope import Event
from state_store.fold import TaskState
from state_store.port import Claim, Commit, Committed, Delivery, Recorded, StateStore, Step

Interval = tuple[int, int]
"""When something began and ended, in microseconds."""


@dataclass(slots=True)
class Passage:
    """How one delivery went. `handled` is the role's own time, `committed` that of the commit, where it came to them.

    `steps` are those that were really run, not answered from the journal; `sent` what was published and when.
    """

    work: Work
    began_us: int
    ended_us: int = 0
    handled: Interval | None = None
    committed: Interval | None = None
    asked: str = ""
    recorded: str = ""
    error: BaseException | None = None
    stopped: bool = False
    steps: list[Step] = field(default_factory=list)
    sent: list[tuple[Sequence[Recorded], Interval]] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """One word for what became of it: the inbox's own word where there is one."""
        if self.stopped:
            return "stopped"
        if self.recorded:
            return self.recorded
        if self.error is not None:
            return "let_go" if isinstance(decide(self.error, 0), LetGo) else "dead"
        return self.asked or "ignored"


class Observer(Protocol):
    """Who watches. Both are called on the path of events, so both are quick."""

    def context(self, delivery: Delivery, event: Event) -> Event:
        """The event that is about to be recorded, with the trace context that its readers are to see."""
        ...

    def delivered(self, passage: Passage) -> None:
        """A delivery is over."""
        ...


AT_WORK: Final[ContextVar[Passage | None]] = ContextVar("at_work", default=None)
"""The delivery whose path this code is on."""


class ObservedWorker(Worker):
    """The worker of one role, and whoever watches it."""

    def __init__(self, observer: Observer, *arguments: Any, **parts: Any) -> None:
        heard = _Overheard(parts["store"], parts["clock"])
        super().__init__(*arguments, **parts | {"store": cast("StateStore", heard)})
        self.observer = observer
        self.emission.context = observer.context
        self._handle, self.handle = self.handle, self._timed

    async def deliver(self, work: Work) -> None:
        """The whole path, with a note of how it went."""
        passage = Passage(work, self.clock())
        token = AT_WORK.set(passage)
        try:
            await super().deliver(work)
        except BaseException:
            passage.stopped = True
            raise
        finally:
            AT_WORK.reset(token)
            passage.ended_us = self.clock()
            self.observer.delivered(passage)

    async def path(self, work: Work) -> Sequence[Recorded]:
        """Stops 2 to 5, with a note of what went wrong."""
        passage = AT_WORK.get()
        if passage is not None:
            passage.error = None  # of an earlier try in line
        try:
            return await super().path(work)
        except BaseException as error:
            if passage is not None:
                passage.error = work.stopped_by or error
            raise

    async def open(self, work: Work, event: Event, value: bytes, claim: Claim) -> None:
        """Stop 3, with a note of what the inbox said."""
        if (passage := AT_WORK.get()) is not None:
            passage.asked = "repeated" if claim.status == "done" else claim.status
        await super().open(work, event, value, claim)

    async def tell(self, recorded: Sequence[Recorded]) -> None:
        """Stop 6, with a note of when."""
        began_us = self.clock()
        await super().tell(recorded)
        if (passage := AT_WORK.get()) is not None:
            passage.sent.append((recorded, (began_us, self.clock())))

    async def _timed(self, event: Event, state: TaskState, tools: Any) -> list[Event]:
        began_us = self.clock()
        try:
            return await self._handle(event, state, tools)
        finally:
            if (passage := AT_WORK.get()) is not None:
                passage.handled = (began_us, self.clock())


class _Overheard:
    """The store as this worker sees it: what it answers to claims, commits and steps is noted on the way."""

    def __init__(self, store: StateStore, clock: Callable[[], int]) -> None:
        self._store = store
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, request: Commit) -> Committed:
        began_us = self._clock()
        committed = await self._store.commit(request)
        if (passage := AT_WORK.get()) is not None:
            passage.committed = (began_us, self._clock())
            passage.recorded = request.status if committed.status == "recorded" else committed.status
        return committed

    async def step_outcome(self, delivery: Delivery, step: Step) -> None:
        await self._store.step_outcome(delivery, step)
        if (passage := AT_WORK.get()) is not None:
            passage.steps.append(step)
