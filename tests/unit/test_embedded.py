"""One file between processes: what is committed together, what is undone alone, and what trouble with the file says."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from contracts.errors import Busy, Corrupt, OutcomeUnknown, Refused, Unavailable
from embedded import file
from embedded.file import Database
from embedded.inline import InlineDatabase
from embedded.liveness import Presence, bury, is_alive, living
from embedded.lock import FileLock

ROOT = Path(__file__).parents[2]
SCHEMA = "CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT UNIQUE NOT NULL) STRICT;"


def insert(text: str) -> Callable[[sqlite3.Connection], int | None]:
    return lambda connection: connection.execute("INSERT INTO notes (text) VALUES (?)", (text,)).lastrowid


def texts(connection: sqlite3.Connection) -> list[str]:
    return [text for (text,) in connection.execute("SELECT text FROM notes ORDER BY id")]


def run_child(code: str, *words: str) -> subprocess.Popen[str]:
    """A Python process in this repository; it prints a line when it is ready and ends at the end of its input."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ended(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=30)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(tmp_path / "data" / "notes.db", schema=[SCHEMA])
    yield opened
    await opened.close()


# -- here and now ------------------------------------------------------------------------------------------------------


async def test_a_change_at_once_is_there_when_it_returns(database: Database) -> None:
    assert database.write_at_once(insert("one")) == 1
    assert database.look(texts) == ["one"]


async def test_a_change_at_once_that_fails_leaves_nothing_and_lets_go(database: Database) -> None:
    database.write_at_once(insert("one"))
    with pytest.raises(sqlite3.IntegrityError):
        database.write_at_once(insert("one"))
    assert database.write_at_once(insert("two")) == 2
    assert database.look(texts) == ["one", "two"]


async def test_nothing_is_done_at_once_while_others_are_at_work(database: Database) -> None:
    waiting = asyncio.ensure_future(database.write(insert("first")))
    await asyncio.sleep(0)  # it is queued, and before whatever comes now
    with pytest.raises(file.Occupied):
        database.write_at_once(insert("second"))
    await waiting
    other = FileLock(database.path.with_name(database.path.name + ".lock"))
    other.acquire(1.0)
    with pytest.raises(file.Occupied):
        database.write_at_once(insert("second"))
    other.close()
    database.write_at_once(insert("second"))
    assert database.look(texts) == ["first", "second"]


async def test_the_loop_goes_on_while_a_change_waits_for_the_lock(database: Database) -> None:
    other = FileLock(database.path.with_name(database.path.name + ".lock"))
    other.acquire(1.0)
    waiting = asyncio.ensure_future(database.write(insert("one")))
    for _ in range(3):
        await asyncio.sleep(0.002)
        assert await database.read(texts) == []
    other.close()
    assert await waiting == 1


# -- group commit ------------------------------------------------------------------------------------------------------


async def test_a_change_returns_what_it_returned_once_it_is_there(database: Database) -> None:
    assert await database.write(insert("one")) == 1
    assert await database.read(texts) == ["one"]


async def test_changes_that_wait_together_share_a_transaction(database: Database) -> None:
    def transaction(connection: sqlite3.Connection) -> int:
        insert(os.urandom(4).hex())(connection)
        frames: int = connection.execute("SELECT count(*) FROM notes").fetchone()[0]
        return frames

    commits: list[str] = []
    database._writer.connection.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    results = await asyncio.gather(*(database.write(transaction) for _ in range(50)))
    assert sorted(results) == list(range(1, 51)), "each sees those before it"
    assert len(commits) < 10


