"""One connection for questions to the cluster: opened when needed, dropped when it fails, each question with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, Final, TypeVar

from aiokafka import errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType

from bus.kafka import faults
from bus.kafka.cluster import Cluster
from bus.kafka.wire import Api, Request
from contracts.errors import Refused, Unavailable

T = TypeVar("T")

CLOSE_SECONDS: Final = 5.0
CONNECT_SECONDS: Final = 1.0
"""How long a connection that nobody waits for any more may still take to come about."""
BACKOFF_MS: Final = 200


def arguments(cluster: Cluster, *, request_seconds: float | None = None) -> dict[str, Any]:
    """What every client of aiokafka is made with; raises Refused where the certificates cannot be read."""
    found: dict[str, Any] = {
        "bootstrap_servers": cluster.servers,
        "client_id": cluster.name,
        "request_timeout_ms": round(1000 * (request_seconds or cluster.patience.request)),
        "retry_backoff_ms": BACKOFF_MS,
        "metadata_max_age_ms": 60_000,
    }
    if cluster.security != "plaintext":
        try:
            context = ssl.create_default_context(cafile=cluster.cafile)
        except (OSError, ssl.SSLError) as error:
            raise Refused(f"{cluster.cafile} holds no certificates: {error}", hint="bus.cafile") from error
        found |= {"security_protocol": "SSL", "ssl_context": context}
    if cluster.security == "sasl":
        found |= {
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": cluster.user,
            "sasl_plain_password": cluster.password,
        }
    return found


async def within(seconds: float, waited: Awaitable[T]) -> T:
    """Wait for so long and no longer; what is late is cancelled in the background. Raises TimeoutError."""
    task = asyncio.ensure_future(waited)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not done:
        task.cancel()
        task.add_done_callback(_heard)
        raise TimeoutError(f"no answer within {seconds:g} s")
    if task.cancelled():  # not we were cancelled, but something that it waited for
        raise ConnectionAbortedError("it was closed meanwhile")
    return task.result()


async def begun(seconds: float, beginning: Coroutine[Any, Any, T]) -> T:
    """Wait for what connects, as `within` does. Whoever is cancelled meanwhile lets it come to its end for a moment: a
    client that is cancelled while it asks for the brokers' list forgets the connection that it asks by, open as it is.
    """
    task = asyncio.ensure_future(beginning)
    try:
        return await within(seconds, asyncio.shield(task))
    finally:
        if not task.done():
            await asyncio.wait({task}, timeout=CONNECT_SECONDS)
            task.cancel()
            task.add_done_callback(_heard)


def _heard(task: asyncio.Task[Any]) -> None:
    """What became of it has been looked at."""
    if not task.cancelled():
        task.exception()


async def ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel these, and return when each has come to its end, whatever that is."""
    cancelled = list(tasks)
    for task in cancelled:
        task.cancel()
    if cancelled:
        await asyncio.wait(cancelled)


async def dropped(*closings: Coroutine[Any, Any, Any]) -> None:
    """Close what may hang or fail while it closes, and forget it."""
    for closing in closings:
        with contextlib.suppress(Exception):
            await within(CLOSE_SECONDS, closing)


async def drop_consumer(consumer: Any) -> None:
    """Close a consumer in any state: its own way stumbles over a request in flight and leaves the connection open."""
    await dropped(consumer.stop(), consumer._client.close())  # noqa: SLF001  nothing else of it can be reached


class Link:
    """Asks brokers. Not for many at once: who must not wait for others has a link of its own."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        patience = cluster.patience
        self._longest = max(patience.request, patience.rebalance + 5.0)
        self._client: Any = None
        self._opening = asyncio.Lock()
        self._coordinators: dict[str, int] = {}

    async def client(self) -> Any:
        """The open client, or a new one; raises a GavotteError that says why there is none."""
        async with self._opening:
            if self._client is None:
                client = AIOKafkaClient(**arguments(self.cluster, request_seconds=self._longest))
                try:
                    await self._introduce(client)
                except (errors.KafkaError, OSError) as error:
                    await dropped(client.close())
                    raise faults.explained(error, self.cluster, "a connection") from error
                except BaseException:
                    await dropped(client.close())
                    raise
                self._client = client
            return self._client

    async def _introduce(self, client: Any) -> None:
        """Have the client learn of the brokers. One that is just coming up names none, for which the client is not prepared."""
        await begun(self.cluster.patience.request, client.bootstrap())
        if not client.cluster.brokers():
            raise Unavailable(f"Kafka at {self.cluster.servers} knows of no broker yet", hint="is it starting?")

    async def ask(
        self,
        api: Api,
        *values: Any,
        doing: str,
        group: str | None = None,
        node: int | None = None,
        patiently: bool = False,
    ) -> dict[str, Any]:
        """Ask this broker, or the coordinator of the group, or any; raises a GavotteError if no answer came.

        `patiently` is for an answer that waits for all members of a group. It travels by a connection of its own, as
        a broker answers what it is asked over one connection in that order.
        """
        client = await self.client()
        lane = ConnectionGroup.COORDINATION if patiently else ConnectionGroup.DEFAULT
        try:
            async with asyncio.timeout(self._longest if patiently else self.cluster.patience.request):
                if group is not None:
                    node = await self._coordinator(client, group)
                elif node is None:
                    node = client.get_random_node()
                answer: dict[str, Any] = await client.send(node, Request(api, values), group=lane)
        except (errors.KafkaError, OSError) as error:  # TimeoutError is an OSError
            if group is not None:
                self.forget(group)
            if not isinstance(error, errors.GroupAuthorizationFailedError):
                await self.drop()
            raise faults.explained(error, self.cluster, doing) from error
        finally:
            if client is not self._client:  # dropped meanwhile, perhaps before this question's connection was there
                await dropped(client.close())
        return answer

    async def metadata(self, doing: str) -> Any:
        """All topics that this user may see, freshly asked."""
        client = await self.client()
        try:
            return await within(self.cluster.patience.request, client.fetch_all_metadata())
        except (errors.KafkaError, OSError) as error:
            await self.drop()
            raise faults.explained(error, self.cluster, doing) from error

    def forget(self, group: str) -> None:
        """Look the group's coordinator up again next time."""
        self._coordinators.pop(group, None)

    async def drop(self) -> None:
        """Close; the next question opens anew, from the servers of the settings."""
        client, self._client = self._client, None
        self._coordinators.clear()
        if client is not None:
            await dropped(client.close())

    async def _coordinator(self, client: Any, group: str) -> int:
        if group not in self._coordinators:
            while True:
                try:
                    node: int = await client.coordinator_lookup(CoordinationType.GROUP, self.cluster.named(group))
                    break
                except errors.CoordinatorNotAvailableError:  # the first group of a cluster: its topic is being made
                    await asyncio.sleep(BACKOFF_MS / 1000)
            if client.cluster.broker_metadata(node) is None:
                await client.force_metadata_update()
            self._coordinators[group] = node
        return self._coordinators[group]
