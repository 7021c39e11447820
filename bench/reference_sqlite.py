"""The limit of the embedded bus: four processes over one bare SQLite log, and nothing else.

The same durability (WAL, synchronous FULL), events of the same size and the same number of hops, but no inbox, no fold,
no hash chain, no views, no leases: what a dance on SQLite cannot be faster than. Each stage takes what is there (at most
`BATCH`), decodes and encodes it, and commits outputs and its offset in one transaction; a datagram wakes the next.
"""

from __future__ import annotations

import io
import json
import os
import select
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import fastavro

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench import job  # noqa: E402  # the folder is no package: the root must be on the path first

STAGES = job.HOPS
DONE = "done"
BATCH = 200
SCHEMA = """
CREATE TABLE IF NOT EXISTS log (position INTEGER PRIMARY KEY, topic TEXT NOT NULL, task TEXT NOT NULL, value BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS log_topic ON log (topic, position);
CREATE TABLE IF NOT EXISTS offsets (stage TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
"""
EVENT: Any = fastavro.parse_schema(job.AVRO)


class Log:
    """One process's connection and its socket for wake-ups."""

    def __init__(self, folder: Path, stage: str) -> None:
        self.folder = folder
        self.stage = stage
        self.database = sqlite3.connect(folder / "log.db", isolation_level=None, timeout=30, cached_statements=64)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=4000", "mmap_size=268435456"):
            self.database.execute(f"PRAGMA {pragma}")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(folder / f"{stage}.sock"))
        self.socket.setblocking(False)

    def after(self, position: int) -> list[tuple[int, str, bytes]]:
        return self.database.execute(
            "SELECT position, task, value FROM log WHERE topic = ? AND position > ? ORDER BY position LIMIT ?",
            (self.stage, position, BATCH),
        ).fetchall()

    def append(self, topic: str, rows: list[tuple[str, bytes]], position: int | None = None) -> None:
        """Outputs and offset in one transaction, then the wake-up."""
        self.database.execute("BEGIN IMMEDIATE")
        self.database.executemany(
            "INSERT INTO log (topic, task, value) VALUES (?, ?, ?)", [(topic, task, value) for task, value in rows]
        )
        if position is not None:
            self.database.execute("INSERT OR REPLACE INTO offsets VALUES (?, ?)", (self.stage, position))
        self.database.execute("COMMIT")
        with suppress(BlockingIOError, FileNotFoundError, ConnectionRefusedError):
            self.socket.sendto(b"", str(self.folder / f"{topic}.sock"))

    def wait(self) -> None:
        select.select([self.socket], [], [], 0.25)
        with suppress(BlockingIOError):
            while True:
                self.socket.recv(16)


def encoded(event: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, EVENT, event)
    return out.getvalue()


def decoded(value: bytes) -> dict[str, Any]:
    found: Any = fastavro.schemaless_reader(io.BytesIO(value), EVENT, None)
    return dict(found)


def first(number: int) -> tuple[str, bytes]:
    """A submission of about 1.8 kB."""
    event = job.first_event(number)
    return event["task_id"], encoded(event)


def stage_process(folder: Path, stage: str) -> None:
    """What each of the four processes does, until its input closes."""
    log = Log(folder, stage)
    following = (*STAGES, DONE)[STAGES.index(stage) + 1]
    position = 0
    print("ready", flush=True)
    while os.getppid() != 1:
        found = log.after(position)
        if not found:
            log.wait()
            continue
        rows = []
        for _, task, value in found:
            rows.append((task, encoded(job.next_event(decoded(value), stage))))
        position = found[-1][0]
        log.append(following, rows, position)


def measure(tasks: int, idle_tasks: int) -> dict[str, float]:
    """Throughput of a burst, and the latency of single tasks on an idle system."""
    from bench.machine import Meter, bytes_below, latencies

    with tempfile.TemporaryDirectory(prefix="gavotte-ref-") as name, ExitStack() as stack:
        folder = Path(name)
        log = Log(folder, DONE)
        log.database.executescript(SCHEMA)
        workers = [start(folder, stage) for stage in STAGES]
        for worker in workers:
            stack.callback(worker.wait)
            stack.callback(worker.kill)
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline().strip() == "ready"
        position = 0

        def drain(count: int) -> None:
            nonlocal position
            while count > 0:
                found = log.after(position)
                if found:
                    position = found[-1][0]
                    count -= len(found)
                else:
                    log.wait()

        spent = []
        for number in range(idle_tasks + 20):
            row = first(number)
            began = time.perf_counter()
            log.append(STAGES[0], [row])
            drain(1)
            if number >= 20:
                spent.append((time.perf_counter() - began) * 1000)
            time.sleep(0.003)
        rows = [first(1_000_000 + number) for number in range(tasks)]
        meter = Meter([worker.pid for worker in workers])
        for index in range(0, tasks, 50):
            log.append(STAGES[0], rows[index : index + 50])
        drain(tasks)
        return meter.per(tasks) | latencies(spent) | {"stored_bytes_per_task": bytes_below(folder) / tasks}


def start(folder: Path, stage: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, str(folder), stage], stdout=subprocess.PIPE, text=True, bufsize=1
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        stage_process(Path(sys.argv[1]), sys.argv[2])
    else:
        print(json.dumps(measure(5000, 200), indent=1))
