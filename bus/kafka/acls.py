"""Who may do what in the cluster, derived from the table of roles: each role writes its own topic and no other's.

A role reads what it consumes, commits for its own group, and writes its own letters. Whoever submits tasks writes
the topic of tasks; the operator writes the operator's; `repair` puts letters back where they came from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bus.kafka import faults, wire
from bus.kafka.cluster import Cluster
from bus.kafka.link import Link
from contracts.topology import OPERATOR_PRODUCER, TASKS_PRODUCER, Topology, dead_letter_topic, topic_of

REPAIR: Final = "repair"
"""Who redrives letters: it writes every topic of events, so it is nobody's everyday user."""

KINDS: Final = {"topic": 2, "group": 3}
OPERATIONS: Final = {"Read": 3, "Write": 4, "Describe": 8}
LITERAL: Final = 3
ALLOW: Final = 3
ANY_HOST: Final = "*"
LOOKS: Final = 50
LOOK_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """One right: a user may do this with that topic or group. Read and Write include Describe."""

    user: str
    kind: str
    name: str
    operation: str


def grants(topology: Topology, users: Mapping[str, str] | None = None) -> list[Grant]:
    """Everything that is needed and nothing else. `users` gives a role's name in Kafka where it is another."""
    found: list[Grant] = []
    for agent in topology.agents:
        reads = topology.topics_for(agent.role)
        found.append(Grant(agent.role, "topic", agent.topic, "Write"))
        found += [Grant(agent.role, "topic", topic, "Read") for topic in reads]
        found += [Grant(agent.role, "topic", dead_letter_topic(topic, agent.group), "Write") for topic in reads]
        found.append(Grant(agent.role, "group", agent.group, "Read"))
    letters = topology.letter_topics()
    found.append(Grant(TASKS_PRODUCER, "topic", topic_of(TASKS_PRODUCER), "Write"))
    found += [
        Grant(OPERATOR_PRODUCER, "topic", topic_of(name), "Write") for name in (OPERATOR_PRODUCER, TASKS_PRODUCER)
    ]
    found += [Grant(OPERATOR_PRODUCER, "topic", topic, "Read") for topic in (*topology.topics(), *letters)]
    found += [Grant(OPERATOR_PRODUCER, "group", agent.group, "Describe") for agent in topology.agents]
    found += [Grant(REPAIR, "topic", topic, "Write") for topic in topology.topics()]
    found += [Grant(REPAIR, "topic", topic, "Read") for topic in letters]
    named = users or {}
    return [Grant(named.get(grant.user, grant.user), grant.kind, grant.name, grant.operation) for grant in found]


def commands(cluster: Cluster, wanted: Sequence[Grant]) -> list[str]:
    """The same as lines for Kafka's own tool, for whoever may grant and has no Gavotte."""
    return [
        f"kafka-acls.sh --bootstrap-server {cluster.servers} --add --allow-principal User:{grant.user} "
        f"--operation {grant.operation} --{grant.kind} {cluster.named(grant.name)}"
        for grant in wanted
    ]


async def apply(link: Link, wanted: Sequence[Grant]) -> list[Grant]:
    """Grant what is not granted yet, and wait until it holds; returns what was. Nothing is taken away."""
    there = await _granted(link)
    missing = [grant for grant in wanted if _row(link.cluster, grant) not in there]
    if missing:
        rows = [_row(link.cluster, grant) for grant in missing]
        answer = await link.ask(wire.CREATE_ACLS, rows, doing="granting rights")
        for code, message in answer["results"]:
            if code:
                raise faults.of_code(code, link.cluster, "granting rights", message)
    for _ in range(LOOKS):  # brokers learn of rights a moment after they were given
        if {_row(link.cluster, grant) for grant in missing} <= await _granted(link):
            break
        await asyncio.sleep(LOOK_SECONDS)
    return missing


async def _granted(link: Link) -> set[tuple[object, ...]]:
    """Every right that somebody was given, as rows of the protocol."""
    anything = (1, None, 1, None, None, 1, 1)
    answer = await link.ask(wire.DESCRIBE_ACLS, *anything, doing="the list of rights")
    if answer["error"]:
        raise faults.of_code(answer["error"], link.cluster, "the list of rights", answer["message"])
    return {(kind, name, pattern, *grant) for kind, name, pattern, granted in answer["resources"] for grant in granted}


def _row(cluster: Cluster, grant: Grant) -> tuple[object, ...]:
    where = (KINDS[grant.kind], cluster.named(grant.name), LITERAL)
    return (*where, f"User:{grant.user}", ANY_HOST, OPERATIONS[grant.operation], ALLOW)
