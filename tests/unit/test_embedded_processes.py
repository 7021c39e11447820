"""One file, several processes that write and checkpoint at full speed and are killed: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from embedded import file
from embedded.file import Database

ROOT = Path(__file__).parents[2]
POWERCUT = ROOT.parent / "shared" / "checks" / "powercut" / "powercut.py"
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS notes (writer TEXT, number INTEGER, body BLOB, PRIMARY KEY (writer, number)) STRICT;"
)
TOGETHER = 20
NEWS = " told of"
"""Of a burst that is acknowledged; written without a flush, it may be lost, but never be there without the burst."""


def insert(writer: str, number: int) -> Callable[[sqlite3.Connection], object]:
    body = os.urandom(1000)
    return lambda connection: connection.execute("INSERT INTO notes VALUES (?, ?, ?)", (writer, number, body))


async def write(path: Path, writer: str, rounds: int, acknowledge: Callable[[str], None]) -> None:
    """Write in bursts, and acknowledge what was committed; checkpoints of all kinds come as often as can be."""
    file.CHANGES_PER_CHECKPOINT = 40  # type: ignore[misc]  # final for everybody else
    file.WAL_BYTES_MAX = 200_000  # type: ignore[misc]  # likewise
    database = await Database.open(path, schema=[SCHEMA])
    with contextlib.closing(sqlite3.connect(path)) as reader:
        for start in range(0, rounds * TOGETHER, TOGETHER):
            numbers = range(start, start + TOGETHER)
            await asyncio.gather(*(database.write(insert(writer, number)) for number in numbers))
            for number in numbers:
                acknowledge(f"{writer} {number}\n")
            await database.write(insert(f"{writer}{NEWS}", start), flush=False)
            reader.execute("SELECT count(*) FROM notes WHERE writer = ?", (writer,)).fetchone()
    await database.close()


def acknowledger(path: Path) -> Callable[[str], None]:
    """Each line is one write to the file, as a promise made to somebody else."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def acknowledge(line: str) -> None:
        os.write(descriptor, line.encode())

    return acknowledge


def start(path: Path, writer: str, rounds: int, acknowledged: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, __file__, "write", str(path), writer, str(rounds), str(acknowledged)]
    return subprocess.Popen(words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})


def lines(path: Path) -> set[str]:
    """Whole lines only: a writer may have been killed in the middle of one."""
    return {line.strip() for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")}


def kept(path: Path) -> set[str]:
    """What the file holds; it must be whole."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        rows = set(connection.execute("SELECT writer, number FROM notes"))
    news = {(writer, number) for writer, number in rows if writer.endswith(NEWS)}
    for writer, start in news:
        assert {(writer.removesuffix(NEWS), start + more) for more in range(TOGETHER)} <= rows
    return {f"{writer} {number}" for writer, number in rows - news}


def wait_for_lines(path: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or len(lines(path)) < count:
        assert time.monotonic() < deadline, f"no {count} acknowledgements within a minute"
        time.sleep(0.01)


def test_writers_and_checkpoints_at_full_speed_lose_and_break_nothing(tmp_path: Path) -> None:
    path, acknowledged = tmp_path / "notes.db", tmp_path / "acknowledged"
    writers = [start(path, f"w{number}", 100, acknowledged) for number in range(4)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0, 0]
    assert len(lines(acknowledged)) == 4 * 100 * TOGETHER
    assert kept(path) == lines(acknowledged)
    assert not path.with_name("notes.db-wal").exists(), "the last one to close folds the WAL into the file"


def test_writers_that_are_killed_lose_and_break_nothing(tmp_path: Path) -> None:
    path, acknowledged = tmp_path / "notes.db", tmp_path / "acknowledged"
    writers = [start(path, f"w{number}", 100_000, acknowledged) for number in range(3)]
    for count in range(200, 3_000, 200):
        wait_for_lines(acknowledged, count)
        victim = writers.pop(0)
        victim.kill()
        victim.wait()
        writers.append(start(path, f"x{count}", 100_000, acknowledged))
    for writer in writers:
        writer.kill()
        writer.wait()
    assert lines(acknowledged) <= kept(path)


@pytest.mark.skipif(not POWERCUT.exists() or shutil.which("cc") is None, reason="needs ../shared and a C compiler")
def test_power_cuts_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    data = tmp_path / "data"
    run = f"{sys.executable} {__file__} write {data / 'notes.db'} w 12 $POWERCUT_ACKS"
    verify = f"{sys.executable} {__file__} verify"
    done = subprocess.run(
        [sys.executable, POWERCUT, "--dir", data, "--run", run, "--verify", verify, "--cuts", "40"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def verify() -> int:
    """For the power cuts: 0 fine, 1 a promise is lost, 2 the file is broken."""
    try:
        found = kept(Path(os.environ["POWERCUT_CUT"]) / "notes.db")
    except (AssertionError, sqlite3.DatabaseError):
        return 2
    return 0 if lines(Path(os.environ["POWERCUT_ACKED"])) <= found else 1


def main(command: str, *words: str) -> int:
    if command == "verify":
        return verify()
    path, writer, rounds, acknowledged = words
    asyncio.run(write(Path(path), writer, int(rounds), acknowledger(Path(acknowledged))))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
