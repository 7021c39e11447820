"""The store on PostgreSQL: changes in group commits, questions gathered, the server's clock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, Self, TypeVar

from contracts.codec import Codec
from contracts.topology import Topology
from state_store.bodies import Bodies
from state_store.ordinary import begins_task
from state_store.port import Claim, Commit, Committed, Encoded, Recorded
from state_store.postgres.connections import Connections
from state_store.postgres.listening import Listener
from state_store.postgres.migrations import check
from state_store.postgres.ordinary import Ordinary
from state_store.postgres.together import Changes, Reads
from state_store.store import Asked, Rules, Store

T = TypeVar("T")

CONNECTIONS: Final = 4
"""More are slower where the server has few cores: half of them commit, one asks, one surveys."""


class PostgresStore(Store):
    """`StateStore` on a database that was migrated; made by `open`.

    A lease ends by its time alone, on the server's clock; `is_alive` and `clock` are for tests.
    """

    look_seconds: ClassVar[tuple[float, ...]] = (2.0,)  # the server tells: this is for what it could not tell

    def __init__(
        self,
        connections: Connections,
        codec: Codec,
        *,
        parallel: int = CONNECTIONS // 2,
        clock: Callable[[], int] | None = None,
        is_alive: Callable[[str], bool] | None = None,
        topology: Topology | None = None,
    ) -> None:
        super().__init__(codec, Bodies(None), is_alive, topology)
        self._connections = connections
        self._changes = Changes(connections, parallel, clock)
        self._reads = Reads(connections, clock)
        self._ordinary = Ordinary(
            connections,
            clock or connections.clock.now_us,
            judge_append=lambda events: super(PostgresStore, self)._append(events, None),
            judge_claim=super()._claim,
            judge_commit=super()._commit,
        )
        self._listener = Listener(connections.url)

    @classmethod
    async def open(cls, url: str, codec: Codec, *, size: int = CONNECTIONS, **more: Any) -> Self:
        """Connect, and check that the tables are those of this build.

        Raises Unavailable, Refused (no way in, or `gavotte store migrate` is due) or Usage.
        """
        connections = Connections(url, size)
        try:
            async with connections.borrow() as connection:
                await check(connection.raw, connections.where)
        except BaseException:
            await connections.close()
            raise
        return cls(connections, codec, parallel=max(1, size // 2), **more)

    async def _read(self, rules: Rules[T]) -> T:
        return await self._reads.read(rules)

    async def _survey(self, rules: Rules[T]) -> T:
        return await self._reads.survey(rules)

    async def _change(self, rules: Rules[T], tasks: Sequence[str], *, alone: bool, repeatable: bool) -> T:
        return await self._changes.change(rules, tasks, alone=alone, repeatable=repeatable)

    # -- many at once: the ordinary ones together, all others by the rules -------------------------------------------

    async def _append(self, events: Sequence[Encoded], expected_sequence: int | None) -> list[Recorded]:
        if expected_sequence is None and events and all(map(begins_task, events)):
            return await self._ordinary.append(events)
        return await super()._append(events, expected_sequence)

    async def ready_there(self, role: str, event_ids: Sequence[str]) -> Mapping[str, Claim]:
        return await self._ordinary.ready(role, event_ids)

    def _claim(self, asked: Asked) -> Awaitable[Claim]:
        return self._ordinary.claim(asked)

    def _commit(self, request: Commit) -> Awaitable[Committed]:
        return self._ordinary.commit(request)

    async def _published(self, role: str, inbox_ids: Sequence[str]) -> None:
        if not await self._ordinary.published(role, inbox_ids):
            await super()._published(role, inbox_ids)

    async def _alarm(self) -> Callable[[float], Awaitable[object]]:
        return await self._listener.alarm()

    async def close(self) -> None:
        await self._listener.close()
        await self._ordinary.close()
        await self._changes.close()
        await self._reads.close()
        await self._connections.close()
