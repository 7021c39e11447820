"""One SQLite file shared by processes: group commit under one lock, reads beside it, and errors that say what to do.

Why it is built this way:
- a commit costs a flush of the disk, whatever it holds: so all changes that wait when the lock is won share one
  transaction (group commit), and nobody ever waits for a batch to fill;
- SQLite up to 3.51.2 can corrupt a WAL file when connections write and checkpoint at once: so automatic
  checkpoints are off, and every transaction and checkpoint of every process holds the lock `<name>.lock`;
- `synchronous=NORMAL` loses acknowledged commits at power loss in WAL mode: so it is FULL, but for what says of itself
  that it can be told again;
- a hop to a thread costs more than a query or a commit of a few rows, and fights it for the interpreter: so both are
  done in the loop, but for what reads much, and for copying the WAL back. A thread would also keep others from the lock
  while it waits for the interpreter: so the lock is looked for from the loop, which goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeVar

import aiosqlite

from contracts.errors import Corrupt, GavotteError, OutcomeUnknown, Refused, Unavailable
from embedded.lock import FileLock

T = TypeVar("T")

LOCK_TIMEOUT_SECONDS: Final = 30.0
LOCK_PAUSE_SECONDS: Final = 0.000_5
"""Between two looks whether the lock is free; an event loop makes a millisecond of it at least."""
BUSY_TIMEOUT_SECONDS: Final = 5.0
CHANGES_PER_CHECKPOINT: Final = 4_000
"""Rows changed by this process, plus some for each commit, after which it copies the WAL back into the file."""
WAL_BYTES_MAX: Final = 64 * 1024 * 1024
"""Beyond this size a checkpoint also waits, a little, for readers, and empties the WAL file."""
TRUNCATE_WAIT_MS: Final = 200

PAGE_BYTES: Final = 8192
"""Events of 2 kB waste half of a smaller page; larger pages cost more where the rows of an index are far apart."""

PRAGMAS: Final = (
    "PRAGMA synchronous=FULL",
    "PRAGMA wal_autocheckpoint=0",
    "PRAGMA temp_store=MEMORY",
    "PRAGMA mmap_size=268435456",
    "PRAGMA cache_size=-16384",
    # so that INSERT OR REPLACE cannot slip past triggers that refuse DELETE
    "PRAGMA recursive_triggers=ON",
)

COLUMNS: Final = """
SELECT name, (SELECT group_concat(column, ' ') FROM (SELECT name AS column FROM pragma_table_info(master.name) ORDER BY 1))
FROM sqlite_master AS master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'
"""


class Occupied(Exception):
    """Somebody else is at work on the file now."""


class Database:
    """A connection of this process to the shared file; belongs to the event loop that opened it.

    Changes and queries are plain functions of a `sqlite3.Connection`; they must not commit, roll back or run scripts,
    and may not keep the connection. Errors: Unavailable (disk full, lock or disk does not answer),
    Refused (no permission), Corrupt; sqlite3.IntegrityError and mistakes in SQL come through as they are.
    """

    path: Path

    def __init__(self, path: Path) -> None:
        self.path = path
        self._process = os.getpid()
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        self._writer = _Thread(self._connect_writer)
        self._surveyor = _Thread(self._connect_reader)
        self._reader: sqlite3.Connection | None = None
        self._changes: deque[_Waiting] = deque()
        self._queries: deque[_Waiting] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._surveying: asyncio.Task[None] | None = None
        self._since_checkpoint = 0
        self._closed = False

    @classmethod
    async def open(cls, path: Path, *, schema: Sequence[str] = ()) -> Self:
        """Open or create the file (and its folder); each schema is a script of idempotent statements, run in order.

        Raises Refused where the file has one of its tables with other columns, as another version laid it out.
        """
        _make_folder(path)
        database = cls(path)
        try:
            await database._writer
            await database.add_schema(schema)
            await database._surveyor
            database._reader = database._connect_reader()
        except BaseException as error:
            await database.close()
            if isinstance(error, sqlite3.Error):
                raise _explained(error, path) from error
            raise
        return database

    async def add_schema(self, schema: Sequence[str]) -> None:
        """Run scripts of idempotent statements, each in a transaction of its own."""
        try:
            await self._writer.run(lambda: self._run_scripts(schema))
        except sqlite3.Error as error:
            raise _explained(error, self.path) from error

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run the query on a snapshot of the last commit, here and now: it is to be short."""
        result = self.look(query)
        await asyncio.sleep(0)  # others get their turn
        return result

    def look(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """The same for who awaits something else afterwards."""
        self._check_usable()
        if self._reader is None:
            raise Unavailable(f"{self.path} is not open yet")
        try:
            self._reader.execute("BEGIN")
            try:
                result = query(self._reader)
            finally:
                self._reader.execute("COMMIT")
        except sqlite3.Error as error:
            raise _explained(error, self.path) from error
        return result

    async def survey(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """The same in a thread, for queries that read much: nobody in this process waits for them."""
        waiting = self._enqueue(self._queries, query)
        if self._surveying is None:
            self._surveying = asyncio.get_running_loop().create_task(self._survey_queued())
        result: T = await waiting.future
        return result

    async def write(self, change: Callable[[sqlite3.Connection], T], *, flush: bool = True) -> T:
        """Run the change in the next group commit; returns what it returned once that is durable.

        Without `flush` it is safe from a crash of the process at once, and from a loss of power with the next flush of
        anybody: for what can be told again, such as news of what is recorded. It never lasts without what came before.
        An exception raised by the change undoes this change only, and is raised here. OutcomeUnknown means
        that COMMIT itself failed: the change may or may not be there; look before repeating it.
        """
        waiting = self._enqueue(self._changes, change, flush=flush)
        self._begin_writing()
        result: T = await waiting.future
        return result

    def write_at_once(self, change: Callable[[sqlite3.Connection], T], *, flush: bool = True) -> T:
        """The same here and now. Raises Occupied where somebody is at work on the file, or changes wait: nothing is done."""
        self._check_usable()
        if self._writing is not None or not self._lock.try_acquire():
            raise Occupied
        waiting = _Waiting(change, asyncio.get_running_loop().create_future(), flush)
        ((_, result, error),) = self._commit_held([waiting])
        if self._since_checkpoint >= CHANGES_PER_CHECKPOINT:
            self._begin_writing()
        if error is not None:
            raise error
        done: T = result
        return done

    async def close(self) -> None:
        """Finish what is queued, then close; the last process to close folds the WAL into the file. Safe twice."""
        if self._closed:
            return
        self._closed = True
        for task in (self._writing, self._surveying):
            if task is not None:
                await task
        with contextlib.suppress(sqlite3.Error):
            await self._surveyor.finish(lambda: None)
        if self._reader is not None:
            self._reader.close()
        # the last connection's close is a checkpoint: it needs the lock
        with contextlib.suppress(sqlite3.Error, Unavailable):
            await self._writer.finish(lambda: self._lock.acquire(LOCK_TIMEOUT_SECONDS))
        self._lock.close()

    def _check_usable(self) -> None:
        if self._closed:
            raise Unavailable(f"{self.path} is closed in this process")
        if os.getpid() != self._process:
            raise Unavailable(f"{self.path} was opened before a fork", hint="open it in the child")

    def _enqueue(
        self, queue: deque[_Waiting], function: Callable[[sqlite3.Connection], Any], *, flush: bool = True
    ) -> _Waiting:
        self._check_usable()
        waiting = _Waiting(function, asyncio.get_running_loop().create_future(), flush)
        queue.append(waiting)
        return waiting

    def _begin_writing(self) -> None:
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write_queued())

    async def _write_queued(self) -> None:
        try:
            while self._changes or self._since_checkpoint >= CHANGES_PER_CHECKPOINT:
                if self._changes:
                    _settle(await self._commit_queued())
                if self._since_checkpoint >= CHANGES_PER_CHECKPOINT:
                    await self._writer.run(self._checkpoint)
        finally:
            self._writing = None

    async def _commit_queued(self) -> list[_Settled]:
        """Take what waits once the lock is won, and commit it together. Errors are returned, each with its change."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LOCK_TIMEOUT_SECONDS
        try:
            while not self._lock.try_acquire():
                if loop.time() >= deadline:
                    self._lock.refuse(LOCK_TIMEOUT_SECONDS)
                await asyncio.sleep(LOCK_PAUSE_SECONDS)
        except GavotteError as error:
            return [_Settled(waiting, None, error) for waiting in _take(self._changes)]
        return self._commit_held(_take(self._changes))

    async def _survey_queued(self) -> None:
        try:
            while self._queries:
                _settle(await self._surveyor.run(self._answer_queued))
        finally:
            self._surveying = None

    # below: on the connections, some of it in their threads

    def _connect_writer(self) -> sqlite3.Connection:
        self._lock.acquire(LOCK_TIMEOUT_SECONDS)
        try:
            connection = _connect(f"{self.path.absolute().as_uri()}?mode=rwc")
            connection.execute(f"PRAGMA page_size={PAGE_BYTES}")  # of a file that is made now
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        finally:
            self._lock.release()
        if mode != "wal":
            raise Refused(f"{self.path} cannot use a write-ahead log here", hint="put the data folder on a local disk")
        return connection

    def _connect_reader(self) -> sqlite3.Connection:
        """Read-only, so that it can never be the one that checkpoints when it is closed or lost."""
        return _connect(f"{self.path.absolute().as_uri()}?mode=ro")

    def _run_scripts(self, schema: Sequence[str]) -> None:
        connection = self._writer.connection
        self._lock.acquire(LOCK_TIMEOUT_SECONDS)
        try:
            _check_layout(connection, schema, self.path)
            for script in schema:
                connection.executescript(f"BEGIN IMMEDIATE;\n{script}\n;COMMIT;")
        finally:
            if connection.in_transaction:
                connection.rollback()
            self._lock.release()

    def _commit_held(self, batch: list[_Waiting]) -> list[_Settled]:
        """Commit these together, then let go of the lock, which is won."""
        try:
            return self._commit(self._writer.connection, batch)
        finally:
            self._lock.release()

    def _commit(self, connection: sqlite3.Connection, batch: list[_Waiting]) -> list[_Settled]:
        if not batch:
            return []
        before, flush = connection.total_changes, any(waiting.flush for waiting in batch)
        try:
            if not flush:
                connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("BEGIN IMMEDIATE")
            settled = [self._apply(connection, waiting) for waiting in batch]
            _commit_or_doubt(connection, self.path)
        except BaseException as error:  # noqa: BLE001  # whatever it is, those who wait must hear of it
            with contextlib.suppress(sqlite3.Error):
                connection.rollback()
            explained = _explained(error, self.path)
            return [_Settled(waiting, None, explained) for waiting in batch]
        finally:
            if not flush:
                connection.execute("PRAGMA synchronous=FULL")
        self._since_checkpoint += connection.total_changes - before + 8
        return settled

    def _apply(self, connection: sqlite3.Connection, waiting: _Waiting) -> _Settled:
        """Run one change in a savepoint of its own."""
        connection.execute("SAVEPOINT change")
        try:
            result = waiting.function(connection)
            _check_untouched(connection)
        except BaseException as error:
            if not connection.in_transaction:  # SQLite gave the whole transaction up: nobody's change is there
                raise
            connection.execute("ROLLBACK TO change")
            connection.execute("RELEASE change")
            return _Settled(waiting, None, _explained(error, self.path))
        connection.execute("RELEASE change")
        return _Settled(waiting, result, None)

    def _checkpoint(self) -> None:
        """Copy the WAL back into the file; skipped while another process is at work, and tried again later."""
        self._since_checkpoint = CHANGES_PER_CHECKPOINT // 2
        if not self._lock.try_acquire():
            return
        connection = self._writer.connection
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if _size(self.path.with_name(self.path.name + "-wal")) > WAL_BYTES_MAX:
                connection.execute(f"PRAGMA busy_timeout={TRUNCATE_WAIT_MS}")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._since_checkpoint = 0
        except sqlite3.Error:  # nothing is lost: it is all in the WAL, and commits will say what is wrong
            return
        finally:
            connection.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT_SECONDS * 1000)}")
            self._lock.release()

    def _answer_queued(self) -> list[_Settled]:
        """Answer all queries that wait, from one snapshot."""
        connection = self._surveyor.connection
        batch = _take(self._queries)
        try:
            connection.execute("BEGIN")
            settled = [_answer(connection, waiting, self.path) for waiting in batch]
            connection.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001  # whatever it is, those who wait must hear of it
            with contextlib.suppress(sqlite3.Error):
                connection.rollback()
            explained = _explained(error, self.path)
            return [_Settled(waiting, None, explained) for waiting in batch]
        return settled


class _Waiting(NamedTuple):
    """A change or query, and the one who waits for it."""

    function: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]
    flush: bool


class _Settled(NamedTuple):
    """What became of a change or query."""

    waiting: _Waiting
    result: Any
    error: BaseException | None


class _Thread(aiosqlite.Connection):
    """A connection in a thread of its own, used for one function per hop.

    The thread is a daemon: a process that dies without closing must not hang in its exit.
    """

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, iter_chunk_size=64)
        self._thread.daemon = True
        self._stopped: asyncio.Future[None] | None = None

    @property
    def connection(self) -> sqlite3.Connection:
        return self._conn

    async def run(self, function: Callable[[], T]) -> T:
        """Run the function in the thread."""
        result: T = await self._execute(function)  # type: ignore[no-untyped-call]  # aiosqlite's one way into its thread
        return result

    def stop(self) -> asyncio.Future[None] | None:
        self._stopped = super().stop()
        return self._stopped

    async def finish(self, before: Callable[[], None]) -> None:
        """Run the function, then close the connection and end the thread; harmless if it never opened."""
        if self._connection is None:
            if self._stopped is not None:  # it failed to open: the thread speaks once more to the loop, then ends
                await self._stopped
            return
        try:
            await self.run(before)
        finally:
            await self.close()


def _check_layout(connection: sqlite3.Connection, schema: Sequence[str], path: Path) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as fresh:
        with contextlib.suppress(sqlite3.Error):  # it adds to tables that are only in the file
            for script in schema:
                fresh.executescript(script)
        wanted, found = _columns(fresh), _columns(connection)
    for table in sorted(wanted.keys() & found.keys()):
        if wanted[table] != found[table]:
            raise Refused(
                f"{path} was laid out by another version: its table {table} has other columns",
                hint="read it with the version that made it, or name a new folder with --data",
            )


def _columns(connection: sqlite3.Connection) -> dict[str, str]:
    return dict(connection.execute(COLUMNS))


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri,
        uri=True,
        isolation_level=None,
        timeout=BUSY_TIMEOUT_SECONDS,
        cached_statements=512,
        check_same_thread=False,
    )
    try:
        for pragma in PRAGMAS:
            connection.execute(pragma)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _take(queue: deque[_Waiting]) -> list[_Waiting]:
    """All that waits now, but for those whose callers have gone."""
    return [waiting for waiting in (queue.popleft() for _ in range(len(queue))) if not waiting.future.done()]


def _settle(settled: list[_Settled]) -> None:
    for (_, future, _), result, error in settled:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def _answer(connection: sqlite3.Connection, waiting: _Waiting, path: Path) -> _Settled:
    try:
        return _Settled(waiting, waiting.function(connection), None)
    except BaseException as error:  # noqa: BLE001  # it is the caller's, and raised there
        return _Settled(waiting, None, _explained(error, path))


def _check_untouched(connection: sqlite3.Connection) -> None:
    if not connection.in_transaction:
        raise RuntimeError("a change ended the transaction that it shares: no commit, rollback or executescript in it")


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(
            f"cannot make the folder {path.parent}: {error.strerror}", hint="choose another with --data"
        ) from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _commit_or_doubt(connection: sqlite3.Connection, path: Path) -> None:
    try:
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        reason = _explained(error, path)
        hint = reason.hint if isinstance(reason, GavotteError) else "look whether it is there before repeating it"
        raise OutcomeUnknown(f"a commit to {path} was not confirmed: {error}", hint=hint) from error


def _explained(error: BaseException, path: Path) -> BaseException:
    """SQLite's troubles with the file as errors that a person or the retry table can act on; others as they are."""
    if isinstance(error, StopIteration):  # a future cannot carry it
        return RuntimeError("a change or query let StopIteration escape")
    if not isinstance(error, sqlite3.Error):
        return error
    primary = getattr(error, "sqlite_errorcode", -1) & 0xFF
    match primary:
        case sqlite3.SQLITE_FULL:
            return Unavailable(f"no space left for {path}", hint="free disk space; nothing recorded is lost")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_AUTH:
            return Refused(
                f"cannot write {path}: {error}", hint="this user needs write permission on it and its folder"
            )
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return Corrupt(
                f"{path} is damaged: {error}", hint="stop all agents and restore the data folder from a copy"
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED | sqlite3.SQLITE_IOERR | sqlite3.SQLITE_PROTOCOL:
            return Unavailable(
                f"{path} does not answer: {error}", hint="is the disk healthy, or another program in it?"
            )
        case sqlite3.SQLITE_NOMEM:
            return Unavailable(f"no memory left for {path}")
        case _:
            return error
