"""The local PostgreSQL server that tests use: its data outlive crashes, its doors are shut, it outlives nobody."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.local.postgres import Postgres, program
from deploy.local.serving import Failed

ROOT = Path(__file__).resolve().parents[2]


def test_data_and_port_outlive_a_crash_and_a_restart(postgres: Postgres) -> None:
    with Postgres(durable=False) as server:
        port = server.port
        assert port != postgres.port
        server.psql("CREATE TABLE kept (what text); INSERT INTO kept VALUES ('this');", user="gavotte")
        server.kill()
        server.kill()
        server.start()
        assert server.psql("SELECT what FROM kept") == "this\n"
        server.restart()
        assert server.psql("SELECT what FROM kept") == "this\n"
        assert server.port == port
        folder = server.folder
    assert not folder.exists()


def test_a_wrong_password_opens_nothing(postgres: Postgres) -> None:
    with pytest.raises(Failed, match="password authentication failed"):
        postgres.psql("SELECT 1", user="gavotte", password="guessed")


def test_in_the_foreground_it_prints_the_settings_and_ends_with_its_parent(postgres: Postgres) -> None:
    command = [sys.executable, str(ROOT / "deploy" / "local" / "postgres.py")]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    asked = question(running)
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout == "1\n"
    running.kill()
    running.communicate()
    deadline = time.monotonic() + 30
    while subprocess.run(asked, capture_output=True, check=False).returncode == 0:
        assert time.monotonic() < deadline, "the server outlives the one who started it"
        time.sleep(0.05)


def test_impatience_at_the_end_changes_nothing(postgres: Postgres) -> None:
    command = [sys.executable, str(ROOT / "deploy" / "local" / "up.py"), "postgres"]
    pipe = subprocess.PIPE
    running = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    asked = question(running)
    deadline = time.monotonic() + 60
    while running.poll() is None:  # Ctrl-C reaches all programs of a terminal, and somebody holds it down
        assert time.monotonic() < deadline, "it does not end"
        os.killpg(running.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(0.02)
    _, said = running.communicate()
    assert (running.returncode, "Traceback" in said) == (0, False), said
    assert subprocess.run(asked, capture_output=True, check=False).returncode != 0


def question(running: subprocess.Popen[str]) -> list[str]:
    """What asks the server whose settings this program prints."""
    assert running.stdout is not None
    lines = [running.stdout.readline(), running.stdout.readline()]
    assert lines[0] == "GAVOTTE_STORE__BACKEND=postgres\n"
    return [program("psql"), "-XAtqc", "SELECT 1", lines[1].removeprefix("GAVOTTE_STORE__URL=").strip()]
