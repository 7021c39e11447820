"""Where the time of a hop goes: processor time of each stop of the path, counted inside an agent and written at its end.

Nothing of the product knows of it: functions are wrapped when the variable names a folder, one file per process.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import inspect
import json
import os
import time
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any

from bench.job import HOPS

VARIABLE = "GAVOTTE_BENCH_STOPS"
STEPPING = {"GAVOTTE_BENCH_STEPS": "1"}
"""With this each role takes one journaled step."""
STOPS = ("receive", "decode", "fold", "decide", "journal", "seal", "commit", "flush", "publish", "acknowledge")
"""In the order of the path. `journal` is nothing where a role takes no steps; `flush` is waiting and not work, and the
server's own affair where there is one."""

_spent_ns: dict[str, int] = dict.fromkeys(STOPS, 0)
_deliveries = 0
_inside: list[int] = []
"""What was spent in stops inside the one that is running, so that nothing is counted twice."""


def install(bus: str) -> None:
    """Wrap the stops of the path over this bus: `embedded`, or `kafka` with PostgreSQL."""
    from agents import emission, worker
    from contracts.codec import Codec
    from state_store import inbox, journal, ordinary

    for owner, name, stop in (
        (worker, "read_envelope", "decode"),
        (Codec, "decode", "decode"),
        (Codec, "recorded", "decode"),
        (Codec, "decode_payload", "decode"),
        (inbox.Inbox, "claim", "fold"),
        (inbox.Inbox, "start", "journal"),
        (journal.Journal, "intend", "journal"),
        (journal.Journal, "settle", "journal"),
        (emission.Emission, "sealed", "seal"),
        (ordinary, "draft", "commit"),
        (inbox.Inbox, "commit", "commit"),
        (emission.Emission, "message", "publish"),
        (inbox, "published", "acknowledge"),
        *(_servers() if bus == "kafka" else _file()),
    ):
        setattr(owner, name, _timed(getattr(owner, name), stop))
    worker.Worker.think = _counted(_timed(worker.Worker.think, "decide"))  # type: ignore[method-assign]  # that is the point
    atexit.register(_write, Path(os.environ[VARIABLE]))


def _file() -> tuple[tuple[Any, str, str], ...]:
    """What only the embedded mode has."""
    import embedded.file
    from bus import embedded as bus
    from bus import file_groups, file_subscription
    from state_store import ordinary

    return (
        (file_subscription, "read_windows", "receive"),
        (file_subscription, "record_of", "receive"),
        (ordinary, "claims", "fold"),
        (ordinary, "write", "commit"),
        (embedded.file, "_commit_or_doubt", "flush"),
        (bus, "_append", "publish"),
        (file_groups, "commit", "acknowledge"),
    )


def _servers() -> tuple[tuple[Any, str, str], ...]:
    """What only the distributed mode has."""
    from aiokafka.producer.sender import Sender

    from bus.kafka import fetching, membership, publisher
    from bus.kafka.bus import KafkaBus
    from state_store.postgres.ordinary import Ordinary

    return (
        (fetching, "answered", "receive"),
        (fetching, "records_in", "receive"),
        (Ordinary, "ready", "fold"),
        (Ordinary, "_write", "commit"),
        (Ordinary, "published", "acknowledge"),
        (KafkaBus, "publish", "publish"),
        (publisher.Publisher, "_send", "publish"),
        (Sender, "_send_produce_req", "publish"),
        (membership.Membership, "commit", "acknowledge"),
    )


def _timed(function: Callable[..., Any], stop: str) -> Callable[..., Any]:
    """The function with its own time counted, and not what goes on while it waits."""
    clock = time.perf_counter_ns if stop == "flush" else time.thread_time_ns

    @contextlib.contextmanager
    def counted() -> Iterator[None]:
        began = clock()
        _inside.append(0)
        try:
            yield
        finally:
            spent = clock() - began
            _spent_ns[stop] += spent - _inside.pop()
            if _inside:
                _inside[-1] += spent

    @types.coroutine
    def step_by_step(steps: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        proceed = functools.partial(steps.send, None)
        while True:
            with counted():
                try:
                    awaited = proceed()
                except StopIteration as end:
                    return end.value
            try:
                proceed = functools.partial(steps.send, (yield awaited))
            except BaseException as error:  # it is the function's own to meet
                proceed = functools.partial(steps.throw, error)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def timed_later(*arguments: Any, **named: Any) -> Any:
            return await step_by_step(function(*arguments, **named))

        return timed_later

    @functools.wraps(function)
    def timed(*arguments: Any, **named: Any) -> Any:
        with counted():
            return function(*arguments, **named)

    return timed


def _counted(think: Callable[..., Any]) -> Callable[..., Any]:
    """Deliveries are counted where the role decides."""

    @functools.wraps(think)
    async def counted(*arguments: Any, **named: Any) -> Any:
        global _deliveries  # noqa: PLW0603  # one count for the process
        _deliveries += 1
        return await think(*arguments, **named)

    return counted


def found(into: Path, cpu_ms_per_task: float) -> dict[str, float]:
    """Microseconds per delivery at each stop, of all processes that wrote into the folder; `between` is the rest."""
    said = [json.loads(path.read_text()) for path in into.glob("stops-*.json")]
    deliveries = sum(each["deliveries"] for each in said)
    spent = {f"{stop}_us": sum(each["stops_ns"][stop] for each in said) / deliveries / 1000 for stop in STOPS}
    whole = cpu_ms_per_task * 1000 / len(HOPS)
    return spent | {"between_us": whole - sum(spent.values()) + spent["flush_us"], "whole_us": whole}


def _write(into: Path) -> None:
    said = {"deliveries": _deliveries, "stops_ns": _spent_ns}
    (into / f"stops-{os.getpid()}.json").write_text(json.dumps(said))
