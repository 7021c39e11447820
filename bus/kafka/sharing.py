"""Who of a group reads which partitions: a fair split that moves few, and moves them only when their holder let go.

A member says what it holds when it joins. The member that leads gives each what it holds and may keep, and what
nobody holds; what one holds beyond its share goes to nobody in this round. Its holder finishes, lets it go and
joins again: so the other partitions are read all the while (the idea of Kafka's cooperative assignors).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from bus.file_groups import shares
from bus.kafka.wire import ASSIGNED, SUBSCRIBED

PROTOCOL: Final = "gavotte-1"
"""All members of a group must share one: raised when claims or shares change their meaning."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a member brings along. `generation` is that in which it was given what it holds."""

    name: str
    topics: tuple[str, ...]
    held: frozenset[int] = frozenset()
    generation: int = -1

    def packed(self) -> bytes:
        """As all consumers say it, what is ours in the field that is everybody's own."""
        ours = json.dumps({"name": self.name, "held": sorted(self.held), "generation": self.generation})
        packed: bytes = SUBSCRIBED.encode((0, list(self.topics), ours.encode()))
        return packed

    @staticmethod
    def unpacked(data: bytes) -> Claim:
        """Read a member's claim; raises ValueError for what is none."""
        _, topics, ours = SUBSCRIBED.decode(BytesIO(data))
        found = json.loads(ours)
        return Claim(str(found["name"]), tuple(topics), frozenset(found["held"]), int(found["generation"]))


def share_out(claims: Mapping[str, Claim], partitions: int) -> dict[str, frozenset[int]]:
    """Member id -> the partitions that it may read from now on."""
    holders = _holders(claims, partitions)
    names = {claim.name: member for member, claim in claims.items()}
    counts = shares(names, (claims[member].name for member in holders.values()), partitions)
    wanted: dict[str, list[int]] = {member: [] for member in claims}
    homeless: list[int] = []
    for part in range(partitions):
        member = holders.get(part)
        if member is not None and len(wanted[member]) < counts[claims[member].name]:
            wanted[member].append(part)
        else:
            homeless.append(part)
    for member in sorted(claims, key=lambda member: claims[member].name):
        while homeless and len(wanted[member]) < counts[claims[member].name]:
            wanted[member].append(homeless.pop(0))
    return {
        member: frozenset(part for part in parts if holders.get(part, member) == member)
        for member, parts in wanted.items()
    }


def _holders(claims: Mapping[str, Claim], partitions: int) -> dict[int, str]:
    """Partition -> the member that holds it; of two that say so, the one that was given it last."""
    found: dict[int, str] = {}
    for member, claim in sorted(claims.items(), key=lambda item: item[1].generation):
        found |= dict.fromkeys((part for part in claim.held if part < partitions), member)
    return found


def packed_share(topics: Sequence[str], parts: Iterable[int]) -> bytes:
    """A member's share as all consumers are told it: the same partitions of every topic."""
    numbers = sorted(parts)
    packed: bytes = ASSIGNED.encode((0, [(topic, numbers) for topic in topics], b""))
    return packed


def unpacked_share(data: bytes) -> frozenset[int]:
    """The partition numbers of a share."""
    if not data:
        return frozenset()
    _, topics, _ = ASSIGNED.decode(BytesIO(data))
    return frozenset(part for _, parts in topics for part in parts)
