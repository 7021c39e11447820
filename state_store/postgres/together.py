"""Many transactions as one: what waits now asks its questions together and is committed together, each judged apart.

The rules of a change are a coroutine that asks statements (`state_store.transaction`). Those of a group take a step
each; what they ask then is sent as one statement for all of them; and so on until all have ended, then one COMMIT. Two of
a group never touch the same task, so it makes no difference to any of them that others are there.

Who fails before writing anything leaves the group; who fails after, spoils it: then nothing is committed, and the others
are tried again without it. Where the server refuses a statement it does not say whose row it was: each is tried alone.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import asyncpg

from contracts.errors import GavotteError, OutcomeUnknown, Unavailable
from state_store.postgres.connections import Connection, Connections, explained, is_clash
from state_store.postgres.statements import STATEMENTS
from state_store.store import Rules
from state_store.transaction import Clash, Row, Values

T = TypeVar("T")

EVERYTHING: Final = 0x6761766F747465_01
"""The advisory lock that changes of single tasks share, and those of all tasks take for themselves."""
LOG: Final = 0x6761766F747465_02
"""The advisory lock of whoever appends to the log."""
TASKS_MAX: Final = 48
"""Tasks of one group: the server has room for 64 locks of each connection, by default."""
READS_MAX: Final = 256
HELD_UP_SECONDS: Final = 0.02
"""A group that takes longer has company."""
PATIENCE_SECONDS: Final = 4.0
"""How long a change is tried again while the server is away: in a restart nobody is told, a longer one is an error."""
PAUSE_SECONDS: Final = (0.0, 0.1, 0.3, 0.6, 1.0)

Kind = Literal["one", "row", "rows", "run", "each", "insert"]
_CHANGES: Final = frozenset({"run", "each", "insert"})


class Ask:
    """A statement that a rule awaits; whoever drives the rule sends the answer."""

    __slots__ = ("kind", "name", "values")

    def __init__(self, kind: Kind, name: str, values: Any) -> None:
        self.kind = kind
        self.name = name
        self.values = values

    def __await__(self) -> Generator[Ask, Any, Any]:
        return (yield self)


class Asking:
    """The transaction of one member of a group."""

    __slots__ = ("now_us",)

    def __init__(self, now_us: Callable[[], int]) -> None:
        self.now_us = now_us

    def one(self, name: str, values: Values = ()) -> Ask:
        return Ask("one", name, values)

    def row(self, name: str, values: Values = ()) -> Ask:
        return Ask("row", name, values)

    def rows(self, name: str, values: Values = ()) -> Ask:
        return Ask("rows", name, values)

    def run(self, name: str, values: Values = ()) -> Ask:
        return Ask("run", name, values)

    def each(self, name: str, values: Sequence[Values]) -> Ask:
        return Ask("each", name, values)

    def insert(self, name: str, values: Values) -> Ask:
        return Ask("insert", name, values)


@dataclass(eq=False, slots=True)
class Member:
    """Rules that wait for their transaction, and who waits for them."""

    rules: Rules[Any]
    future: asyncio.Future[Any]
    tasks: tuple[str, ...] = ()
    alone: bool = False
    repeatable: bool = True
    """Whether it may be done once more where nobody knows if it was done."""
    doubtful: bool = False
    result: Any = None
    error: BaseException | None = None

    def settle(self) -> None:
        if self.future.done():  # whoever asked has gone
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


class Spoilt(Exception):
    """A member failed after writing: it has its error, and nothing of the group may be committed."""


class Refusal(Exception):
    """The server refused a statement of the group; `cause` is its error."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(eq=False, slots=True)
class Round:
    """One member on its way through its rules."""

    member: Member
    steps: Any
    answer: Any = None
    clash: bool = False
    wrote: bool = False
    ask: Ask | None = None

    def go_on(self) -> bool:
        """Take the answer and come to the next question; False at the end. Raises Spoilt."""
        try:
            self.ask = self.steps.throw(Clash("its place is taken")) if self.clash else self.steps.send(self.answer)
        except StopIteration as end:
            self.member.result = end.value
            return False
        except Exception as error:  # it belongs to whoever asked
            self.member.error = error
            if self.wrote:
                raise Spoilt from error
            return False
        self.answer, self.clash = None, False
        self.wrote = self.wrote or self.ask.kind in _CHANGES
        return True


