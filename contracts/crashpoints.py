"""Named places where a test lets the process die, so that a crash between two writes is tried on purpose.

`GAVOTTE_CRASHPOINT=store.commit.after` kills this process with SIGKILL the first time it comes by; `...:3` the third
time. Without the variable a crash point costs one comparison. `STORE_WRITES` and `OTHERS` list every name; a test
holds the list to the code.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Final

VARIABLE: Final = "GAVOTTE_CRASHPOINT"

STORE_WRITES: Final = (
    "append",
    "clean_partitions",
    "commit",
    "effect_intent",
    "effect_receipt",
    "effect_withdraw",
    "forgive",
    "mark_partitions",
    "prune_journal",
    "published",
    "put_body",
    "put_project",
    "rebuild_views",
    "register_agent",
    "renew",
    "reopen",
    "start",
    "step_intent",
    "step_outcome",
    "sweep_mark",
)
"""Every write of the store has a point `store.<write>.before` and one `store.<write>.after` its transaction."""

OTHERS: Final = (
    "store.body_file.before",
    "store.body_file.after",
    "worker.acknowledge.before",
    "worker.acknowledge.after",
    "worker.commit.before",
    "worker.commit.after",
    "worker.publish.before",
    "worker.publish.after",
)
"""Crash points outside the store's transactions."""

NAMES: Final = frozenset(OTHERS) | {f"store.{write}.{side}" for write in STORE_WRITES for side in ("before", "after")}


def _chosen(text: str) -> tuple[str, int]:
    name, _, nth = text.partition(":")
    if name and name not in NAMES:
        raise SystemExit(f"{VARIABLE}={text}: no crash point is called {name}")
    return name, int(nth or 1)


_target, _left = _chosen(os.environ.get(VARIABLE, ""))
_observer: Callable[[str], None] | None = None


def crashpoint(name: str) -> None:
    """Die here, if this is the chosen point and its turn has come."""
    global _left  # noqa: PLW0603  # one countdown for the whole process is the point
    if _observer is not None:
        _observer(name)
    if name != _target:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def observe(observer: Callable[[str], None] | None) -> None:
    """Have every crash point announced to this function (a simulation raises there); None ends it."""
    global _observer  # noqa: PLW0603  # as above
    _observer = observer