async def test_an_exception_undoes_one_change_and_is_raised_to_its_caller(database: Database) -> None:
    def fails(connection: sqlite3.Connection) -> None:
        insert("undone")(connection)
        raise ValueError("changed my mind")

    await database.write(insert("twice"))
    results = await asyncio.gather(
        database.write(insert("a")),
        database.write(insert("twice")),
        database.write(fails),
        database.write(insert("b")),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [int, sqlite3.IntegrityError, ValueError, int]
    assert await database.read(texts) == ["twice", "a", "b"]


async def test_whoever_gave_up_waiting_in_the_queue_changes_nothing(database: Database) -> None:
    lock = FileLock(database.path.with_name("notes.db.lock"))
    lock.acquire(1)
    waiting = [asyncio.create_task(database.write(insert(text))) for text in ("a", "b", "c")]
    await asyncio.sleep(0.05)
    waiting[1].cancel()
    await asyncio.sleep(0)
    lock.close()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await database.read(texts) == ["a", "c"]


async def test_a_change_may_not_end_the_transaction_that_it_shares(database: Database) -> None:
    with pytest.raises(RuntimeError, match="shares"):
        await database.write(lambda connection: connection.commit())
    with pytest.raises(RuntimeError, match="StopIteration"):
        await database.write(lambda _: next(iter(())))
    await database.write(insert("after"))
    assert await database.read(texts) == ["after"]


async def test_reads_share_a_snapshot_and_see_what_was_acknowledged(database: Database) -> None:
    for number in range(50):
        await database.write(insert(str(number)))
        assert len(await database.read(texts)) == number + 1
    many = await asyncio.gather(*(database.read(texts) for _ in range(20)))
    assert all(found == many[0] for found in many)


async def test_a_query_that_fails_hurts_no_other(database: Database) -> None:
    def wrong(connection: sqlite3.Connection) -> object:
        return connection.execute("SELECT nonsense FROM notes").fetchall()

    results = await asyncio.gather(database.read(wrong), database.read(texts), return_exceptions=True)
    assert isinstance(results[0], sqlite3.OperationalError)
    assert results[1] == []


async def test_readers_cannot_write(database: Database) -> None:
    with pytest.raises(Refused, match="readonly"):
        await database.read(insert("no"))


async def test_replacing_a_row_fires_the_triggers_that_refuse_deletion(database: Database) -> None:
    await database.add_schema(
        ["CREATE TRIGGER keep BEFORE DELETE ON notes BEGIN SELECT RAISE(ABORT, 'append only'); END;"]
    )
    await database.write(insert("once"))
    with pytest.raises(sqlite3.IntegrityError, match="append only"):
        await database.write(lambda connection: connection.execute("INSERT OR REPLACE INTO notes VALUES (1, 'new')"))


async def test_the_wal_is_folded_back_and_gone_after_the_last_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "CHANGES_PER_CHECKPOINT", 50)
    monkeypatch.setattr(file, "WAL_BYTES_MAX", 100_000)
    opened = await Database.open(tmp_path / "notes.db", schema=[SCHEMA])
    wal = tmp_path / "notes.db-wal"
    largest = 0
    for number in range(400):
        await opened.write(insert(f"{number}" + "x" * 2000))
        largest = max(largest, wal.stat().st_size)
    await opened.close()
    assert 100_000 < largest < 1_000_000
    assert not wal.exists()


async def test_a_long_reader_stops_no_writer(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "CHANGES_PER_CHECKPOINT", 20)
    monkeypatch.setattr(file, "WAL_BYTES_MAX", 1000)
    monkeypatch.setattr(file, "TRUNCATE_WAIT_MS", 10)
    reader = sqlite3.connect(database.path)
    reader.execute("BEGIN")
    assert texts(reader) == []
    for number in range(100):
        await database.write(insert(str(number)))
    assert texts(reader) == []
    reader.close()
    assert len(await database.read(texts)) == 100


# -- ends --------------------------------------------------------------------------------------------------------------


async def test_closing_finishes_what_is_queued(tmp_path: Path) -> None:
    opened = await Database.open(tmp_path / "notes.db", schema=[SCHEMA])
    writes = [asyncio.create_task(opened.write(insert(str(number)))) for number in range(20)]
    await asyncio.sleep(0)
    await opened.close()
    await opened.close()
    assert await asyncio.gather(*writes) == list(range(1, 21))
    with pytest.raises(Unavailable, match="closed"):
        await opened.write(insert("late"))
    with pytest.raises(Unavailable, match="closed"):
        await opened.read(texts)


async def test_a_process_that_does_not_close_can_still_exit(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys, pathlib, os\n"
        "from embedded.file import Database\n"
        "async def main():\n"
        "    opened = await Database.open(pathlib.Path(sys.argv[1]), schema=[sys.argv[2]])\n"
        "    await opened.write(lambda c: c.execute(\"INSERT INTO notes (text) VALUES ('kept')\"))\n"
        "    raise SystemExit(3)\n"
        "asyncio.run(main())\n"
    )
    process = run_child(code, str(tmp_path / "notes.db"), SCHEMA)
    ended(process)
    assert process.returncode == 3
    opened = await Database.open(tmp_path / "notes.db")
    assert await opened.read(texts) == ["kept"]
    await opened.close()


# -- the lock ----------------------------------------------------------------------------------------------------------

