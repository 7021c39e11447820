"""Connections to the server: opened when needed, kept, dropped when they broke; its clock; its errors in our words."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg

from contracts.errors import Corrupt, GavotteError, Refused, Unavailable, Usage
from state_store.postgres.statements import STATEMENTS

CONNECT_SECONDS: Final = 10.0
COMMAND_SECONDS: Final = 30.0
"""The longest that one statement may take; a server that is silent for longer is taken for lost."""
SESSION: Final = {
    # plans are made once, by indexes alone: what is asked all the time must not slow down as tables grow
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    # locks of a process that vanished or stands still are free again before the leases of others run out
    "idle_in_transaction_session_timeout": "8s",
    "lock_timeout": "20s",
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}

EXPLAINED: Final[tuple[tuple[tuple[type[Exception], ...], type[GavotteError], str, str], ...]] = (
    (
        (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError),
        *(Refused, "{where} does not let us in: {said}", "check store.url: user and password"),
    ),
    ((asyncpg.InvalidCatalogNameError,), Refused, "{where}: {said}", "create the database, or check store.url"),
    (
        (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.UndefinedFunctionError),
        *(Refused, "{where} is not prepared for this build: {said}", "gavotte store migrate"),
    ),
    ((asyncpg.InsufficientPrivilegeError,), Refused, "{where}: {said}", "gavotte store grants"),
    ((asyncpg.DiskFullError,), Unavailable, "{where}: {said}", "free disk space; nothing recorded is lost"),
    (
        (asyncpg.DataCorruptedError, asyncpg.IndexCorruptedError),
        *(Corrupt, "{where} is damaged: {said}", "restore the database from a copy"),
    ),
    (
        (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError),
        *(Unavailable, "{where} is too busy: {said}", "it is tried again"),
    ),
    (
        (asyncpg.InsufficientResourcesError, asyncpg.OperatorInterventionError, asyncpg.PostgresSystemError),
        *(Unavailable, "{where}: {said}", "look into the server's log"),
    ),
)
"""The server's errors in our words, the first that fits: its classes, ours, the message, the way forward."""


class Lost(Unavailable):
    """The connection broke: what was sent last may or may not have been done."""

    code = "unavailable"


class Clash(Exception):
    """Two transactions wanted each other's locks, or waited too long for one: nothing was done, try again."""


class Connection:
    """One connection and the statements that were prepared on it. Broken ones raise Lost."""

    def __init__(self, raw: Any, where: str) -> None:
        self.raw = raw
        self._where = where
        self._prepared: dict[str, Any] = {}

    async def fetch(self, name: str, arguments: Sequence[Any] = ()) -> list[Any]:
        """Run a named statement; its records."""
        try:
            prepared = self._prepared.get(name)
            if prepared is None:
                prepared = self._prepared[name] = await self.raw.prepare(STATEMENTS[name].text)
            records: list[Any] = await prepared.fetch(*arguments)
        except Exception as error:
            raise self._told(error) from error
        return records

    def changed(self, name: str) -> int:
        """How many rows the last run of this statement changed."""
        return int(self._prepared[name].get_statusmsg().rpartition(" ")[2])

    async def execute(self, script: str) -> str:
        """Run statements without parameters; what the last one did."""
        try:
            return str(await self.raw.execute(script))
        except Exception as error:
            raise self._told(error) from error

    @property
    def usable(self) -> bool:
        """Whether another transaction can be begun on it."""
        return not self.raw.is_closed() and not self.raw.is_in_transaction()

    def drop(self) -> None:
        """Let go of it without a word."""
        self.raw.terminate()

    def _told(self, error: Exception) -> Exception:
        if is_loss(error):
            self.drop()
            return Lost(f"{self._where} went away: {_said(error)}", hint="is the server up, and reachable?")
        if isinstance(error, asyncpg.InvalidCachedStatementError):
            self.drop()  # its tables were changed by a migration
            return Lost(f"{self._where} was migrated meanwhile")
        return error


