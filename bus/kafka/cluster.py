"""Which Kafka cluster, as whom, and how patiently: everything that the parts of this package take from settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from bus.partitions import PARTITIONS

BROKERS_CHOICE: Final = -1
"""Replication as the brokers are set (`default.replication.factor`)."""
RECORD_BYTES_MAX: Final = 1_000_000
HOUR_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Patience:
    """Times in seconds. Those of a group (`session` to `poll`) are told to the brokers when a member joins."""

    request: float = 20.0
    """How long one question, one publish or one commit may take."""
    session: float = 10.0
    """A member that was silent for so long is taken over."""
    heartbeat: float = 2.0
    rebalance: float = 30.0
    """How long the members of a group wait for each other."""
    poll: float = 300.0
    """A member that fetches nothing for so long, not even in vain, gives its partitions up."""
    watch: float = 15.0
    """Between two looks whether records lie there and none come; after the second the reading is built anew."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """How to reach a cluster, and how topics are made there."""

    servers: str
    """`host:port`, several with commas; the others are learnt from them."""
    security: Literal["plaintext", "tls", "sasl"] = "plaintext"
    """`sasl` is SCRAM-SHA-512 over TLS."""
    user: str = ""
    password: str = ""
    cafile: Path | None = None
    """The certificates to trust; None for those of the system."""
    prefix: str = ""
    """Stands before every topic and group name in the cluster, and nowhere else."""
    partitions: int = PARTITIONS
    replication: int = BROKERS_CHOICE
    retention_hours: float = 168.0
    """How long records of events are kept; letters are kept for ever."""
    record_bytes_max: int = RECORD_BYTES_MAX
    name: str = "gavotte"
    """What the brokers' logs call this client."""
    patience: Patience = Patience()

    def __repr__(self) -> str:
        """Without the password."""
        return f"Cluster({self.servers}, {self.security}{', as ' + self.user if self.user else ''})"

    def named(self, name: str) -> str:
        """A topic or group as the cluster knows it."""
        return self.prefix + name