HOLD = "import sys, pathlib; from embedded.lock import FileLock; lock = FileLock(pathlib.Path(sys.argv[1])); lock.acquire(9); print('held', flush=True); sys.stdin.read()"


async def test_a_lock_that_is_never_freed_is_an_error_that_names_its_holder(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "LOCK_TIMEOUT_SECONDS", 0.1)
    process = run_child(HOLD, str(database.path) + ".lock")
    assert said(process) == "held"
    with pytest.raises(Unavailable, match=f"pid {process.pid}"):
        await database.write(insert("a"))
    os.kill(process.pid, signal.SIGKILL)
    ended(process)
    await database.write(insert("b"))
    assert await database.read(texts) == ["b"]


def in_a_fork(work: Callable[[], None]) -> int:
    """The exit code of a child that runs the work: 7 where it was refused."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except (Refused, Unavailable):
            os._exit(7)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


async def test_a_child_made_by_fork_may_not_use_the_file(database: Database) -> None:
    await database.write(insert("parent"))
    assert in_a_fork(lambda: database.write(insert("child")).send(None)) == 7
    assert await database.read(texts) == ["parent"]


def test_a_child_made_by_fork_gets_no_share_of_the_lock(tmp_path: Path) -> None:
    ours, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert ours.try_acquire()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"!")
        time.sleep(60)
        os._exit(0)
    try:
        os.read(reading, 1)
        assert not other.try_acquire()
        ours.close()
        assert other.try_acquire(), "the child's copy of the descriptor still holds the lock"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        other.close()
        os.close(reading)
        os.close(writing)


# -- trouble with the file ---------------------------------------------------------------------------------------------


async def test_a_full_file_is_unavailable_and_the_others_go_on(database: Database) -> None:
    pages = await database.write(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
    await database.write(lambda connection: connection.execute(f"PRAGMA max_page_count={pages + 1}").fetchone())
    results = await asyncio.gather(
        database.write(insert("small")),
        database.write(insert("x" * 100_000)),
        database.write(insert("small too")),
        return_exceptions=True,
    )
    assert isinstance(results[1], Unavailable)
    assert "space" in str(results[1])
    assert "free disk space" in results[1].hint
    kept = await database.read(texts)
    assert [result for result in results if isinstance(result, int)] == list(range(1, len(kept) + 1))


async def test_a_disk_that_refuses_the_commit_leaves_its_outcome_unknown(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys, pathlib, os, resource, signal\n"
        "from embedded.file import Database\n"
        "from contracts.errors import OutcomeUnknown\n"
        "async def main():\n"
        "    opened = await Database.open(pathlib.Path(sys.argv[1]), schema=[sys.argv[2]])\n"
        "    put = lambda text: opened.write(lambda c: c.execute('INSERT INTO notes (text) VALUES (?)', (text,)))\n"
        "    await put('before')\n"
        "    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))\n"
        "    try:\n"
        "        await put('x' * 200_000)\n"
        "    except OutcomeUnknown as error:\n"
        "        print(error, flush=True)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "    await put('after')\n"
        "    await opened.close()\n"
        "asyncio.run(main())\n"
    )
    process = run_child(code, str(tmp_path / "notes.db"), SCHEMA)
    assert "not confirmed" in said(process)
    ended(process)
    assert process.returncode == 0
    opened = await Database.open(tmp_path / "notes.db")
    assert await opened.read(texts) in (["before", "after"], ["before", "x" * 200_000, "after"])
    await opened.close()


async def test_an_error_at_commit_is_an_outcome_unknown_to_all_who_shared_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(connection: sqlite3.Connection, path: Path) -> None:
        connection.rollback()
        raise OutcomeUnknown(f"a commit to {path} was not confirmed")

    monkeypatch.setattr(file, "_commit_or_doubt", refuse)
    results = await asyncio.gather(*(database.write(insert(text)) for text in "ab"), return_exceptions=True)
    assert [type(result) for result in results] == [OutcomeUnknown, OutcomeUnknown]
    monkeypatch.undo()
    assert await database.write(insert("c")) == 1


async def test_a_file_that_is_no_database_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_bytes(b"certainly not what SQLite expects here" * 1000)
    with pytest.raises(Corrupt, match=r"notes\.db is damaged") as raised:
        await Database.open(path)
    assert "copy" in raised.value.hint


async def test_a_file_of_another_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "gavotte.db"
    old = await Database.open(path, schema=["CREATE TABLE IF NOT EXISTS steps (id INTEGER, name TEXT)"])
    await old.close()
    with pytest.raises(Refused, match="another version: its table steps"):
        await Database.open(
            path, schema=["CREATE TABLE IF NOT EXISTS steps (id INTEGER, name TEXT, deadline_us INTEGER)"]
        )
    again = await Database.open(path, schema=["CREATE TABLE IF NOT EXISTS steps (name TEXT, id INTEGER)"])
    assert await again.read(lambda conn: conn.execute("SELECT * FROM steps").fetchall()) == []
    await again.close()


async def test_damage_inside_the_file_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    opened = await Database.open(path, schema=[SCHEMA])
    await asyncio.gather(*(opened.write(insert(f"{n}" + "x" * 500)) for n in range(200)))
    await opened.close()
    whole = bytearray(path.read_bytes())
    whole[8192:] = os.urandom(len(whole) - 8192)
    path.write_bytes(whole)
    opened = await Database.open(path)
    with pytest.raises(Corrupt):
        await opened.read(texts)
    await opened.close()


@pytest.mark.parametrize("path", ["/proc/nobody/notes.db", "/dev/null/notes.db"])
async def test_a_folder_that_cannot_be_made_is_refused(path: str) -> None:
    with pytest.raises(Refused, match="cannot make"):
        await Database.open(Path(path))


async def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.db").mkdir()
    with pytest.raises(Refused):
        await Database.open(tmp_path / "notes.db")


def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    def open_as_somebody_else() -> None:
        if os.getuid() == 0:  # root may write everywhere
            os.setuid(65534)
        Database(data / "notes.db")

    data = tmp_path / "data"
    data.mkdir(mode=0o555)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)  # may be passed through; nothing is taken away
    assert in_a_fork(open_as_somebody_else) == 7


# -- in memory ---------------------------------------------------------------------------------------------------------


async def test_the_inline_database_keeps_the_same_promises() -> None:
    opened = await InlineDatabase.open(schema=[SCHEMA])
    other = opened.share()
    assert await opened.write(insert("one")) == 1
    with pytest.raises(sqlite3.IntegrityError):
        await other.write(insert("one"))
    assert await other.read(texts) == ["one"]
    await opened.close()
    with pytest.raises(Unavailable):
        await opened.read(texts)
    assert await other.write(insert("two")) == 2
    await other.close()


async def test_a_crash_before_the_commit_undoes_and_after_it_keeps() -> None:
    class Crash(BaseException):
        pass

    def crash_at(point: str) -> Callable[[str], None]:
        def crash(reached: str) -> None:
            if reached == point:
                raise Crash

        return crash

    opened = await InlineDatabase.open(schema=[SCHEMA])
    with pytest.raises(Crash):
        await opened.share(crash_at("before_commit")).write(insert("before"))
    with pytest.raises(Crash):
        await opened.share(crash_at("after_commit")).write(insert("after"))
    assert await opened.read(texts) == ["after"]


# -- who lives ---------------------------------------------------------------------------------------------------------

LIVE = "import sys, pathlib; from embedded.liveness import Presence; held = Presence(pathlib.Path(sys.argv[1]), sys.argv[2]); print('alive', flush=True); sys.stdin.read()"


def test_a_presence_ends_with_its_process(tmp_path: Path) -> None:
    assert not is_alive(tmp_path, "review-1")
    process = run_child(LIVE, str(tmp_path), "review-1")
    assert said(process) == "alive"
    assert is_alive(tmp_path, "review-1")
    with pytest.raises(Busy, match=f"pid {process.pid}"):
        Presence(tmp_path, "review-1")
    os.kill(process.pid, signal.SIGKILL)
    ended(process)
    assert not is_alive(tmp_path, "review-1")
    with Presence(tmp_path, "review-1"):
        assert is_alive(tmp_path, "review-1")
    assert not is_alive(tmp_path, "review-1")
    assert list(tmp_path.iterdir()) == []


def test_the_living_are_listed_and_the_dead_swept_away(tmp_path: Path) -> None:
    (tmp_path / "gone.alive").touch()
    with Presence(tmp_path, "b"), Presence(tmp_path, "a"):
        assert living(tmp_path) == ["a", "b"]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.alive", "b.alive"]
        bury(tmp_path, "a")
        assert is_alive(tmp_path, "a"), "the living are not buried"
    assert living(tmp_path) == []
    bury(tmp_path, "never-was")


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "x" * 300])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused):
        Presence(tmp_path, name)