class ServerClock:
    """The server's clock as it was last told, carried on by ours."""

    def __init__(self) -> None:
        self._ahead_us = time.time_ns() // 1000 - time.monotonic_ns() // 1000

    def told(self, server_us: int) -> None:
        self._ahead_us = server_us - time.monotonic_ns() // 1000

    def now_us(self) -> int:
        return self._ahead_us + time.monotonic_ns() // 1000


class Connections:
    """At most `size` connections of this process to one database."""

    def __init__(self, url: str, size: int, *, application: str = "gavotte") -> None:
        self.where = shown(url)
        self.url = url
        self._slots = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._application = application
        self._closed = False
        self.clock = ServerClock()

    @contextlib.asynccontextmanager
    async def borrow(self) -> AsyncIterator[Connection]:
        """A connection for one transaction; it is kept for others where it comes back clean."""
        async with self._slots:
            connection = self._idle.pop() if self._idle else await self.connect()
            try:
                yield connection
            except Lost:
                self._drop_idle()  # what ended one has probably ended all
                raise
            finally:
                if connection.usable and not self._closed:
                    self._idle.append(connection)
                else:
                    connection.drop()

    async def connect(self) -> Connection:
        """A new connection. Raises Unavailable, or Refused where the server lets us not in."""
        if self._closed:
            raise Unavailable(f"the store on {self.where} is closed in this process")
        raw = await dial(self.url, SESSION | {"application_name": self._application}, COMMAND_SECONDS)
        connection = Connection(raw, self.where)
        (row,) = await connection.fetch("server_time")
        self.clock.told(row[0])
        return connection

    async def close(self) -> None:
        """Say good-bye on those that are idle; those in use end with their transaction. Safe to call twice."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            with contextlib.suppress(Exception):
                await connection.raw.close(timeout=2.0)
            connection.drop()

    def _drop_idle(self) -> None:
        for connection in self._idle:
            connection.drop()
        self._idle.clear()


async def dial(url: str, session: Mapping[str, str], command_seconds: float | None = None) -> Any:
    """A bare connection. Raises Unavailable, Refused where the server lets us not in, or Usage."""
    try:
        return await asyncpg.connect(
            url, timeout=CONNECT_SECONDS, command_timeout=command_seconds, server_settings=dict(session)
        )
    except ValueError as error:  # also the driver's own, for an address that it cannot read
        raise Usage(f"store.url is no address: {_said(error)}", hint="postgresql://user@host/database") from None
    except Exception as error:
        raise explained(error, shown(url)) from error


def is_loss(error: BaseException) -> bool:
    """Whether the connection is gone, rather than a statement refused."""
    kinds = (
        asyncpg.PostgresConnectionError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        asyncpg.AdminShutdownError,
        asyncpg.CrashShutdownError,
        asyncpg.CannotConnectNowError,
        asyncpg.IdleInTransactionSessionTimeoutError,
        asyncpg.ReadOnlySQLTransactionError,  # a server that was demoted: the next connection may find the new one
        asyncpg.TooManyConnectionsError,
        OSError,  # TimeoutError is one
    )
    return isinstance(error, kinds) and not isinstance(error, ValueError)  # an argument that does not fit is one


def is_clash(error: BaseException) -> bool:
    """Whether trying again at once may help."""
    kinds = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError)
    return isinstance(error, kinds)


def explained(error: BaseException, where: str) -> BaseException:
    """The server's troubles as errors that a person or the retry table can act on; others as they are."""
    if isinstance(error, GavotteError):
        return error
    said = _said(error)
    for kinds, made, message, hint in EXPLAINED:
        if isinstance(error, kinds):
            return made(message.format(where=where, said=said), hint=hint)
    if is_loss(error):
        return Unavailable(f"{where} does not answer: {said}", hint="is the server up, and reachable?")
    return error


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def shown(url: str) -> str:
    """The address without user and password."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        place = parts.netloc.rpartition("@")[2]
        return f"PostgreSQL {place}{parts.path}"
    return "PostgreSQL"
