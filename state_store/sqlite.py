"""The store on SQLite: transactions of the database that this process shares with others."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from contracts import ids
from contracts.codec import Codec
from contracts.envelope import Envelope
from contracts.errors import Corrupt, Unavailable
from contracts.topology import Topology
from embedded.file import Database, Occupied
from embedded.gathering import Answers, Gathering
from state_store import audit, inbox, ordinary
from state_store.bodies import Bodies
from state_store.ordinary import Draft, News
from state_store.port import Claim, Commit, Committed, Encoded, Ends, Recorded
from state_store.queries import SCHEMA, SQL
from state_store.store import Asked, Rules, Store
from state_store.transaction import Clash, Row, Values, at_once

T = TypeVar("T")
Connection = sqlite3.Connection


class SqliteTransaction:
    """Statements on a connection, each answered at once."""

    __slots__ = ("_clock", "_connection")

    def __init__(self, connection: sqlite3.Connection, clock: Callable[[], int] = ids.now_us) -> None:
        self._connection = connection
        self._clock = clock

    def now_us(self) -> int:
        return self._clock()

    async def one(self, name: str, values: Values = ()) -> Row:
        found: Row = self._connection.execute(SQL[name], values).fetchone()
        return found

    async def row(self, name: str, values: Values = ()) -> Row | None:
        found: Row | None = self._connection.execute(SQL[name], values).fetchone()
        return found

    async def rows(self, name: str, values: Values = ()) -> Sequence[Row]:
        return self._connection.execute(SQL[name], values).fetchall()

    async def run(self, name: str, values: Values = ()) -> int:
        return self._connection.execute(SQL[name], values).rowcount

    async def each(self, name: str, values: Sequence[Values]) -> None:
        self._connection.executemany(SQL[name], values)

    async def insert(self, name: str, values: Values) -> int:
        try:
            return self._connection.execute(SQL[name], values).lastrowid or 0
        except sqlite3.IntegrityError as error:
            raise Clash(str(error)) from error


class SqliteStore(Store):
    """`StateStore` on a database that was opened with `SCHEMA`; the database belongs to who opened it.

    `bodies` is the folder of large bodies, None keeps all in the database. `news` is a bus in the same file.
    """

    def __init__(
        self,
        database: Database,
        bodies: Path | None,
        codec: Codec,
        *,
        clock: Callable[[], int] = ids.now_us,
        is_alive: Callable[[str], bool] | None = None,
        topology: Topology | None = None,
        news: News | None = None,
    ) -> None:
        super().__init__(codec, Bodies(bodies), is_alive, topology)
        self._database = database
        self._clock = clock
        self._news = news
        self._appends = Gathering(self._append_all)
        self._claims = Gathering(self._claim_all)
        self._commits = Gathering(self._commit_all)

    async def _read(self, rules: Rules[T]) -> T:
        return await self._database.read(lambda conn: at_once(rules(SqliteTransaction(conn, self._clock))))

    async def _survey(self, rules: Rules[T]) -> T:
        return await self._database.survey(lambda conn: at_once(rules(SqliteTransaction(conn, self._clock))))

    async def _change(self, rules: Rules[T], tasks: Sequence[str], *, alone: bool, repeatable: bool) -> T:
        """Every transaction of the file is alone in it."""
        del tasks, alone, repeatable
        return await self._in_file(lambda conn: at_once(rules(SqliteTransaction(conn, self._clock))))

    async def _in_file(self, change: Callable[[Connection], T], *, flush: bool = True) -> T:
        return await self._database.write(change, flush=flush)

    # -- many at once: the ordinary ones together, all others by the rules -------------------------------------------

    def _append(self, events: Sequence[Encoded], expected_sequence: int | None) -> Awaitable[list[Recorded]]:
        if expected_sequence is None and all(map(ordinary.begins_task, events)):
            return self._appends(events)
        return super()._append(events, expected_sequence)

    def _append_all(
        self, calls: Sequence[Sequence[Encoded]]
    ) -> Answers[list[Recorded]] | Awaitable[Answers[list[Recorded]]]:
        """At once where nobody is at work on the file, as nearly always."""
        now_us, events = self._clock(), [encoded for call in calls for encoded in call]
        made = [ordinary.first_row(encoded, now_us) for encoded in events]
        news = self._carried(encoded.event.envelope for encoded in events)
        change = partial(ordinary.write_first, events=events, made=made, now_us=now_us, news=news)

        def recorded(done: tuple[int, Any]) -> list[list[Recorded]]:
            before = self._told(done, news)
            rows = enumerate(zip(events, made, strict=True), before + 1)
            stored = (ordinary.as_recorded(each, row, at, told=news is not None) for at, (each, (_, row)) in rows)
            return [list(islice(stored, len(call))) for call in calls]

        async def later() -> Answers[list[Recorded]]:
            try:
                return recorded(await self._in_file(change))
            except Clash:
                return await asyncio.gather(*(by_the_rules(call, None) for call in calls), return_exceptions=True)

        by_the_rules = super()._append
        try:
            return recorded(self._database.write_at_once(change))
        except (Occupied, Clash):
            return later()

    def _claim(self, asked: Asked) -> Awaitable[Claim]:
        return self._claims(asked)

    def _claim_all(self, calls: Sequence[Asked]) -> Answers[Claim]:
        return self._database.look(lambda conn: self._answers(conn, calls))

    def _answers(self, conn: Connection, calls: Sequence[Asked]) -> Sequence[Claim | BaseException]:
        role = calls[0].role
        plain = [call.role == role and call.inbox_id is None and call.event is not None for call in calls]
        found = ordinary.claims(conn, role, [call.envelope.id for call, own in zip(calls, plain, strict=True) if own])
        tx = SqliteTransaction(conn, self._clock)
        answers: list[Claim | BaseException] = []
        for call, own in zip(calls, plain, strict=True):
            claim = found.get(call.envelope.id) if own else None
            try:
                answers.append(claim or at_once(self._inbox.claim(tx, *call)))
            except Exception as error:  # noqa: BLE001  # it is that caller's alone
                answers.append(error)
        return answers

    def ready(self, role: str, event_ids: Sequence[str]) -> Mapping[str, Claim]:
        return self._database.look(lambda conn: ordinary.claims(conn, role, event_ids))

    def _commit(self, request: Commit) -> Awaitable[Committed]:
        return self._commits(request)

    def _commit_all(self, calls: Sequence[Commit]) -> Answers[Committed] | Awaitable[Answers[Committed]]:
        """All at once where all are ordinary and nobody is at work on the file, as nearly always."""
        now_us, role = self._clock(), calls[0].delivery.role
        drafts = [ordinary.draft(call, now_us) if call.delivery.role == role else None for call in calls]
        together = [draft for draft in drafts if draft is not None]
        news = self._carried(ordinary.envelopes(together))
        change = partial(ordinary.write, drafts=together, now_us=now_us, news=news)
        if len(together) < len(calls):
            return self._commit_some(calls, drafts, change, news)
        try:
            return self._written(together, self._database.write_at_once(change), news)
        except (Occupied, Clash):
            return self._commit_some(calls, drafts, change, news)

    def _carried(self, events: Iterable[Envelope]) -> News | None:
        """Who carries the news of these events within the commit, if anybody does."""
        return self._news if self._news is not None and self._news.encloses(events) else None

    def _told(self, done: tuple[int, Any], news: News | None) -> int:
        """Tell what is committed now; the position before its first event."""
        before, enclosed = done
        if news is not None:
            news.tell(enclosed)
        return before

    def _written(self, drafts: Sequence[Draft], done: tuple[int, Any], news: News | None) -> list[Committed]:
        position, answers = self._told(done, news), []
        for each in drafts:
            answers.append(ordinary.committed(each, position, told=news is not None))
            position += len(each.rows)
        return answers

    async def _commit_some(
        self,
        calls: Sequence[Commit],
        drafts: Sequence[Draft | None],
        change: Callable[[Connection], tuple[int, Any]],
        news: News | None,
    ) -> Answers[Committed]:
        """The ordinary ones together as soon as the file is free, the others, or all after a clash, by the rules."""
        written: Iterator[Committed] = iter(())
        if together := [draft for draft in drafts if draft is not None]:
            try:
                written = iter(self._written(together, await self._in_file(change), news))
            except Clash:
                drafts = [None] * len(calls)
        by_the_rules = super()._commit
        rest = [by_the_rules(call) for call, draft in zip(calls, drafts, strict=True) if draft is None]
        judged = iter(await asyncio.gather(*rest, return_exceptions=True))
        return [next(judged) if draft is None else next(written) for draft in drafts]

    async def _published(self, role: str, inbox_ids: Sequence[str]) -> None:
        """Without a flush: what is lost with the power is published again."""

        def mark(conn: Connection) -> None:
            at_once(inbox.published(SqliteTransaction(conn, self._clock), role, inbox_ids))

        await self._in_file(mark, flush=False)

    async def close(self) -> None:
        """Nothing is held here: the database is closed by who opened it."""


def verify_file(path: Path, exported: Ends | None = None) -> tuple[int, list[str]]:
    """Check a database file that nobody needs to be running for: how many events it has, and all that is wrong.

    It is opened for reading only. Raises Corrupt where it is no database of ours, Unavailable where it cannot be read.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            connection.execute("BEGIN")  # one snapshot, whatever is appended meanwhile
            tx = SqliteTransaction(connection)
            return at_once(tx.one("position_gaps"))[0], at_once(audit.faults(tx, exported))
    except sqlite3.OperationalError as error:
        if "no such" in str(error):
            raise Corrupt(f"{path} is not a whole record: {error}", hint="restore it from a backup") from error
        hint = "to verify a copy, put it where this user may write: a log of writes beside it is read through there"
        raise Unavailable(f"{path} cannot be read: {error}", hint=hint) from error
    except sqlite3.DatabaseError as error:
        raise Corrupt(f"{path} is damaged: {error}", hint="restore it from a backup") from error


__all__ = ["SCHEMA", "SqliteStore", "SqliteTransaction", "verify_file"]
