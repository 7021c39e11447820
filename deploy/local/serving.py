"""What the servers of this folder have in common: how they fail, where they listen, how they run in the foreground."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Final, Protocol, TypeVar

PORTS: Final = (15_000, 30_000)
"""Below the ephemeral ports: nothing else takes a port while its server restarts, and no client meets itself there."""
LACKING: Final = 3
"""The exit code where this machine lacks the program; `up.py` passes over it."""


class Lacking(RuntimeError):
    """This machine lacks a program that a server needs; the message names it and how to get it."""


class Failed(RuntimeError):
    """A server or one of its tools did not do what it was asked; the message ends with its own last words."""


class Server(Protocol):
    """What can be told of one that runs."""

    def environment(self) -> Mapping[str, str]:
        """The GAVOTTE_* variables with which Gavotte uses it."""
        ...


S = TypeVar("S", bound=Server)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    for _ in range(200):
        port = random.randrange(*PORTS)  # noqa: S311  # no secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise Failed("no port is free")


def if_free(port: int) -> int | None:
    """The port, where a server could listen on it now."""
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return port
    return None


def foreground(name: str, start: Callable[[contextlib.ExitStack], S], said: Callable[[S], str]) -> int:
    """Run one server until SIGINT or SIGTERM, and print the settings that use it; returns the exit code.

    `start` enters what has to be ended into the stack; `said` is a word about the server that runs.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        try:
            server = start(stack)
        except (Lacking, Failed) as error:
            print(f"{name}  {error}", file=sys.stderr)
            return LACKING if isinstance(error, Lacking) else 1
        for variable, value in server.environment().items():
            print(f"{variable}={value}", flush=True)
        print(f"{name}  {said(server)}; Ctrl-C ends it", file=sys.stderr)
        signal.pause()
    return 0
