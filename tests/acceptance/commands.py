"""What the acceptance tests share: a person's account with a data folder, and repositories to work on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import sqlite3
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
GAVOTTE = [sys.executable, "-P", "-m", "console.cli.main"]
PATIENCE_SECONDS = 150.0

SPLIT = '''"""Amounts of money in whole cents."""


def split(cents: int, people: int) -> list[int]:
    return [cents // people] * people
'''
TESTS = """from money import split


def test_even() -> None:
    assert split(900, 3) == [300, 300, 300]


def test_no_cent_is_lost() -> None:
    assert sum(split(10000, 3)) == 10000
"""
FIX = """--- a/money.py
+++ b/money.py
@@ -2,4 +2,5 @@


 def split(cents: int, people: int) -> list[int]:
-    return [cents // people] * people
+    share, rest = divmod(cents, people)
+    return [share + 1] * rest + [share] * (people - rest)
""".replace("\n\n\n def", "\n \n \n def")


@dataclass
class Person:
    """Somebody at a machine: a home of their own, a data folder, and the `gavotte` command."""

    home: Path
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home.mkdir(exist_ok=True)
        self.environ = {
            name: value for name, value in os.environ.items() if not name.startswith(("ANTHROPIC_", "GAVOTTE_", "XDG_"))
        }
        self.environ |= {
            "HOME": str(self.home),
            "GAVOTTE_DATA": str(self.data),
            "NO_COLOR": "1",
            "PYTHONPATH": str(ROOT),
        }

    @property
    def data(self) -> Path:
        return self.home / "data"

    def says(self, *words: str, stdin: str | bytes = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, into pipes."""
        raw = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [*GAVOTTE, *words], input=raw, capture_output=True, check=False, env=self.environ, cwd=cwd or self.home,
            timeout=PATIENCE_SECONDS * 2,
        )  # fmt: skip
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def told(self, *words: str, **how: Any) -> Any:
        """The JSON that a successful command prints."""
        done = self.says(*words, "--json", **how)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def lines(self, *words: str) -> list[dict[str, Any]]:
        """The JSON lines that a successful command prints."""
        done = self.says(*words, "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    @contextlib.contextmanager
    def starts(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command beside the test; it is interrupted at the end, and must leave by itself."""
        with (self.home / "beside.out").open("ab") as out:
            process = subprocess.Popen(
                [*GAVOTTE, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.environ, cwd=self.home
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise

    @contextlib.contextmanager
    def sits_at(self, *words: str) -> Iterator[Terminal]:
        """Run a command at a terminal of its own; it is killed at the end if it still runs."""
        controller, terminal = pty.openpty()
        environ = {name: value for name, value in self.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
        process = subprocess.Popen(
            [*GAVOTTE, *words], stdin=terminal, stdout=terminal, stderr=terminal, env=environ, cwd=self.home,
            start_new_session=True, preexec_fn=_take_terminal,  # noqa: PLW1509  there is no other thread
        )  # fmt: skip
        os.close(terminal)
        try:
            yield Terminal(controller, process)
        finally:
            process.kill()
            process.wait()
            os.close(controller)

    def heard(self) -> str:
        """What the commands beside the test have printed."""
        return (self.home / "beside.out").read_text()

    def waits_for(self, task_id: str, status: str) -> dict[str, Any]:
        """The task once it has this status."""
        until(lambda: self.status(task_id) == status)
        found: dict[str, Any] = self.told("show", task_id)
        return found

    def status(self, task_id: str) -> str:
        """Where the task stands, read past the command line: a process for each look would be most of the work."""
        with contextlib.closing(self.reads()) as connection:
            row = connection.execute("SELECT status FROM tasks WHERE task_id = ?", (task_id,)).fetchone()
        return str(row[0]) if row else ""

    def reads(self) -> sqlite3.Connection:
        """The store, for reading alone."""
        return sqlite3.connect(f"file:{self.data / 'gavotte.db'}?mode=ro", uri=True)


@dataclass
class Terminal:
    """The person's side of a terminal, and all that appeared on it."""

    controller: int
    process: subprocess.Popen[bytes]
    seen: bytes = b""

    @property
    def text(self) -> str:
        return self.seen.decode("utf-8", "replace")

    def sees(self, wanted: str) -> None:
        """Wait until a text appears."""
        until(lambda: wanted in self.text or not self._reads())
        assert wanted in self.text, self.text

    def types(self, keys: str) -> None:
        """Press keys."""
        os.write(self.controller, keys.encode())

    def ends(self) -> int:
        """Wait for the command's end; its exit code."""
        until(lambda: not self._reads() and self.process.poll() is not None)
        return self.process.returncode

    def _reads(self) -> bool:
        """Take in what is there; False once the other side is gone."""
        if not select.select([self.controller], [], [], 0.1)[0]:
            return True
        try:
            self.seen += os.read(self.controller, 65536)
        except OSError:  # the last process on the other side has left
            return False
        return True


def _take_terminal() -> None:
    """Make standard input the controlling terminal, so that Ctrl-C is a signal, and its loss one, too."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may ignore it, as `nohup` does
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def until(condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """What the condition gives once it holds."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def ready_pids(text: str) -> dict[str, int]:
    """The newest pid of each agent, from the lines of `up`."""
    lines = [line.split() for line in text.splitlines() if line.startswith("ready ")]
    return {name: int(pid) for _, name, pid in lines}


def git(repository: Path, *words: str) -> str:
    """One git command, by somebody without a configuration."""
    env = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for who in ("AUTHOR", "COMMITTER"):
        env |= {f"GIT_{who}_NAME": "Ann", f"GIT_{who}_EMAIL": "ann@example.org"}
    return subprocess.run(
        ["git", "-C", str(repository), *words], check=True, capture_output=True, text=True, env=env
    ).stdout


def repository(at: Path, files: dict[str, str] | None = None) -> Path:
    """A repository with one commit."""
    at.mkdir(parents=True)
    for name, text in ({"money.py": SPLIT, "test_money.py": TESTS} if files is None else files).items():
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_text(text)
    git(at, "init", "--quiet", "--initial-branch=main")
    git(at, "add", "--all")
    git(at, "commit", "--quiet", "--message", "first")
    return at
