"""Runs a command over a copy of a tree where it can reach nothing else: the one door for code that is not ours.

Here are the port, the choice and the probe. Bubblewrap (namespaces of its own) comes first, then Landlock with seccomp
(weaker: it shares the host's process table and temporary disk); without either, code is not run, unless a person says so
for this once. A backend is used only after a probe has shown that it holds.
"""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from agents.tools import confinement
from agents.tools.changes import Changed
from agents.tools.contained import DEFAULT_LIMITS, Limits, Ran
from agents.tools.environment import Environment, find_environment, own_environment
from agents.tools.walls import REPORT, Bubblewrap, LandlockSandbox, UnsafeSandbox
from contracts.errors import Refused

__all__ = [
    "DEFAULT_LIMITS",
    "REPORT",
    "Bubblewrap",
    "Changed",
    "Environment",
    "Kind",
    "LandlockSandbox",
    "Limits",
    "Ran",
    "Sandbox",
    "Survey",
    "UnsafeSandbox",
    "choose_sandbox",
    "find_environment",
    "survey",
]

INSTALL_HINT = "apt install bubblewrap (or your distribution's package of that name)"
BWRAP_OLDEST = (0, 8)

Kind = Literal["auto", "bubblewrap", "landlock"]


class Sandbox(Protocol):
    """Runs `argv` in a copy of `tree`; raises Refused where it cannot contain it, and then has not run it."""

    @property
    def name(self) -> str: ...

    @property
    def strength(self) -> str:
        """`strong`, `weaker` or `none`."""

    async def run(
        self,
        argv: Sequence[str],
        *,
        tree: Path,
        environment: Environment,
        limits: Limits = DEFAULT_LIMITS,
        env: Mapping[str, str] = {},
        collect_changes: bool = False,
        report: str | None = None,
    ) -> Ran: ...


PROBE = """
import os, socket, sys
held = []
port, outside, canary = int(sys.argv[1]), sys.argv[2], sys.argv[3]
def must_fail(name, act):
    try:
        act()
    except OSError:
        held.append(name)
must_fail("tcp", lambda: socket.create_connection(("127.0.0.1", port), 2))
must_fail("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 9)))
must_fail("write", lambda: open(outside, "w").write("x"))
must_fail("read", lambda: print(open(canary).read()))
open("inside", "w").write("x")
print("held:" + ",".join(held) + ":" + open("inside").read())
"""


@dataclass(frozen=True, slots=True)
class Survey:
    """What this machine has: the sandbox that would be used, and why a stronger one is not."""

    chosen: Sandbox | None
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.chosen.name if self.chosen else "none"

    @property
    def strength(self) -> str:
        return self.chosen.strength if self.chosen else "none"


_surveyed: dict[Kind, Survey] = {}


async def choose_sandbox(kind: Kind = "auto", *, allow_unsafe: bool = False) -> Sandbox:
    """The strongest sandbox of this kind whose probe held, looked for once per process; Refused where there is none.

    `allow_unsafe` is a person's explicit word for this run: then, and only if nothing holds, there are no walls.
    """
    found = await survey(kind)
    if found.chosen is not None:
        return found.chosen
    if allow_unsafe:
        return UnsafeSandbox()
    said = "no sandbox on this machine holds" if kind == "auto" else f"the sandbox {kind}, which is set, does not hold"
    raise Refused(f"{said}: {'; '.join(found.notes)}", hint=INSTALL_HINT, code="sandbox_unavailable")


async def survey(kind: Kind = "auto") -> Survey:
    """Probe the backends, strongest first, until one holds. The answer is kept for the life of the process."""
    if kind not in _surveyed:
        _surveyed[kind] = await _survey(kind)
    return _surveyed[kind]


async def _survey(kind: Kind) -> Survey:
    notes: list[str] = []
    if sys.platform != "linux":
        return Survey(None, (f"{sys.platform} is not supported, Linux or WSL2 is needed",))
    finders: dict[str, Callable[[], Awaitable[Sandbox]]] = {"bubblewrap": find_bubblewrap, "landlock": find_landlock}
    for find in finders.values() if kind == "auto" else (finders[kind],):
        try:
            sandbox = await find()
            await probe(sandbox)
        except Refused as error:
            notes.append(error.message)
        else:
            return Survey(sandbox, tuple(notes))
    return Survey(None, tuple(notes))


async def find_bubblewrap() -> Bubblewrap:
    executable = shutil.which("bwrap")
    if executable is None:
        raise Refused("bubblewrap is not installed", hint=INSTALL_HINT, code="sandbox_unavailable")
    process = await asyncio.create_subprocess_exec(
        executable, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env={}
    )
    said = (await process.communicate())[0].decode("utf-8", "replace").strip()
    numbers = re.search(r"(\d+)\.(\d+)", said)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < BWRAP_OLDEST:
        raise Refused(f"{said or executable} is too old, 0.8 is needed", hint=INSTALL_HINT, code="sandbox_unavailable")
    return Bubblewrap(executable)


async def find_landlock() -> LandlockSandbox:
    abi = confinement.libc.syscall(confinement.LANDLOCK_CREATE, None, 0, 1)
    if abi < 1:
        raise Refused("the kernel offers no Landlock", hint=INSTALL_HINT, code="sandbox_unavailable")
    return LandlockSandbox(abi)


async def probe(sandbox: Sandbox) -> None:
    """Run a command that must fail to connect, to write outside and to read a canary; Refused if anything gave way."""
    secret = f"canary-{random.SystemRandom().getrandbits(64):x}"
    with tempfile.TemporaryDirectory(prefix="gavotte-probe-") as folder:
        root = Path(folder)
        tree, outside, canary = root / "tree", root / "outside", root / "canary"
        tree.mkdir()
        canary.write_text(secret, encoding="utf-8")
        for path, mode in ((root, 0o777), (tree, 0o755), (canary, 0o644)):
            path.chmod(mode)  # so that it is the sandbox that refuses, and not the owner's rights
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        try:
            port = server.sockets[0].getsockname()[1]
            ran = await sandbox.run(
                [str(own_environment().python), "-I", "-c", PROBE, str(port), str(outside), str(canary)],
                tree=tree,
                environment=own_environment(),
                limits=Limits(wall_seconds=20),
            )
        finally:
            server.close()
        if "held:tcp,udp,write,read:x" not in ran.output or secret in ran.output or outside.exists():
            raise Refused(
                f"{sandbox.name} does not hold: {ran.output.strip()[-300:] or f'exit code {ran.exit_code}'}",
                hint=INSTALL_HINT,
                code="sandbox_unavailable",
            )
