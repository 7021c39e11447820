"""Simulated time and scheduling: an event loop whose every choice follows from a seed, and processes that can be killed.

    def test_it() -> None:
        async def main(simulation: Simulation) -> None:
            broker = MemoryBroker(clock=simulation.now_us)
            process = simulation.process("review-1")
            process.start(work(broker.connect()))
            await asyncio.sleep(3600)       # takes no time
            process.kill()                  # nothing of it runs any more, not even `finally`
        run_simulated(7, main)

Ready callbacks run in an order drawn from the seed, and the clock jumps when there is nothing to run, so the same
seed gives the same run (as long as the code under test iterates over no set of strings and asks no other clock).
Threads, subprocesses and sockets are refused.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import logging
import random
import zlib
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

log = logging.getLogger(__name__)

EPOCH_US: Final = 1_800_000_000_000_000
"""When every simulation begins, by its wall clock."""
STEPS_MAX: Final = 20_000_000


class SimulationStuck(AssertionError):
    """Nothing is left to run and no timer is set, but the simulation has not ended: something waits for ever."""


class Killed(BaseException):
    """Raised inside a process of the simulation that killed itself, to leave the code that asked for it."""


class SimulatedLoop(asyncio.AbstractEventLoop):
    """Time is virtual, order is drawn from the seed."""

    def __init__(self, seed: int) -> None:
        self.steps = 0
        self.trace = 0
        """A checksum of all choices: equal traces are equal runs."""
        self.on_step: Callable[[], None] | None = None
        """Called before each callback: the place to kill a process at any await."""
        self._random = random.Random(seed)  # noqa: S311  # a seed must give the same run, that is all
        self._seconds = 0.0
        self._ready: list[asyncio.Handle] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._count = 0
        self._running = False
        self._failures: list[BaseException] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    def time(self) -> float:
        return self._seconds

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._seconds + max(delay, 0.0), callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]  # the stubs' signature differs between versions of Python
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[T]:
        if len(self._tasks) > 10_000:
            self._tasks = {task for task in self._tasks if not task.done()}
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.add(task)
        return task

    def run_until_complete(self, future: Any) -> Any:
        main = asyncio.ensure_future(future, loop=self)
        asyncio._set_running_loop(self)  # noqa: SLF001  # meant for those who write event loops
        self._running = True
        try:
            while not main.done() and not self._failures:
                self._step()
        finally:
            self._running = False
            asyncio._set_running_loop(None)  # noqa: SLF001  # likewise
        if self._failures:
            raise self._failures[0]
        return main.result()

    def fail(self, error: BaseException) -> None:
        """End the simulation with this error after the current step."""
        self._failures.append(error)

    def close(self) -> None:
        """End what still waits, without running it on."""
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001  # meant to be lost
                try:
                    task.get_coro().close()
                except (RuntimeError, Killed):
                    continue
        self._ready.clear()
        self._timers.clear()

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return False

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, Killed):
            log.error("in a simulated process: %s", context.get("message"), exc_info=error)

    def call_soon_threadsafe(self, *_: Any, **__: Any) -> NoReturn:  # type: ignore[override]  # refused for any arguments
        raise RuntimeError("a simulation has no threads: use the inline database and the memory bus")

    def run_in_executor(self, *_: Any, **__: Any) -> NoReturn:  # type: ignore[override]  # likewise
        raise RuntimeError("a simulation has no threads: use the inline database and the memory bus")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Part of the loop's contract; cancelled timers are passed over when due."""

    def _step(self) -> None:
        if not self._ready:
            self._jump()
        index = self._random.randrange(len(self._ready))
        self._ready[index], self._ready[-1] = self._ready[-1], self._ready[index]
        handle = self._ready.pop()
        self.steps += 1
        if self.steps > STEPS_MAX:
            raise SimulationStuck(f"{STEPS_MAX} steps and no end")
        if handle.cancelled() or _is_of_the_dead(handle):
            return
        self.trace = zlib.crc32(b"%d/%d" % (index, len(self._ready)), self.trace)
        if self.on_step is not None:
            self.on_step()
        if not _is_of_the_dead(handle):
            handle._run()  # noqa: SLF001  # what a loop does with its handles

    def _jump(self) -> None:
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        if not self._timers:
            raise SimulationStuck(f"nothing left to run after {self._seconds:g} s of simulated time")
        self._seconds = max(self._seconds, self._timers[0][0])
        while self._timers and self._timers[0][0] <= self._seconds:
            self._ready.append(heapq.heappop(self._timers)[2])


class Process:
    """A process of the simulation: what it starts belongs to it, tasks of tasks too, and dies with it."""

    def __init__(self, name: str, loop: SimulatedLoop) -> None:
        self.name = name
        self.alive = True
        self.on_kill: list[Callable[[], None]] = []
        """What the kernel and the network do when a process dies: locks freed, connections closed."""
        self._loop = loop

    def start(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run the coroutine as part of this process. Its exception, if nobody awaits it, ends the simulation."""
        context = contextvars.copy_context()
        context.run(_process.set, self)
        task = self._loop.create_task(coroutine, name=self.name, context=context)
        task.add_done_callback(self._ended)
        return task

    def kill(self) -> None:
        """As by SIGKILL: nothing of it runs any more. Called by the process itself, it does not return."""
        if self.alive:
            self.alive = False
            for each in self.on_kill:
                each()
        if _process.get() is self:
            raise Killed(self.name)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if self.alive and not task.cancelled() and task.exception() is not None:
            error = task.exception()
            if error is not None and not isinstance(error, Killed):
                self._loop.fail(error)


class Simulation:
    """What the main coroutine of a simulation gets. `random` is for its own choices, drawn from the same seed."""

    def __init__(self, seed: int, loop: SimulatedLoop) -> None:
        self.seed = seed
        self.loop = loop
        self.random = random.Random(f"choices of {seed}")  # noqa: S311  # as above

    def process(self, name: str) -> Process:
        """A new process."""
        return Process(name, self.loop)

    def now_us(self) -> int:
        """The simulated wall clock, in microseconds since the epoch."""
        return EPOCH_US + round(self.loop.time() * 1_000_000)


def run_simulated(seed: int, main: Callable[[Simulation], Coroutine[Any, Any, T]]) -> T:
    """Run main to its end in simulated time; what it left running is dropped. Errors carry the seed in a note."""
    loop = SimulatedLoop(seed)  # type: ignore[abstract]  # sockets, threads and signals are left out on purpose
    try:
        result: T = loop.run_until_complete(main(Simulation(seed, loop)))
    except BaseException as error:
        error.add_note(f"simulated with seed {seed}, {loop.steps} steps, {loop.time():g} s")
        raise
    finally:
        loop.close()
    return result


def current_process() -> Process | None:
    """The process of the simulation that runs now."""
    return _process.get()


_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("simulated_process", default=None)


def _is_of_the_dead(handle: asyncio.Handle) -> bool:
    process = handle._context.get(_process)  # type: ignore[attr-defined]  # noqa: SLF001  # a loop may look into its handles
    return process is not None and not process.alive
