"""An operator's night: folders that go, terminals that close, disks that fill, limits that bite; never a traceback."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.commands import (
    FIX,
    GAVOTTE,
    PATIENCE_SECONDS,
    ROOT,
    SPLIT,
    Person,
    alive,
    ready_pids,
    repository,
    until,
)

GREEN = "from money import split\n\n\ndef test_even() -> None:\n    assert split(900, 3) == [300, 300, 300]\n"


@pytest.fixture
def ann(tmp_path: Path) -> Person:
    return Person(tmp_path / "ann")


def repo(ann: Person) -> str:
    return str(repository(ann.home / "repo", {"money.py": SPLIT, "test_money.py": GREEN}))


def four(ann: Person) -> list[int]:
    """The pids of the agents once all have said that they are ready."""
    return list(until(lambda: len(pids := ready_pids(ann.heard())) == 4 and pids).values())


def test_agents_leave_a_folder_that_was_deleted(ann: Person) -> None:
    with ann.starts("up") as up:
        agents = four(ann)
        shutil.rmtree(ann.data)
        assert up.wait(PATIENCE_SECONDS) == 1
    assert "was removed or replaced while agents ran on it" in ann.heard()
    assert "Traceback" not in ann.heard()
    assert not any(map(alive, agents))
    assert not ann.data.exists(), "nothing made the folder again"


def test_a_lost_terminal_stops_the_agents_in_order(ann: Person) -> None:
    with ann.sits_at("up") as terminal:
        until(lambda: terminal._reads() and terminal.text.count("ready") == 4)
        pids = [int(line.split()[2]) for line in terminal.text.splitlines() if "ready" in line]
        until(lambda: said_in_logs(ann, "gained partitions") == 4)
        os.close(terminal.controller)  # the window is closed: SIGHUP
        assert terminal.process.wait(PATIENCE_SECONDS) == 0
        terminal.controller = os.open(os.devnull, os.O_RDWR)
    assert not any(map(alive, pids))
    assert said_in_logs(ann, "gives up partitions") == 4, "each left in order"


def said_in_logs(ann: Person, words: str) -> int:
    return sum(path.read_text().count(words) for path in (ann.data / "logs").glob("*.log"))


def test_agents_are_kept_alive_when_nobody_reads_what_up_says(ann: Person) -> None:
    up = subprocess.Popen([*GAVOTTE, "up"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ann.environ)
    assert up.stdout is not None
    try:
        assert up.stdout.readline().startswith(b"data")
        first = {ready_pids(up.stdout.readline().decode()).popitem()[1] for _ in range(4)}
        up.stdout.close()
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        until(lambda: len(set(children(up.pid)) - first) == 4)
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.wait(PATIENCE_SECONDS) == 0


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def limited(kind: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(kind, (value, value))


def says_under(ann: Person, limit: Callable[[], None], *words: str, stdin: str = "") -> tuple[int, str]:
    done = subprocess.run(
        [*GAVOTTE, *words], input=stdin.encode(), capture_output=True, check=False, env=ann.environ, cwd=ann.home,
        preexec_fn=limit, timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    said = (done.stdout + done.stderr).decode()
    assert "Traceback" not in said
    assert "unexpected" not in said
    return done.returncode, said


def test_few_files_and_small_files_are_said(ann: Person) -> None:
    path = repo(ann)
    submit = ("submit", "--repo", path, "--patch", "-")
    code, said = says_under(ann, limited(resource.RLIMIT_FSIZE, 100_000), *submit, stdin=FIX)
    assert (code, "try:" in said) == (5, True), said
    code, said = says_under(ann, limited(resource.RLIMIT_NOFILE, 14), *submit, stdin=FIX)
    assert (code, "ulimit -n" in said) == (5, True), said
    assert ann.says(*submit, stdin=FIX).returncode == 0, "nothing was left broken"
    assert len(ann.told("tasks")) == 1


def test_no_secret_of_the_environment_reaches_record_or_logs(ann: Person) -> None:
    secrets = {"ANTHROPIC_API_KEY": "sk-ant-canary-1", "AWS_SECRET_ACCESS_KEY": "canary-2"}
    secrets |= {"GAVOTTE_BUS__PASSWORD": "canary-3", "GAVOTTE_REGISTRY__TOKEN": "canary-4"}
    ann.environ |= secrets | {"GAVOTTE_MODEL__PROVIDER": "none", "GAVOTTE_LOG__LEVEL": "debug"}
    command = "sh -c 'env; cat /proc/*/environ; echo \"# seen\" >> money.py'"
    with ann.starts("up"):
        task = ann.told("submit", "--repo", repo(ann), "--command", command)["task_id"]
        ann.waits_for(task, "waiting")
        said = [ann.says(*words).stdout for words in (("config", "show"), ("doctor",), ("steps", task, "--json"))]
    assert "LOGNAME=sandbox" in said[-1], "the command did look"
    written = b"".join(path.read_bytes() for path in ann.home.rglob("*") if path.is_file())
    assert b"canary" not in written
    assert "canary" not in "".join(said)


def test_ctrl_c_while_it_loads_is_silent(ann: Person) -> None:
    """The program interrupts itself on its way to its first line."""
    program = (
        "import os, signal, sys\n"
        "from console.cli import start\n"
        "def interrupt(event, arguments):\n"
        "    if event == 'import' and arguments[0] == 'console.cli.acts': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.addaudithook(interrupt)\n"
        "sys.exit(start.main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "tasks"], capture_output=True, check=False, env=ann.environ, cwd=ROOT
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")
