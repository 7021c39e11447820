"""Asks the person at the terminal, without a thread: Ctrl-C and a deadline end the question at once."""

from __future__ import annotations

import asyncio
import os
import sys


async def ask(question: str, timeout_seconds: float | None = None) -> str | None:
    """The line that was typed, without its end; None where stdin was closed. Raises TimeoutError when nobody answers."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[bytes] = loop.create_future()
    stdin = sys.stdin.fileno()

    def read() -> None:
        if not answered.done():
            answered.set_result(os.read(stdin, 4096))

    sys.stdout.write(question)
    sys.stdout.flush()
    loop.add_reader(stdin, read)
    try:
        async with asyncio.timeout(timeout_seconds):
            typed = await answered
    finally:
        loop.remove_reader(stdin)
    return typed.decode("utf-8", "replace").splitlines()[0].strip() if typed.strip() else "" if typed else None
