"""One member of a consumer group: it joins, says that it lives, takes and gives up partitions, commits, and leaves.

A member is static: it has a name, and whoever comes back by that name within the session is given its partitions at
once. The newest bearer of a name wins; the older one is told (`Busy`) and reads nothing more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from enum import IntEnum
from typing import Any, Final

from bus.kafka import faults, wire
from bus.kafka.cluster import Cluster
from bus.kafka.link import Link, dropped, ended, within
from bus.kafka.sharing import PROTOCOL, Claim, packed_share, share_out, unpacked_share
from contracts.errors import Busy, Refused, Retryable, Unavailable

log = logging.getLogger(__name__)

Parts = frozenset[int]

PAUSE_SECONDS: Final = 0.2
PAUSE_SECONDS_MAX: Final = 5.0


class Code(IntEnum):
    """What a coordinator answers, as far as something else than giving up follows from it."""

    DONE = 0
    LOADING = 14
    NOT_AVAILABLE = 15
    NOT_COORDINATOR = 16
    ILLEGAL_GENERATION = 22
    INCONSISTENT_PROTOCOL = 23
    UNKNOWN_MEMBER = 25
    INVALID_SESSION = 26
    REBALANCING = 27
    FENCED = 82


MOVING: Final = frozenset({Code.LOADING, Code.NOT_AVAILABLE, Code.NOT_COORDINATOR})


class Membership:
    """`gained` and `lost` are awaited for partitions as the port says; `failed` hears what made going on impossible."""

    def __init__(
        self,
        cluster: Cluster,
        claim: Claim,
        group: str,
        *,
        gained: Callable[[Parts], Awaitable[None]],
        lost: Callable[[Parts], Awaitable[None]],
        failed: Callable[[BaseException], None],
    ) -> None:
        self.group = group
        self.held: Parts = frozenset()
        """The partitions that are this member's, those that it is giving up included."""
        self._cluster = cluster
        self._name = claim.name
        self._topics = [cluster.named(topic) for topic in claim.topics]
        self._gained, self._lost, self._failed = gained, lost, failed
        self._link = Link(cluster)
        self._member = ""
        self._generation = -1
        self._joined = asyncio.Event()
        self._upset = asyncio.Event()
        self._void = False
        """The group thinks that we hold nothing: what we hold is to be let go, and is not ours to commit."""
        self._round_over = asyncio.Event()
        """No round is under way."""
        self._round_over.set()
        self._left = False
        self._heard_at = self._polled_at = asyncio.get_running_loop().time()
        self._tasks: list[asyncio.Task[None]] = []

    # -- its life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin; raises a GavotteError if the group cannot be reached or read."""
        try:
            await self._introduce()
        except BaseException:
            await self._link.drop()
            raise
        self._tasks = [asyncio.create_task(self._guard(loop)) for loop in (self._keep(), self._beat())]

    async def _introduce(self) -> None:
        """Whether the group can be found, and is ours to read."""
        answer = await self._ask(wire.OFFSET_FETCH, [])
        if answer["error"] not in MOVING | {Code.DONE}:
            raise faults.of_code(answer["error"], self._cluster, f"group {self.group}")

    def polled(self) -> None:
        """The application fetches: it is alive."""
        self._polled_at = asyncio.get_running_loop().time()

    async def close(self) -> None:
        """Let everything go and leave, so that others take over at once.

        A round that is broken off would have begun a generation in which we could commit nothing, so it is waited for.
        """
        if self._left:
            return
        self._left = True
        if self.held:
            await _happens(self._round_over, self._cluster.patience.session)
        await ended(self._tasks)
        await self._lose(self.held)
        await self._leave()
        await self._link.drop()

    # -- offsets ------------------------------------------------------------------------------------------------------

    async def committed(self, parts: Parts) -> dict[tuple[str, int], int]:
        """The next offset to read per (topic, partition), where one was committed. Topics as the cluster names them."""
        wanted = [(topic, sorted(parts)) for topic in self._topics]
        answer = await self._ask(wire.OFFSET_FETCH, wanted)
        codes = [answer["error"], *(row[4] for _, rows in answer["topics"] for row in rows)]
        for code in filter(None, codes):
            self._heed(code)
            raise Unavailable(f"group {self.group} is being moved between brokers")
        return {(topic, row[0]): row[1] for topic, rows in answer["topics"] for row in rows if row[1] >= 0}

    async def commit(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Record offsets of partitions that are held; others are ignored. Raises Unavailable after the deadline."""
        try:
            async with asyncio.timeout(self._cluster.patience.request):
                await self._commit(offsets)
        except TimeoutError as error:
            raise Unavailable(f"group {self.group} took no offsets in time") from error

    async def _commit(self, offsets: Mapping[tuple[str, int], int]) -> None:
        pause_seconds = PAUSE_SECONDS
        while not self._void:
            by_topic: dict[str, list[tuple[int, int, int, str]]] = {}
            for (topic, part), offset in offsets.items():
                if part in self.held:
                    by_topic.setdefault(topic, []).append((part, offset, -1, ""))
            if not by_topic:
                return
            answer = await self._ask(wire.OFFSET_COMMIT, self._generation, *self._me, list(by_topic.items()))
            codes = {row[1] for _, rows in answer["topics"] for row in rows} - {0}
            if not codes:
                self._heard_at = asyncio.get_running_loop().time()
                return
            code = codes.pop()
            if code in {Code.REBALANCING, Code.ILLEGAL_GENERATION} and not self._joined.is_set():
                if self._left:
                    raise Unavailable(f"group {self.group} went on without {self._name}, which leaves")
                await self._joined.wait()
                continue
            try:
                self._heed(code)
            except Retryable:
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, PAUSE_SECONDS_MAX)
            except Busy as error:
                self._end(error)

    # -- joining ------------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Join whenever something changed, and take and give up what that changes."""
        pause_seconds = PAUSE_SECONDS
        while not self._left:
            self._upset.clear()
            if self._void:
                await self._lose(self.held)
                self._void = False
            try:
                await self._rest_while_idle()
                share = await self._round()
            except Retryable as error:
                log.warning("group %s waits: %s", self.group, error)
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, PAUSE_SECONDS_MAX)
                continue
            if share is not None and not self._left:
                pause_seconds = PAUSE_SECONDS
                await self._settle(share)
                await self._upset.wait()

    async def _round(self) -> Parts | None:
        """Join and be given a share; None if it is to be tried again."""
        self._round_over.clear()
        self._joined.clear()
        try:
            patience = self._cluster.patience
            times = (round(patience.session * 1000), round(patience.rebalance * 1000))
            claim = Claim(self._name, tuple(self._topics), self.held, self._generation)
            protocols = [(PROTOCOL, claim.packed())]
            joined = await self._ask(wire.JOIN_GROUP, *times, *self._me, "consumer", protocols, patiently=True)
            if joined["error"]:
                self._heed(joined["error"])
                return None
            self._member = joined["member"]
            generation = joined["generation"]
            shares = self._shared_out(joined) if joined["leader"] == self._member else []
            synced = await self._ask(wire.SYNC_GROUP, generation, *self._me, shares, patiently=True)
            if synced["error"]:
                self._heed(synced["error"])
                return None
            self._generation = generation
            self._heard_at = asyncio.get_running_loop().time()
            self._joined.set()
        finally:
            self._round_over.set()
        return unpacked_share(synced["assignment"])

    def _shared_out(self, joined: dict[str, Any]) -> list[tuple[str, bytes]]:
        """We lead: everybody's share."""
        try:
            claims = {member: Claim.unpacked(metadata) for member, _, metadata in joined["members"]}
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(f"a stranger is in group {self.group}: {error}", hint="a group is for one program") from error
        shares = share_out(claims, self._cluster.partitions)
        return [(member, packed_share(claims[member].topics, parts)) for member, parts in shares.items()]

    async def _settle(self, share: Parts) -> None:
        """Give up what is no longer ours and take what is new. What was given up goes to others when all join again."""
        lost = self.held - share
        if lost:
            await self._lose(lost)
            self._upset.set()
        gained = share - self.held
        while gained and not self._void:
            try:
                await self._gained(gained)
            except Retryable as error:
                log.warning("partitions %s wait: %s", sorted(gained), error)
                if await _happens(self._upset, PAUSE_SECONDS_MAX):
                    return  # they were not taken: whoever is given them next may have them
            else:
                log.info("%s gained partitions %s", self._name, sorted(gained))
                self.held |= gained
                return

    async def _lose(self, parts: Parts) -> None:
        if not parts:
            return
        log.info("%s gives up partitions %s", self._name, sorted(parts))
        try:
            await self._lost(parts)
        except Retryable as error:
            log.warning("partitions %s are given up as they are: %s", sorted(parts), error)
        finally:
            self.held -= parts

    async def _rest_while_idle(self) -> None:
        """An application that does not fetch holds nothing up: it is no member until it fetches again."""
        if not self._is_idle():
            return
        log.error("nothing was fetched for %g s: leaving group %s", self._cluster.patience.poll, self.group)
        await self._lose(self.held)
        await self._leave()
        while self._is_idle():  # noqa: ASYNC110  a look at the clock, in the rhythm of the heartbeat
            await asyncio.sleep(self._cluster.patience.heartbeat)

    def _is_idle(self) -> bool:
        return asyncio.get_running_loop().time() - self._polled_at > self._cluster.patience.poll

    async def _leave(self) -> None:
        if self._member:
            gone = self._link.ask(
                *(wire.LEAVE_GROUP, self._cluster.named(self.group), [self._me]),
                doing=f"leaving group {self.group}",
                group=self.group,
            )
            await dropped(gone)
        self._member, self._generation = "", -1
        self._joined.clear()

    # -- being alive --------------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        """Tell the coordinator that we live, and hear whether the group changed."""
        patience = self._cluster.patience
        while True:
            await asyncio.sleep(patience.heartbeat)
            if self._joined.is_set() and not self._void:
                try:
                    answer = await within(patience.session, self._ask(wire.HEARTBEAT, self._generation, *self._me))
                    if answer["error"] in {Code.DONE, Code.REBALANCING}:
                        self._heard_at = asyncio.get_running_loop().time()
                    if answer["error"]:
                        self._heed(answer["error"])
                except (Retryable, TimeoutError) as error:
                    log.warning("group %s does not hear that %s lives: %s", self.group, self._name, error)
            silent_seconds = asyncio.get_running_loop().time() - self._heard_at
            if self.held and self._round_over.is_set() and silent_seconds > patience.session:
                self._forfeit()
            if self._is_idle():
                self._upset.set()

    def _forfeit(self) -> None:
        """Others may have what we hold: let it go and join anew."""
        self._void = True
        self._upset.set()

    def _heed(self, code: int) -> None:
        """What an error code of the coordinator asks for; raises what is not mended by joining again."""
        doing = f"group {self.group}"
        match code:
            case Code.REBALANCING:
                self._upset.set()
            case Code.ILLEGAL_GENERATION:
                self._forfeit()
            case Code.UNKNOWN_MEMBER:
                self._member = ""
                self._forfeit()
            case Code.FENCED:
                raise Busy(
                    f"another process has joined {doing} as member {self._name}",
                    hint="give each process of a role an instance name of its own",
                )
            case Code.LOADING | Code.NOT_AVAILABLE | Code.NOT_COORDINATOR:
                self._link.forget(self.group)
                raise Unavailable(f"{doing} is being moved between brokers")
            case Code.INCONSISTENT_PROTOCOL:
                raise Refused(f"{doing} is in use by another kind of consumer", hint="choose another bus.prefix")
            case Code.INVALID_SESSION:
                seconds = self._cluster.patience.session
                raise Refused(
                    f"the brokers do not take a session of {seconds:g} s",
                    hint="bus.session_seconds must lie within group.min.session.timeout.ms and ...max...",
                )
            case _:
                raise faults.of_code(code, self._cluster, doing)

    # -- inside -------------------------------------------------------------------------------------------------------

    @property
    def _me(self) -> tuple[str, str]:
        """Who we are, as the coordinator wants it."""
        return self._member, self._name

    async def _ask(self, api: wire.Api, *values: Any, patiently: bool = False) -> dict[str, Any]:
        return await self._link.ask(
            *(api, self._cluster.named(self.group), *values),
            doing=f"group {self.group}",
            group=self.group,
            patiently=patiently,
        )

    async def _guard(self, loop: Coroutine[Any, Any, None]) -> None:
        """Run one of the two loops until something ends it that no further try mends."""
        try:
            await loop
        except Exception as error:  # noqa: BLE001  whatever it is, a callback's mistake or our own: whoever fetches must know
            self._end(error)

    def _end(self, error: BaseException) -> None:
        """Be no member any more, without a word to the group: `close` lets go of what is held."""
        self._void = True
        for task in self._tasks:
            task.cancel()
        self._failed(error)


async def _happens(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):  # wait_for may swallow a cancellation
            await event.wait()
    except TimeoutError:
        return False
    return True