async def play(
    connection: Connection, members: Iterable[Member], now_us: Callable[[], int], *, rounds: int = 0
) -> bool:
    """Run the rules of all members; what became of each stands in it. With `rounds`, False where that was not enough."""
    active = [Round(member, member.rules(Asking(now_us))) for member in members]
    log_locked = False
    played = 0
    try:
        while active := [one for one in active if one.go_on()]:
            if rounds and played == rounds:
                return False
            played += 1
            asked: dict[str, list[Round]] = {}
            for one in active:
                assert one.ask is not None  # noqa: S101  # go_on said so
                asked.setdefault(one.ask.name, []).append(one)
            for name, those in asked.items():
                if name == "event_insert" and not log_locked:
                    await connection.fetch("lock_log", [LOG])
                    log_locked = True
                await _answer(connection, name, those)
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Refusal(error) from error
    finally:
        for one in active:
            one.steps.close()
    return True


async def _answer(connection: Connection, name: str, those: Sequence[Round]) -> None:
    statement = STATEMENTS[name]
    if not statement.gathered:
        for one in those:
            await _answer_one(connection, name, one)
        return
    owners: list[int] = []
    values: list[list[Any]] = []
    for number, one in enumerate(those):
        asked = one.ask.values if one.ask.kind == "each" else (one.ask.values,)  # type: ignore[union-attr]  # it asks
        for given in asked:
            owners.append(number)
            values.append(list(map(storable, statement.arguments(given))))
    if not values:
        return
    records = await connection.fetch(name, list(zip(*values, strict=True)))
    kind = those[0].ask.kind  # type: ignore[union-attr]  # it asks
    if kind == "insert":
        _number(those, records)
    elif kind in _CHANGES:
        _count(those, owners, records, told="RETURNING" in statement.text)
    else:
        _distribute(those, owners, records)


def _number(those: Sequence[Round], records: Sequence[Any]) -> None:
    """Each insert has its number; where one is missing nobody says whose."""
    if len(records) == len(those):
        for one, record in zip(those, records, strict=True):
            one.answer = record[0]
    elif len(those) == 1:
        those[0].clash = True
    else:
        raise Refusal(Clash("one of the rows was refused"))


def _count(those: Sequence[Round], owners: Sequence[int], records: Sequence[Any], *, told: bool) -> None:
    for one in those:
        one.answer = 0 if told else 1
    for record in records:
        those[owners[record[0] - 1]].answer += 1


def _distribute(those: Sequence[Round], owners: Sequence[int], records: Sequence[Any]) -> None:
    found: list[list[Row]] = [[] for _ in those]
    for record in records:
        number, *row = record
        found[owners[number - 1]].append(tuple(row))
    for one, rows in zip(those, found, strict=True):
        one.answer = _shaped(one.ask, rows)


async def _answer_one(connection: Connection, name: str, one: Round) -> None:
    statement, ask = STATEMENTS[name], one.ask
    assert ask is not None  # noqa: S101  # it asks
    if ask.kind == "each":
        for values in ask.values:
            await connection.fetch(name, statement.arguments(values))
        return
    records = await connection.fetch(name, list(map(storable, statement.arguments(ask.values))))
    if ask.kind == "run":
        one.answer = connection.changed(name)
    elif ask.kind == "insert":
        one.clash = not records
        one.answer = records[0][0] if records else None
    else:
        one.answer = _shaped(ask, [tuple(record) for record in records])


def _shaped(ask: Ask | None, rows: list[Row]) -> Any:
    if ask is not None and ask.kind == "rows":
        return rows
    return rows[0] if rows else None


