"""`up` and `agent`: the processes of the dance."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from console.cli.call import EXIT_FAILED, Call, command
from console.cli.output import coloured, put, say, styled, warn
from console.harmless import clipped


def add_to(app: typer.Typer) -> None:
    """Put these commands into the program."""
    command(app)(up)
    command(app)(agent)


async def up(
    call: Call,
    roles: Annotated[str, typer.Option(metavar="ROLE,ROLE", help="Only these of the four roles.")] = "",
    scale: Annotated[
        list[str] | None, typer.Option(metavar="ROLE=N", help="So many processes of a role; may be repeated.")
    ] = None,
    also: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="A further agent's file; may be repeated.")
    ] = None,
    alarms: Annotated[
        bool, typer.Option("--alarms/--no-alarms", help="Say what looks wrong, as gavotte alarms --follow does.")
    ] = True,
) -> int:
    """Run the four agents, each a process of its own, until Ctrl-C; what dies is started again."""
    from console.acts import enrol
    from console.supervise import Crew, Member, posts

    wanted = posts([role for role in roles.split(",") if role], scales(scale or []), also or [])
    settings = call.settings.make_folders()

    def notice(what: str, member: Member, words: str) -> None:
        with whoever_listens():
            if what == "ready":
                put(f"{styled('ready', 'green')} {member.post.name} {member.pid} {words}".rstrip())
            else:
                warn(f"{member.post.name} {clipped(words, 500)}")

    enrol(settings)
    with stop_signals() as stopped:
        async with Crew(settings, wanted, notice) as crew:
            put(f"data  {settings.data}")
            stopping = asyncio.create_task(stopped.wait())
            failing = asyncio.create_task(crew.failed.wait())
            watching = asyncio.create_task(_say_alarms(call) if alarms else asyncio.sleep(0))
            await asyncio.wait({stopping, failing}, return_when=asyncio.FIRST_COMPLETED)
            failed = crew.failed.is_set() and not stopped.is_set()
            for waiting in (stopping, failing, watching):
                waiting.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            with whoever_listens():
                put("\nstopping" if coloured() else "stopping")
    with whoever_listens():
        put("stopped")
        if failed:
            warn(f"{clipped(crew.failure, 500)}; look into {settings.logs}")
    return EXIT_FAILED if failed else 0


async def _say_alarms(call: Call) -> None:
    """The watcher beside the agents. They do not know of it, and go on where it ends."""
    from console.alarms import follow
    from console.cli.alarms import line

    try:
        async with contextlib.aclosing(follow(await call.runtime(create=True))) as looks:
            async for raised, over in looks:
                for alarm in raised:
                    warn(line("raised", alarm))
                for alarm in over:
                    say(line("over", alarm))
    except Exception as error:  # noqa: BLE001  whatever is wrong with the watcher is nothing to the agents
        warn(f"no alarms from now on: {clipped(str(error), 500)}")


async def agent(
    call: Call,
    role: Annotated[str, typer.Argument(help="planning, coding, review, deploy, or the file of a further agent.")],
) -> int:
    """Run one agent in the foreground, as a container does."""
    from agents.wiring import run_agent

    return await run_agent(call.settings, role)


def scales(words: list[str]) -> dict[str, int]:
    """`coding=2` words as counts; raises Usage."""
    from console.acts import pairs
    from contracts.errors import Usage

    found = {}
    for role, number in pairs(words).items():
        if not number.isdecimal() or not 1 <= int(number) <= 64:
            raise Usage(f"--scale {role}={number}: a number from 1 to 64 is needed", hint="--scale coding=2")
        found[role] = int(number)
    return found


@contextlib.contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """An event that Ctrl-C, SIGTERM and the loss of the terminal set, instead of ending the program where it stands."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` has it
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stopped.set)
    try:
        yield stopped
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def whoever_listens() -> Iterator[None]:
    """Whoever keeps others alive goes on when nobody reads what it says: the terminal was closed, or a pipe."""
    try:
        yield
    except OSError:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
