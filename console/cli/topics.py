"""`topics` and `acls`: what a Kafka cluster must have and grant before agents dance on it, all read off the table."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from console.cli.call import EXIT_FAILED, Call, Json, command
from console.cli.output import put, put_json, put_table

if TYPE_CHECKING:
    from bus.kafka.acls import Grant
    from bus.kafka.link import Link
    from contracts.topology import Topology

topics = typer.Typer(help="The topics of a Kafka cluster.", no_args_is_help=True, rich_markup_mode=None)
acls = typer.Typer(help="Who may do what in a Kafka cluster.", no_args_is_help=True, rich_markup_mode=None)

Also = Annotated[
    list[Path] | None, typer.Option("--also", metavar="FILE", help="The file of a further agent; may be repeated.")
]
Users = Annotated[
    list[str] | None,
    typer.Option("--user", metavar="ROLE=NAME", help="What Kafka calls a role, if not by its name; may be repeated."),
]


def add_to(app: typer.Typer) -> None:
    """Put these commands into the program."""
    app.add_typer(topics, name="topics")
    command(topics)(create)
    command(topics)(check)
    command(topics, "list")(list_)
    app.add_typer(acls, name="acls")
    command(acls, "print")(print_)
    command(acls)(apply)


# -- topics ---------------------------------------------------------------------------------------------------------------


async def create(call: Call, also: Also = None, json: Json = False) -> None:
    """Make the topics that are missing, those of letters included; safe to repeat."""
    from bus.kafka import topics as of_cluster

    async with linked(call) as link:
        names = wanted(also)
        made = await of_cluster.create(link, names)
        faults = await of_cluster.check(link, names)
    if json:
        put_json({"topics": len(names), "made": made, "wrong": [f"{fault.topic} {fault.what}" for fault in faults]})
        return
    for name in made:
        put(f"made {name}")
    for fault in faults:
        put(f"left as it is: {fault.topic} {fault.what}")
    put(f"{len(names)} topics, {len(made)} made")


async def check(call: Call, also: Also = None, json: Json = False) -> int:
    """Compare the cluster's topics with what should be there; exit 1 where they differ."""
    from bus.kafka import topics as of_cluster

    async with linked(call) as link:
        names = wanted(also)
        faults = await of_cluster.check(link, names)
    if json:
        put_json({"topics": len(names), "wrong": [{"topic": fault.topic, "what": fault.what} for fault in faults]})
        return EXIT_FAILED if faults else 0
    for fault in faults:
        put(f"{fault.topic} {fault.what}")
    missing = any(fault.missing for fault in faults)
    put(f"{len(names)} topics, {len(faults)} wrong" + ("; try: gavotte topics create" if missing else ""))
    return EXIT_FAILED if faults else 0


async def list_(call: Call, also: Also = None, json: Json = False) -> None:
    """List every topic, whether it is there, who writes and who reads it."""
    topology = dancers(also)
    async with linked(call) as link:
        metadata = await link.metadata("the list of topics")
        there = {name: len(metadata.partitions_for_topic(link.cluster.named(name)) or ()) for name in wanted(also)}
    rows: list[dict[str, Any]] = [
        {"topic": name, "partitions": count, "written_by": writers(topology, name), "read_by": readers(topology, name)}
        for name, count in there.items()
    ]
    if json:
        put_json(rows)
        return
    cells = [
        (
            row["topic"],
            str(row["partitions"] or "missing"),
            ", ".join(row["written_by"]),
            ", ".join(row["read_by"]),
        )
        for row in rows
    ]
    put_table(("topic", "partitions", "written by", "read by"), cells, right=("partitions",))


# -- rights ---------------------------------------------------------------------------------------------------------------


def print_(call: Call, user: Users = None, also: Also = None, json: Json = False) -> None:
    """Print what each role must be granted, as lines for Kafka's own kafka-acls.sh."""
    from agents.transport import cluster_of
    from bus.kafka.acls import commands

    found = needed(also, user)
    if json:
        put_json([row(grant) for grant in found])
        return
    for line in commands(cluster_of(call.settings), found):
        put(line)


async def apply(call: Call, user: Users = None, also: Also = None, json: Json = False) -> None:
    """Grant each role what it needs, as a user who may; safe to repeat, and nothing is taken away."""
    from bus.kafka import acls as of_cluster

    found = needed(also, user)
    async with linked(call) as link:
        granted = await of_cluster.apply(link, found)
    if json:
        put_json({"needed": len(found), "granted": [row(grant) for grant in granted]})
        return
    for grant in granted:
        put(f"{grant.user} may {grant.operation.lower()} {grant.kind} {grant.name}")
    put(f"{len(found)} rights, {len(granted)} granted now")


def row(grant: Grant) -> dict[str, str]:
    """A right, for programs."""
    return {"user": grant.user, "operation": grant.operation, "kind": grant.kind, "name": grant.name}


def needed(also: list[Path] | None, user: list[str] | None) -> list[Grant]:
    """The rights of all roles, under the names that were given."""
    from bus.kafka.acls import grants
    from contracts.errors import Usage

    pairs = [text.partition("=") for text in user or ()]
    found = grants(dancers(also), {role: name for role, _, name in pairs})
    known = {grant.user for grant in grants(dancers(also))}
    for role, _, name in pairs:
        if role not in known or not name:
            raise Usage(f"--user {role}={name} names no role", hint=f"ROLE=NAME with one of {', '.join(sorted(known))}")
    return found


# -- what both need -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def linked(call: Call) -> AsyncIterator[Link]:
    """A connection to the cluster of the settings."""
    from agents.transport import cluster_of
    from bus.kafka.link import Link

    link = Link(cluster_of(call.settings))
    try:
        yield link
    finally:
        await link.drop()


def dancers(also: list[Path] | None) -> Topology:
    """The table with further agents from their files."""
    from agents.wiring import load_further
    from contracts.topology import Topology

    return Topology(tuple(load_further(path).AGENT for path in also or ()))


def wanted(also: list[Path] | None) -> list[str]:
    """Every topic that there should be."""
    topology = dancers(also)
    return [*topology.topics(), *topology.letter_topics()]


def writers(topology: Topology, name: str) -> list[str]:
    """Who writes a topic."""
    from bus.kafka.acls import REPAIR, grants

    return sorted({g.user for g in grants(topology) if g.name == name and g.operation == "Write"} - {REPAIR})


def readers(topology: Topology, name: str) -> list[str]:
    """Which roles read a topic."""
    from bus.kafka.acls import grants

    roles = {agent.role for agent in topology.agents}
    return sorted(roles & {g.user for g in grants(topology) if g.name == name and g.operation == "Read"})