def storable(value: Any) -> Any:
    """What the server can keep: its text has no character zero."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def lock_key(task_id: str) -> int:
    """The number of the advisory lock of a task."""
    return int.from_bytes(hashlib.blake2b(task_id.encode(), digest_size=8).digest(), signed=True)


# -- changes -----------------------------------------------------------------------------------------------------------


class Changes:
    """Group commit: what waits while a group is under way is the next group; nobody waits for one to fill.

    A group that is held up (by a lock, a slow disk) does not hold up the others: then the next one goes beside it. Not
    before, since large groups cost the server less than many.
    """

    def __init__(self, connections: Connections, parallel: int, clock: Callable[[], int] | None = None) -> None:
        self._connections = connections
        self._parallel = parallel
        self._clock = clock
        self._queue: deque[Member] = deque()
        self._busy: set[str] = set()
        self._groups: set[asyncio.Task[None]] = set()
        self._next_at = 0.0

    async def change(self, rules: Rules[T], tasks: Sequence[str], *, alone: bool = False, repeatable: bool = True) -> T:
        """Run the rules in the next group; returns what they returned once that is durable."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append(Member(rules, future, tuple(tasks), alone, repeatable))
        self._start()
        return await future

    async def close(self) -> None:
        """Finish what is queued."""
        while self._groups:
            await asyncio.wait(self._groups)

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        if self._groups and (len(self._groups) == self._parallel or loop.time() < self._next_at):
            return
        if group := self._take():
            self._next_at = loop.time() + HELD_UP_SECONDS
            loop.call_later(HELD_UP_SECONDS, self._start)
            running = loop.create_task(self._serve(group))
            self._groups.add(running)
            running.add_done_callback(self._ended)

    def _ended(self, group: asyncio.Task[None]) -> None:
        self._groups.discard(group)
        self._start()

    def _take(self) -> list[Member]:
        """The next group: what waits, but for tasks that are at work already, and as far as the locks reach."""
        group: list[Member] = []
        left: deque[Member] = deque()
        blocked = set(self._busy)
        locks = 0
        for member in self._queue:
            full = locks and locks + len(member.tasks) > TASKS_MAX
            done = bool(group) and (group[0].alone or member.alone)
            if member.future.done():
                continue
            if full or done or not blocked.isdisjoint(member.tasks):
                left.append(member)
            else:
                group.append(member)
                locks += len(member.tasks)
            blocked.update(member.tasks)  # what comes later for these tasks stays behind
        self._queue = left
        self._busy.update(*(member.tasks for member in group))
        return group

    async def _serve(self, group: list[Member]) -> None:
        try:
            await self._commit(group)
        except Exception as error:  # noqa: BLE001  # whatever it is, those who wait must hear of it
            for member in group:
                member.error = member.error or error
        finally:
            for member in group:
                self._busy.difference_update(member.tasks)
                member.settle()

    async def _commit(self, group: Sequence[Member]) -> None:
        """Commit what of the group can be; what became of each stands in it."""
        left = list(group)
        patience = _Patience()
        while left:
            try:
                await self._try(left)
            except Spoilt:
                left = [member for member in left if member.error is None]
            except Refusal as refusal:
                left = await self._apart(left, refusal.cause)
            except Unavailable as error:  # the server is away
                left = _after_loss(left, error, last=not await patience.pause())
            else:
                return

    async def _apart(self, left: list[Member], cause: BaseException) -> list[Member]:
        """After a refusal: one member has its error; of many each is tried alone; who clashed is tried again."""
        if is_clash(cause):
            await asyncio.sleep(PAUSE_SECONDS[1])
            return left
        if len(left) > 1:
            for member in left:
                await self._commit([member])
        else:
            left[0].error = explained(cause, self._connections.where)
        return []

    async def _try(self, group: Sequence[Member]) -> None:
        """One attempt. Raises Spoilt, Refusal or Unavailable; a commit without an answer makes its members doubtful."""
        for member in group:
            member.result = member.error = None
        async with self._connections.borrow() as connection:
            try:
                await connection.execute("BEGIN")
                await self._lock(connection, group)
                await play(connection, group, self._clock or self._connections.clock.now_us)
            except BaseException:
                await _roll_back(connection)
                raise
            try:
                done = await connection.execute("COMMIT")
            except Unavailable:
                for member in group:
                    member.doubtful = True
                raise
            except asyncpg.PostgresError as error:
                raise Refusal(error) from error
            if done != "COMMIT":
                raise Refusal(asyncpg.SerializationError(f"the server answered COMMIT with {done}"))

    async def _lock(self, connection: Connection, group: Sequence[Member]) -> None:
        """Take the locks of the group, all in one order, and look at the server's clock."""
        try:
            if any(member.alone for member in group):
                ((*_, now_us),) = await connection.fetch("lock_all", [EVERYTHING])
            else:
                keys = sorted({lock_key(task_id) for member in group for task_id in member.tasks})
                ((*_, now_us),) = await connection.fetch("lock_tasks", [EVERYTHING, keys])
        except asyncpg.PostgresError as error:
            raise Refusal(error) from error
        self._connections.clock.told(now_us)


