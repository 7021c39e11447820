"""What is measured of the distributed mode (Kafka and PostgreSQL), in the order of a round, and the goals."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from bench import crowd, embedded_store, kafka_agents, kafka_crowd
from bench.goals import Figures, Goal, Size
from bench.servers import Servers

OURS = "distributed"
GOALS = (
    Goal("6", "tasks/s", (OURS, "tasks_per_second"), ("aiokafka", "tasks_per_second"), 0.6, 1.0),
    Goal("7", "idle task, p50", (OURS, "idle_p50_ms"), ("aiokafka", "idle_p50_ms"), 1.5, 1.0, most=True),
    Goal("7", "idle task, p99", (OURS, "idle_p99_ms"), ("aiokafka", "idle_p99_ms"), 1.5, 1.0, most=True),
    Goal("8", "tasks/s", (OURS, "tasks_per_second"), ("faststream", "tasks_per_second"), 6, 15),
    Goal("9", "tasks/s", (OURS, "tasks_per_second"), ("langgraph", "tasks_per_second"), 6, 15),
    Goal("11", "memory of an idle agent", (OURS, "idle_megabytes"), ("aiokafka", "idle_megabytes"), 2, 1.4, most=True),
    Goal("14", "appends/s, PostgreSQL", ("store", "append_per_second"), ("eventsourcing", "append_per_second"), 8, 30),
)
PEERS = ("faststream", "langgraph", "dbos", "eventsourcing")
"""Those that need an environment of their own."""
PROCESSES = (2, 4)
"""LangGraph is measured with so many, and the better one counts."""


@contextlib.contextmanager
def systems(size: Size) -> Iterator[dict[str, Callable[[], Figures]]]:
    """name -> one measurement of it; the broker and the server live as long as the context."""
    servers = Servers()
    try:
        yield {
            OURS: lambda: (
                kafka_agents.measure(servers, size.tasks, size.idle_tasks) | kafka_agents.idle_agents(servers)
            ),
            "aiokafka": lambda: kafka_crowd.raw(servers, size.tasks, size.idle_tasks),
            "faststream": lambda: kafka_crowd.faststream(servers, size.tasks // 8, size.idle_tasks // 2),
            "langgraph": lambda: best_langgraph(servers, size.tasks // 10),
            "dbos": lambda: dbos(servers, size.tasks // 20),
            "store": lambda: store(servers, size.tasks),
            "eventsourcing": lambda: eventsourcing(servers, size.tasks),
        }
    finally:
        servers.close()


def best_langgraph(servers: Servers, tasks: int) -> Figures:
    """Its best number of processes."""
    found = []
    for processes in PROCESSES:
        with servers.schema() as database:
            found.append(crowd.measure("langgraph", processes, tasks, database))
    return max(found, key=lambda figures: figures["tasks_per_second"])


def dbos(servers: Servers, tasks: int) -> Figures:
    """In one process; it keeps a schema of its own name."""
    try:
        return crowd.measure("dbos", 1, tasks, servers.postgres)
    finally:
        servers.execute("DROP SCHEMA IF EXISTS dbos CASCADE")


def store(servers: Servers, tasks: int) -> Figures:
    """Our store by itself."""
    from state_store.postgres.migrations import migrate

    with servers.schema() as database:
        asyncio.run(migrate(database))
        return embedded_store.measure(tasks, {"GAVOTTE_STORE__BACKEND": "postgres", "GAVOTTE_STORE__URL": database})


def eventsourcing(servers: Servers, events: int) -> Figures:
    """The library, one append after the other."""
    with servers.schema() as database:
        return crowd.eventsourcing(events, database)
