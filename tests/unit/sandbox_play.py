"""Plays one hostile program in a sandbox and says what it could do: in this process, or as a script under another user.

As a script it reads the scene as JSON on standard input and prints the outcome as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agents.tools.sandbox import Bubblewrap, LandlockSandbox, Limits, Sandbox, UnsafeSandbox

from agents.tools.environment import own_environment  # isort: skip
from contracts.errors import Refused

SECRET = "sk-canary-4711-of-the-harness"


def sandbox_named(name: str) -> Sandbox:
    """`landlock-owner-N`: as whoever we are, with the rights that Landlock's version N has."""
    if name == "bubblewrap":
        return Bubblewrap("/usr/bin/bwrap")
    if name == "landlock":
        return LandlockSandbox(kernel_abi())
    if name.startswith("landlock-owner-"):
        return LandlockSandbox(min(int(name.rpartition("-")[2]), kernel_abi()), give_up_root=False)
    return UnsafeSandbox()


def kernel_abi() -> int:
    from agents.tools import confinement

    return int(confinement.libc.syscall(confinement.LANDLOCK_CREATE, None, 0, 1))


async def play(scene: dict[str, Any]) -> dict[str, Any]:
    """Run `scene["program"]` and report how it ended, and whether anything outside changed."""
    os.environ["ANTHROPIC_API_KEY"] = SECRET
    with tempfile.TemporaryDirectory(prefix="gv-") as folder, contextlib.ExitStack() as opened:
        stage = Stage(Path(folder), opened)
        tree = stage.tree(scene.get("files", {}))
        before = stage.outside_state()
        outcome: dict[str, Any] = {"refused": None}
        try:
            ran = await sandbox_named(scene["sandbox"]).run(
                [str(own_environment().python), "-c", scene["program"]],
                tree=tree,
                environment=own_environment(),
                limits=Limits(**{"wall_seconds": 60, **scene.get("limits", {})}),
                env=stage.names(),
                collect_changes=scene.get("collect", False),
                report=scene.get("report"),
            )
        except Refused as error:
            outcome["refused"] = str(error)
        else:
            outcome |= {
                "exit_code": ran.exit_code,
                "timed_out": ran.timed_out,
                "output": ran.output,
                "output_truncated": ran.output_truncated,
                "duration_ms": ran.duration_ms,
                "changed": {name: [new.content.decode("latin-1"), new.executable] for name, new in ran.changed.items()},
                "deleted": list(ran.deleted),
                "report": None if ran.report is None else ran.report.decode("latin-1"),
            }
        outcome["outside_changed"] = before != stage.outside_state()
        outcome["heard"] = stage.heard()
        outcome["bystander_alive"] = stage.bystander.poll() is None
        outcome["tree_after"] = sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))
        return outcome


class Stage:
    """A canary, a folder anyone may write, listeners, and a process of the same user: all of it outside."""

    def __init__(self, root: Path, opened: contextlib.ExitStack) -> None:
        self.root = root
        self.outside = root / "outside"
        self.outside.mkdir()
        self.canary = self.outside / "canary"
        self.canary.write_text(SECRET)
        for path, mode in ((root, 0o755), (self.outside, 0o777), (self.canary, 0o666)):
            path.chmod(mode)
        self.tcp = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.udp = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.udp.bind(("127.0.0.1", 0))
        self.unix = opened.enter_context(socket.socket(socket.AF_UNIX))
        self.unix.bind(str(self.outside / "socket"))
        (self.outside / "socket").chmod(0o777)
        self.abstract = opened.enter_context(socket.socket(socket.AF_UNIX))
        self.abstract_name = f"gavotte-{os.getpid()}-{root.name}"
        self.abstract.bind(f"\0{self.abstract_name}")
        for server in (self.tcp, self.unix, self.abstract):
            server.listen()
        for listener in (self.tcp, self.udp, self.unix, self.abstract):
            listener.setblocking(False)
        self.bystander = opened.enter_context(subprocess.Popen(["cat"], stdin=subprocess.PIPE))  # ends when we do
        opened.callback(self.bystander.kill)

    def tree(self, files: dict[str, str]) -> Path:
        tree = self.root / "tree"
        tree.mkdir(mode=0o755)
        for name, content in files.items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content.startswith("-> "):
                path.symlink_to(content[3:])
            else:
                path.write_text(content)
        return tree

    def names(self) -> dict[str, str]:
        return {
            "OUTSIDE": str(self.outside),
            "CANARY": str(self.canary),
            "PORT": str(self.tcp.getsockname()[1]),
            "UDP_PORT": str(self.udp.getsockname()[1]),
            "ABSTRACT": self.abstract_name,
            "HARNESS": str(os.getpid()),
            "BYSTANDER": str(self.bystander.pid),
        }

    def outside_state(self) -> list[Any]:
        facts = self.canary.stat()
        return [
            sorted(path.name for path in self.outside.iterdir()),
            self.canary.read_text(),
            facts.st_mode,
            facts.st_mtime_ns,
            facts.st_nlink,
            facts.st_uid,
        ]

    def heard(self) -> list[str]:
        found = []
        for name, server in (("tcp", self.tcp), ("unix", self.unix), ("abstract", self.abstract)):
            with contextlib.suppress(BlockingIOError):
                server.accept()[0].close()
                found.append(name)
        with contextlib.suppress(BlockingIOError):
            self.udp.recv(100)
            found.append("udp")
        return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(play(json.load(sys.stdin)))))
