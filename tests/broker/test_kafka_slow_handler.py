"""A handler that outlives the poll interval, a rolling restart of the others and of the broker is run once.

`GAVOTTE_SLOW_POLL_SECONDS=30 GAVOTTE_SLOW_HANDLER_SECONDS=90` run it in full length.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local.kafka import Kafka

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
POLL_SECONDS = float(os.environ.get("GAVOTTE_SLOW_POLL_SECONDS", "3"))
HANDLER_SECONDS = float(os.environ.get("GAVOTTE_SLOW_HANDLER_SECONDS", str(2 * POLL_SECONDS)))


class Dozers:
    """Processes of one role, by instance name, and what they say."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.folder = folder
        self.journal = folder / "journal"
        self.journal.touch()
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GAVOTTE_")}
        self.environ = (
            clean
            | environ
            | {
                "GAVOTTE_DATA": str(folder / "data"),
                "XDG_CONFIG_HOME": str(folder),
                "GAVOTTE_BUS__POLL_INTERVAL_SECONDS": str(POLL_SECONDS),
                "GAVOTTE_BUS__SESSION_SECONDS": "4",
                "SLOW_JOURNAL": str(self.journal),
                "SLOW_RELEASE": str(folder / "release"),
                "PYTHONPATH": str(ROOT),
            }
        )
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, instance: str) -> None:
        """Start one and wait until it listens."""
        agent = str(ROOT / "tests" / "broker" / "slow_agent.py")
        log = (self.folder / f"{instance}.log").open("ab")
        with log:
            self.running[instance] = started = subprocess.Popen(
                [sys.executable, "-P", "-m", "agents", agent, instance],
                env=self.environ,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert started.stdout is not None
        assert started.stdout.readline().startswith(b"ready dozing"), self.said(instance)
        started.stdout.close()

    def stop(self, instance: str) -> None:
        """End one in order."""
        process = self.running.pop(instance)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, self.said(instance)

    def said(self, instance: str) -> str:
        return (self.folder / f"{instance}.log").read_text()[-3000:]

    def gavotte(self, *words: str) -> str:
        done = subprocess.run(
            [BIN / "gavotte", *words],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def notes(self) -> list[str]:
        return self.journal.read_text().splitlines()


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.05)


@pytest.fixture
def broker(kafka: Kafka, tmp_path: Path) -> Iterator[Kafka]:
    """A broker that this test may restart."""
    with Kafka(tmp_path / "kafka") as made:
        yield made


@pytest.fixture
def dozers(broker: Kafka, tmp_path: Path) -> Iterator[Dozers]:
    made = Dozers(tmp_path, broker.environment())
    yield made
    for process in made.running.values():
        process.kill()
        process.wait()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Something to submit a task about."""
    found = tmp_path / "repository"
    found.mkdir()
    (found / "a.py").write_text("x = 1\n")
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (("init", "-q"), ("add", "-A"), (*who, "commit", "-qm", "x")):
        subprocess.run(["git", "-C", str(found), *words], check=True)
    return found


@pytest.mark.timeout(HANDLER_SECONDS + 180)
def test_a_long_handler_is_run_once(broker: Kafka, dozers: Dozers, repository: Path) -> None:
    for instance in "abc":
        dozers.start(instance)
    dozers.gavotte(
        "submit",
        "--repo",
        str(repository),
        "--author",
        "command",
        "--command",
        "true",
        "--title",
        "t",
    )
    wait_until(lambda: bool(dozers.notes()), "the handler began")
    began = time.monotonic()
    busy = int(dozers.notes()[0].split()[1])
    for instance in [name for name, process in dozers.running.items() if process.pid != busy]:
        dozers.stop(instance)
        dozers.start(instance)
    broker.restart()
    until = began + HANDLER_SECONDS
    wait_until(
        lambda: time.monotonic() > until,
        "the time of the handler",
        HANDLER_SECONDS + 60,
    )
    assert dozers.notes() == [f"begin {busy}"]
    (dozers.folder / "release").touch()
    wait_until(lambda: len(dozers.notes()) > 1, "the handler ended")

    def recorded() -> list[str]:
        return [json.loads(line)["type"] for line in dozers.gavotte("log", "--all", "--json").splitlines()]

    wait_until(lambda: "DozedOff" in recorded(), "its event was recorded")
    groups = (
        "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
        "--bootstrap-server",
        broker.servers,
    )

    def lags() -> set[str]:
        told = broker.tool(*groups, "--describe", "--group", "gavotte.dozing").splitlines()
        rows = [line.split() for line in told if line.startswith("gavotte.dozing")]
        return {row[5] for row in rows} - {"-"}  # of partitions in which nothing lies

    # where the broker was away for longer than a session, others have its record by now, and are the ones to acknowledge it
    wait_until(lambda: lags() == {"0"}, "all was acknowledged")
    for instance in list(dozers.running):
        dozers.stop(instance)
    assert dozers.notes() == [f"begin {busy}", f"end {busy}"]
    assert recorded() == ["TaskSubmitted", "DozedOff"]
