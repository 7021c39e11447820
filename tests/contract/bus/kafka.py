"""What the bus suite runs on a real Kafka broker: nodes in this process, and how a bus is opened."""

from __future__ import annotations

from typing import Any

from bus.kafka.bus import KafkaBus
from bus.kafka.cluster import Cluster, Patience
from bus.kafka.link import ended
from bus.kafka.subscription import KafkaSubscription
from tests.contract.bus.cluster import Node

QUICK = Patience(request=15.0, session=4.0, heartbeat=0.1, rebalance=15.0, watch=3.0)


def kafka_bus(servers: str, prefix: str, **settings: Any) -> KafkaBus:
    """A bus as tests want it: what it waits for comes soon."""
    return KafkaBus(Cluster(servers, prefix=prefix, **{"patience": QUICK, "replication": 1, **settings}))


class KafkaCluster:
    """All nodes in this process, each with connections of its own to one broker."""

    features = KafkaBus.features

    def __init__(self, servers: str, prefix: str) -> None:
        self.servers = servers
        self.prefix = prefix
        self.nodes: list[Node] = []

    async def node(self, name: str, *, poll_seconds: float | None = 0.2, wakeups: bool = True) -> Node:
        node = Node(name, kafka_bus(self.servers, self.prefix))
        self.nodes.append(node)
        return node

    async def kill(self, node: Node) -> None:
        """What the kernel does: connections are closed; and no word to anybody."""
        bus = node.bus
        assert isinstance(bus, KafkaBus)
        for task in node.relays:
            task.cancel()
        for subscription in list(bus._subscriptions):
            await silence(subscription)
        bus._subscriptions.clear()
        await bus.close()
        self.nodes.remove(node)

    async def close(self) -> None:
        for node in self.nodes:
            await node.stop()


async def silence(subscription: KafkaSubscription) -> None:
    """End all its tasks and connections, and call nobody back."""
    membership = subscription._membership
    await ended([*subscription._tasks, *membership._tasks])
    await membership._link.drop()
    await subscription._drop_reader()
    subscription._closed = membership._left = True
