"""Where the time of a hop goes: processor time of each stop of the path, counted inside an agent and written at its end.

Nothing of the product knows of it: functions are wrapped when the variable names a folder, one file per process.
"""

from __future__ import annotations

import atexit
import functools
import inspect
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIABLE = "GAVOTTE_BENCH_STOPS"
STOPS = ("receive", "decode", "fold", "decide", "journal", "seal", "commit", "flush", "publish", "acknowledge")
"""In the order of the path. `journal` is nothing where a role takes no steps; `flush` is waiting and not work."""

_spent_ns: dict[str, int] = dict.fromkeys(STOPS, 0)
_deliveries = 0
_inside: list[int] = []
"""What was spent in stops inside the one that is running, so that nothing is counted twice."""


def install() -> None:
    """Wrap the stops of the embedded path."""
    import embedded.file
    from agents import emission, worker
    from bus import embedded as bus
    from bus import file_groups, file_subscription
    from contracts.codec import Codec
    from state_store import inbox, journal, ordinary

    for owner, name, stop in (
        (file_subscription, "read_windows", "receive"),
        (file_subscription, "record_of", "receive"),
        (worker, "read_envelope", "decode"),
        (Codec, "decode", "decode"),
        (Codec, "recorded", "decode"),
        (Codec, "decode_payload", "decode"),
        (ordinary, "claims", "fold"),
        (inbox.Inbox, "claim", "fold"),
        (inbox.Inbox, "start", "journal"),
        (journal.Journal, "intend", "journal"),
        (journal.Journal, "settle", "journal"),
        (emission.Emission, "sealed", "seal"),
        (ordinary, "draft", "commit"),
        (ordinary, "write", "commit"),
        (inbox.Inbox, "commit", "commit"),
        (embedded.file, "_commit_or_doubt", "flush"),
        (emission.Emission, "message", "publish"),
        (bus, "_append", "publish"),
        (inbox, "published", "acknowledge"),
        (file_groups, "commit", "acknowledge"),
    ):
        setattr(owner, name, _timed(getattr(owner, name), stop))
    worker.Worker.think = _decided(worker.Worker.think)  # type: ignore[method-assign]  # that is the point
    atexit.register(_write, Path(os.environ[VARIABLE]))


def _timed(function: Callable[..., Any], stop: str) -> Callable[..., Any]:
    """The function with its own time counted; coroutines of these stops wait for nothing but their transaction."""
    clock = time.perf_counter_ns if stop == "flush" else time.thread_time_ns

    def count(began: int) -> None:
        spent = clock() - began
        _spent_ns[stop] += spent - _inside.pop()
        if _inside:
            _inside[-1] += spent

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def timed_later(*arguments: Any, **named: Any) -> Any:
            began = clock()
            _inside.append(0)
            try:
                return await function(*arguments, **named)
            finally:
                count(began)

        return timed_later

    @functools.wraps(function)
    def timed(*arguments: Any, **named: Any) -> Any:
        began = clock()
        _inside.append(0)
        try:
            return function(*arguments, **named)
        finally:
            count(began)

    return timed


def _decided(think: Callable[..., Any]) -> Callable[..., Any]:
    """Deliveries are counted here; a role that takes steps waits in here for others, so only those that do not are timed."""
    timed = think if os.environ.get("GAVOTTE_BENCH_STEPS") else _timed(think, "decide")

    @functools.wraps(think)
    async def counted(*arguments: Any, **named: Any) -> Any:
        global _deliveries  # noqa: PLW0603  # one count for the process
        _deliveries += 1
        return await timed(*arguments, **named)

    return counted


def _write(into: Path) -> None:
    said = {"deliveries": _deliveries, "stops_ns": _spent_ns}
    (into / f"stops-{os.getpid()}.json").write_text(json.dumps(said))
