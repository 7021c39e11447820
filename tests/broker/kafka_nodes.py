"""What the tests of one broker share: a secured one for all, and clients of it by name."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any

from bus.kafka.bus import KafkaBus
from bus.kafka.cluster import Cluster
from deploy.local.kafka import ADMIN, Kafka
from tests.contract.bus.kafka import QUICK

ROLES = ("planning", "coding", "review", "deploy", "tasks", "operator", "repair")
PASSWORDS = {name: f"{name}-{secrets.token_hex(8)}" for name in (ADMIN, *ROLES)}


def client(broker: Kafka, user: str = ADMIN, **settings: Any) -> KafkaBus:
    """A bus on the broker, as one of its users."""
    found: dict[str, Any] = {"servers": broker.servers, "patience": QUICK, "replication": 1}
    if broker.tls:
        found |= {"security": "tls", "cafile": broker.cafile}
    if broker.users:
        found |= {"security": "sasl", "user": user, "password": broker.users.get(user, "")}
    return KafkaBus(Cluster(**(found | settings)))


def secured(folder: Path) -> Kafka:
    """A broker on which everybody logs in and nobody may do anything without a grant."""
    return Kafka(folder, users=PASSWORDS)


async def hung_up() -> None:
    """Return once this loop has no connection left: aiokafka does not wait for the end of one over TLS that was refused."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        while len(loop._selector.get_map()) > 1:  # type: ignore[attr-defined]  # the loop's own
            await asyncio.sleep(0.01)
