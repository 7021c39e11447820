"""The whole dance with its record in PostgreSQL: through the command line, under the login of each role, over a crash."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.kafka import Kafka
from deploy.local.postgres import Postgres
from state_store.postgres.grants import apply, logins
from state_store.postgres.migrations import start_over
from tests.acceptance.commands import FIX, Person, repository, until

ROLES = ("planning", "coding", "review", "deploy")
PASSWORDS = {login.role: f"secret-of-{login.role}" for login in logins()}


def person(home: Path, url: str) -> Person:
    """Somebody whose settings name a database."""
    made = Person(home)
    made.environ |= {
        "GAVOTTE_STORE__BACKEND": "postgres",
        "GAVOTTE_STORE__URL": url,
        "GAVOTTE_WORKER__SWEEP_SECONDS": "2",
    }
    return made


def as_role(postgres: Postgres, url: str, role: str) -> str:
    """The address with the login of a role."""
    return postgres.url_of(f"gavotte_{role}", PASSWORDS[role]) + "?" + url.partition("?")[2]


def submitted(ann: Person) -> str:
    """A task by a patch; its id."""
    patch = ann.home / "fix.patch"
    patch.write_text(FIX)
    repo = repository(ann.home / "shop")
    words = ("submit", "--repo", str(repo), "--author", "patch", "--patch", str(patch), "--title", "Lose no cent")
    task_id: str = ann.told(*words)["task_id"]
    return task_id


def stands(ann: Person, task_id: str, status: str) -> bool:
    return bool(ann.told("show", task_id)["status"] == status)


def test_the_demo_dances_on_kafka_and_postgres(kafka: Kafka, postgres: Postgres, tmp_path: Path) -> None:
    ann = Person(tmp_path / "ann")
    ann.environ |= kafka.environment() | postgres.environment() | {"GAVOTTE_BUS__PREFIX": "both."}
    done = ann.says("demo", "--bus", "kafka", "--store", "postgres", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "one unbroken lineage, 4 processes" in done.stdout
    ann.environ = {name: value for name, value in ann.environ.items() if not name.startswith("GAVOTTE_")}
    seen = ann.says("audit", "verify", "--data", str(ann.home / ".demo"))
    assert seen.stderr == "11 events, 0 faults\n"


@contextlib.contextmanager
def agents(ann: Person, urls: dict[str, str]) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """The four, each with an address of its own."""
    running = {}
    for role, url in urls.items():
        command = [sys.executable, "-P", "-m", "agents", role]
        running[role] = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=ann.environ | {"GAVOTTE_STORE__URL": url}
        )
    try:
        for process in running.values():
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready ")
        yield running
    finally:
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        for process in running.values():
            process.communicate(timeout=30)


def test_every_command_works_under_logins_that_may_only_read_and_add_events(postgres: Postgres, tmp_path: Path) -> None:
    url = asyncio.run(start_over(postgres.url, "least_rights"))
    asyncio.run(apply(url, logins(), PASSWORDS))
    ann = person(tmp_path / "ann", as_role(postgres, url, "operator"))
    assert "gavotte_operator may write" in ann.says("store", "check").stdout
    with agents(ann, {role: as_role(postgres, url, role) for role in ROLES}) as running:
        task_id = submitted(ann)
        until(lambda: stands(ann, task_id, "waiting"))
        assert "waits for a person to approve" in ann.says("why", task_id).stdout
        assert ann.says("kill", "--all", "--reason", "a look").returncode == 0
        assert ann.says("doctor").returncode == 0
        assert ann.says("lift", "--all").returncode == 0, ann.says("lift", "--help").stdout
        assert ann.says("approve", task_id, "--yes").returncode == 0
        until(lambda: stands(ann, task_id, "succeeded"))
        assert all(process.poll() is None for process in running.values())
    assert [row["task_id"] for row in ann.told("tasks")] == [task_id]
    types = [event["type"] for event in ann.lines("log", task_id)]
    assert types[0] == "TaskSubmitted"
    assert types[-1] == "TaskSucceeded"
    assert ann.says("dlq", "list").returncode == 0
    assert ann.says("rebuild").stdout == "rebuilt the views of 1 task\n"
    assert ann.says("prune").returncode == 0
    assert ann.says("config", "check").returncode == 0
    export = ann.home / "proof"
    assert ann.says("audit", "export", "--to", str(export)).returncode == 0
    assert "0 faults" in ann.says("audit", "verify", "--against", str(export)).stderr
    assert ann.says("store", "migrate").returncode == 4, "an operator is no owner"
    assert "secret" not in ann.says("config", "show").stdout


def test_a_server_that_crashes_under_the_dance_only_delays_it(tmp_path: Path) -> None:
    with Postgres(durable=False) as server:
        ann = person(tmp_path / "ann", asyncio.run(start_over(server.url, "crashes")))
        with ann.starts("up"):
            until(lambda: ann.heard().count("ready ") == 4)
            task_id = submitted(ann)
            for step in ("planned", "reviewed", "awaiting_approval"):
                server.kill()
                server.start()
                until(lambda step=step: reached(ann, task_id, step))  # type: ignore[misc]  # mypy on defaults
            server.restart()
            assert ann.says("approve", task_id, "--yes").returncode == 0
            until(lambda: stands(ann, task_id, "succeeded"))
        assert ann.says("audit", "verify").stderr.endswith(" 0 faults\n")
        assert len({event["event_id"] for event in ann.lines("log", task_id)}) == len(ann.lines("log", task_id))


STEPS = ("submitted", "planned", "proposed", "reviewed", "staged", "awaiting_approval")


def reached(ann: Person, task_id: str, step: str) -> bool:
    now = ann.told("show", task_id)["step"]
    return bool(STEPS.index(now) >= STEPS.index(step))


@pytest.mark.parametrize("broken", ["password", "server"])
def test_a_store_that_cannot_be_opened_ends_an_agent_with_a_sentence(
    postgres: Postgres, tmp_path: Path, broken: str
) -> None:
    url = postgres.url_of("gavotte", "guessed") if broken == "password" else "postgresql://u:p@127.0.0.1:1/x"
    ann = person(tmp_path / "ann", url)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "agents", "review"],
        env=ann.environ | {"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in {4, 5}
    assert "Traceback" not in done.stderr
    assert "127.0.0.1" in done.stderr