class _Patience:
    """How often, and how long, something is tried again."""

    def __init__(self) -> None:
        self._tries = 0
        self._until = asyncio.get_running_loop().time() + PATIENCE_SECONDS

    async def pause(self) -> bool:
        """Wait a little; False where it has been long enough."""
        if asyncio.get_running_loop().time() >= self._until:
            return False
        await asyncio.sleep(PAUSE_SECONDS[min(self._tries, len(PAUSE_SECONDS) - 1)])
        self._tries += 1
        return True


def _after_loss(group: Sequence[Member], error: GavotteError, *, last: bool) -> list[Member]:
    """Who is tried again after the server went away; the others have their error."""
    again = []
    for member in group:
        if member.doubtful and (last or not member.repeatable):
            member.error = OutcomeUnknown(f"a commit was not confirmed: {error.message}", hint="it is looked up first")
        elif last:
            member.error = error
        else:
            again.append(member)
    return again


async def _roll_back(connection: Connection) -> None:
    if connection.raw.is_closed():
        return
    try:
        await connection.execute("ROLLBACK")
    except Exception:  # noqa: BLE001  # whatever it is, this connection has served
        connection.drop()


# -- reads -------------------------------------------------------------------------------------------------------------


class Reads:
    """Questions that wait now are asked together: most are answered in one round, the others on one snapshot."""

    def __init__(self, connections: Connections, clock: Callable[[], int] | None = None) -> None:
        self._connections = connections
        self._clock = clock or connections.clock.now_us
        self._queue: deque[Member] = deque()
        self._reading: asyncio.Task[None] | None = None

    async def read(self, rules: Rules[T]) -> T:
        """Answer with what was committed last."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append(Member(rules, future))
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._serve())
        return await future

    async def survey(self, rules: Rules[T]) -> T:
        """The same for what takes its time: it holds up nobody."""
        member: Member = Member(rules, asyncio.get_running_loop().create_future())
        await self._answer([member])
        member.settle()
        result: T = await member.future
        return result

    async def close(self) -> None:
        """Finish what is queued."""
        if self._reading is not None:
            await asyncio.wait([self._reading])

    async def _serve(self) -> None:
        try:
            while self._queue:
                waiting = [self._queue.popleft() for _ in range(min(len(self._queue), READS_MAX))]
                batch = [member for member in waiting if not member.future.done()]
                await self._answer(batch)
                for member in batch:
                    member.settle()
        finally:
            self._reading = None

    async def _answer(self, batch: Sequence[Member]) -> None:
        patience = _Patience()
        while True:
            error: BaseException
            try:
                await self._try(batch)
            except Refusal as refusal:
                if len(batch) > 1:
                    for member in batch:
                        await self._answer([member])
                    return
                error = explained(refusal.cause, self._connections.where)
            except Unavailable as lost:
                if await patience.pause():
                    continue
                error = lost
            except Exception as other:  # noqa: BLE001  # whatever it is, those who wait must hear of it
                error = other
            else:
                return
            for member in batch:
                member.error = error
            return

    async def _try(self, batch: Sequence[Member]) -> None:
        for member in batch:
            member.result = member.error = None
        async with self._connections.borrow() as connection:
            if await play(connection, batch, self._clock, rounds=1):
                return
            for member in batch:
                member.result = member.error = None
            try:
                await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                await play(connection, batch, self._clock)
                await connection.execute("COMMIT")
            except BaseException:
                await _roll_back(connection)
                raise
