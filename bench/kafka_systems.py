"""What is measured of the distributed mode (Kafka and PostgreSQL), in the order of a round, and the goals."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from bench import crowd, embedded_store, kafka_agents, kafka_crowd, kafka_stops
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
ABOUT = {
    "distributed": "ours as it is shipped, over one Kafka broker and one PostgreSQL server with `synchronous_commit = on`: four "
    "processes; inbox, fold, hash chain, views and trace context are on. The broker acknowledges from its page cache, for all alike: "
    "with one replica a power cut may take what it has not yet written. Memory is that of an agent as anybody starts it, with its tools.",
    "aiokafka": "the limit of the distributed bus, written by hand: four processes, each takes what is there (up to 500 records), writes "
    "a row for each event in one transaction, sends, and commits its offsets once for all. At least once and nothing else: what comes "
    "twice is told twice; no order over topics, no state to decide on, no audit, no leases, no long handlers.",
    "faststream": "a subscriber and a publisher for each hop, acknowledged after the handler, JSON validated by a model, one row for each "
    "event, written in the handler. Its handlers are plain functions that know nothing of Kafka; commits for each message are its own way.",
    "langgraph": "a graph of four nodes with its PostgreSQL checkpointer, durability `sync`, the better of two and four processes. It keeps "
    "the whole state of the graph at each step, so that any step can be looked at, forked and resumed; no work travels between processes.",
    "dbos": "a workflow of four steps on PostgreSQL, one after the other in one process. It also has queues, schedules and the recovery of "
    "workflows by other executors.",
    "store": "our store on PostgreSQL by itself: appends by 200 callers at once that share their commits; the log read and folded.",
    "eventsourcing": "the library on PostgreSQL: one event per save, and its notification log read and decoded in pages.",
}
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
            "stops": lambda: kafka_stops.measure(servers, size.tasks),
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
    with kafka_agents.tables(servers) as database:
        return embedded_store.measure(tasks, {"GAVOTTE_STORE__BACKEND": "postgres", "GAVOTTE_STORE__URL": database})


def eventsourcing(servers: Servers, events: int) -> Figures:
    """The library, one append after the other."""
    with servers.schema() as database:
        return crowd.eventsourcing(events, database)
