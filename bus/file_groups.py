"""Consumer groups in the shared file: who is a member, who reads which partition, and a fair split among the living.

Partitions are owned through rows, and members prove that they live by a lock that the kernel frees with them. There are
no heartbeats: an idle group writes nothing. A member takes free partitions up to its share and gives up what exceeds
it, so that after a change as few partitions move as can be.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from bus.file_log import Place
from bus.queries import SQL


@dataclass(frozen=True, slots=True)
class Membership:
    """One member of a group; `token` tells two lives of the same member apart, `topics` are ids."""

    group: str
    member: str
    presence: str
    token: str
    socket: str
    topics: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Dead:
    """A member that left its row behind."""

    member: str
    token: str
    presence: str
    socket: str


@dataclass(frozen=True, slots=True)
class Look:
    """What a member sees. `lost`: others took it for dead, it owns nothing any more; `others`: presences to watch."""

    owned: frozenset[int]
    share: int
    free: frozenset[int]
    dead: tuple[Dead, ...]
    lost: bool
    others: tuple[str, ...]

    @property
    def excess(self) -> frozenset[int]:
        """What to give up: the highest numbers."""
        return frozenset(sorted(self.owned)[self.share :])

    @property
    def claims(self) -> frozenset[int]:
        """What to take: the lowest free numbers."""
        return frozenset(sorted(self.free)[: max(0, self.share - len(self.owned))])

    @property
    def settled(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.lost or self.dead or self.excess or self.claims)


def join(connection: sqlite3.Connection, me: Membership) -> None:
    """Become a member, or come back as one; what it owned in an earlier life is its own again."""
    connection.execute(
        SQL["join"],
        {
            "group": me.group,
            "member": me.member,
            "presence": me.presence,
            "token": me.token,
            "socket": me.socket,
            "topics": ",".join(map(str, me.topics)),
        },
    )
    connection.executemany(SQL["add_group"], [(me.group, topic) for topic in me.topics])


def look(connection: sqlite3.Connection, me: Membership, partitions: int, is_alive: Callable[[str], bool]) -> Look:
    """The state of the group, and what this member's share of it is."""
    rows = connection.execute(SQL["members"], (me.group,)).fetchall()
    dead = [Dead(name, token, presence, at) for name, presence, token, at in rows if not is_alive(presence)]
    gone = {each.member for each in dead}
    living = [name for name, _, _, _ in rows if name not in gone]
    owners = {part: owner for part, owner in connection.execute(SQL["owners"], (me.group,)) if owner in living}
    return Look(
        owned=frozenset(part for part, owner in owners.items() if owner == me.member),
        share=shares(living, owners.values(), partitions).get(me.member, 0),
        free=frozenset(range(partitions)) - owners.keys(),
        dead=tuple(dead),
        others=tuple(presence for name, presence, _, _ in rows if name != me.member),
        lost=not any(name == me.member and token == me.token for name, _, token, _ in rows),
    )


def shares(members: Iterable[str], held: Iterable[str], partitions: int) -> dict[str, int]:
    """How many partitions each member should have. Those who have most keep the odd ones."""
    count: dict[str, int] = dict.fromkeys(members, 0)
    for owner in held:
        if owner in count:
            count[owner] += 1
    ranked = sorted(count, key=lambda name: (-count[name], name))
    each, odd = divmod(partitions, len(ranked)) if ranked else (0, 0)
    return {name: each + (rank < odd) for rank, name in enumerate(ranked)}


def settle(connection: sqlite3.Connection, me: Membership, partitions: int, is_alive: Callable[[str], bool]) -> Look:
    """Bury the dead and claim this member's share of what is free; returns what was seen before."""
    seen = look(connection, me, partitions, is_alive)
    for each in seen.dead:
        connection.execute(SQL["remove_member"], (me.group, each.member, each.token))
    connection.execute(SQL["release_orphans"], (me.group,))
    if not seen.lost:
        connection.executemany(SQL["claim"], [(me.group, part, me.member) for part in sorted(seen.claims)])
    return seen


def sockets(connection: sqlite3.Connection, group: str) -> list[str]:
    """Where the members of a group are woken."""
    return [at for _, _, _, at in connection.execute(SQL["members"], (group,)) if at]


def release(connection: sqlite3.Connection, me: Membership, parts: Iterable[int]) -> None:
    """Give partitions up."""
    connection.executemany(SQL["release"], [(me.group, part, me.member) for part in sorted(parts)])


def leave(connection: sqlite3.Connection, me: Membership) -> None:
    """Give everything up and be a member no more."""
    connection.execute(SQL["remove_member"], (me.group, me.member, me.token))
    connection.execute(SQL["release_orphans"], (me.group,))


def positions(connection: sqlite3.Connection, me: Membership, parts: Iterable[int]) -> dict[Place, int]:
    """Where to read on, per place; a place where nothing was committed begins at the start of the log."""
    found = {(topic, part): after for topic, part, after in connection.execute(SQL["committed"], (me.group,))}
    return {(topic, part): found.get((topic, part), 0) for part in sorted(parts) for topic in me.topics}


def commit(connection: sqlite3.Connection, me: Membership, offsets: Mapping[Place, int]) -> None:
    """Record how far this member has come, where the partition is still its own."""
    connection.executemany(
        SQL["commit"],
        [
            {"group": me.group, "member": me.member, "topic": topic, "part": part, "next": after}
            for (topic, part), after in offsets.items()
        ],
    )
