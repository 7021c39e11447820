"""What is measured of the embedded mode, in the order of a round, and the goals that follow from it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from bench import crowd, embedded_agents, embedded_stops, embedded_store, reference_sqlite
from bench.goals import Figures, Goal, Size

GOALS = (
    Goal("1", "tasks/s", ("embedded", "tasks_per_second"), ("langgraph", "tasks_per_second"), 10, 30),
    Goal("2", "CPU per task", ("embedded", "cpu_ms_per_task"), ("langgraph", "cpu_ms_per_task"), 0.15, 0.06, most=True),
    Goal("3", "idle task, p50", ("embedded", "idle_p50_ms"), ("langgraph", "idle_p50_ms"), 0.8, 0.45, most=True),
    Goal("3", "idle task, p99", ("embedded", "idle_p99_ms"), ("langgraph", "idle_p99_ms"), 0.8, 0.45, most=True),
    Goal("4", "tasks/s", ("embedded", "tasks_per_second"), ("dbos", "tasks_per_second"), 25, 80),
    Goal("5", "tasks/s", ("embedded", "tasks_per_second"), ("bare_log", "tasks_per_second"), 0.35, 0.8),
    Goal("10", "CPU of four idle agents, % of a core", ("embedded", "resting_cpu_percent"), None, 2, 0.5, most=True),
    Goal("12", "bytes per task", ("embedded", "stored_bytes_per_task"), ("langgraph", "stored_bytes_per_task"), 0.35, 0.2, most=True),
    Goal("13", "views rebuilt, events/s", ("store", "rebuild_per_second"), ("eventsourcing", "log_per_second"), 1, 3),
    Goal("14", "appends/s, SQLite", ("store", "append_per_second"), ("eventsourcing", "append_per_second"), 8, 30),
    Goal("15", "envelopes/s", ("store", "envelopes_per_second"), ("store", "decoded_per_second"), 3, 6),
    Goal("17", "tasks/s with tracing, over without", ("traced", "tasks_per_second"), ("embedded", "tasks_per_second"), 0.8, 0.95),
)  # fmt: skip
ABOUT = {
    "embedded": "ours as it is shipped: four processes over one SQLite file. What is recorded is flushed before anybody hears of it "
    "(`synchronous=FULL`), and told by the same commit; inbox, fold, hash chain, views and trace context are on. Payloads are decoded by "
    "whoever reads them. Spans are exported only where somebody asks.",
    "traced": "the same with tracing on, as shipped: spans over OTLP to a collector on this machine, in batches of the SDK's own "
    "processor, every trace sampled; under a storm like this one each agent tells of a hundred deliveries a second, by whole traces "
    "(docs/telemetry.md).",
    "bare_log": "the limit of the embedded bus: one SQLite log with `synchronous=FULL`, four processes, offsets and output in one "
    "transaction, and nothing else: no inbox, so a repeated record is handled twice; no state, no audit, no leases, no groups.",
    "langgraph": "a graph of four nodes with its SQLite checkpointer, durability `sync`, WAL with the default `synchronous=FULL`; the "
    "better of one and two processes, the latency inside one. It keeps the whole state of the graph at each step, so that any step "
    "can be looked at, forked and resumed, and it runs where no other process is needed; it does not dispatch work between processes.",
    "dbos": "a workflow of four steps on its SQLite system database (a backend that its makers mean for development), one after the "
    "other in one process. It also has queues, schedules and the recovery of workflows by other executors.",
    "store": "our store by itself: appends by 200 callers at once that share their commits; the log read as envelopes, decoded, and "
    "folded into views again.",
    "eventsourcing": "the library on SQLite: one event per save, and its notification log read and decoded in pages. Its aggregates, "
    "snapshots and mappers fit any domain; ours know tasks alone.",
}
PEERS = ("langgraph", "dbos", "eventsourcing")
"""Those that need an environment of their own."""


@contextlib.contextmanager
def systems(size: Size) -> Iterator[dict[str, Callable[[], Figures]]]:
    """name -> one measurement of it; whatever they share lives as long as the context."""
    yield {
        "embedded": lambda: embedded_agents.measure(size.tasks, size.idle_tasks),
        "traced": lambda: embedded_agents.traced(size.tasks),
        "bare_log": lambda: reference_sqlite.measure(size.tasks, size.idle_tasks),
        "langgraph": lambda: best_langgraph(size.tasks // 10),
        "dbos": lambda: crowd.measure("dbos", 1, size.tasks // 20),
        "store": lambda: embedded_store.measure(size.tasks),
        "eventsourcing": lambda: crowd.eventsourcing(size.tasks),
        "stops": lambda: embedded_stops.measure(size.tasks),
    }


def best_langgraph(tasks: int) -> Figures:
    """Its best number of processes for throughput and CPU; the latency inside one process."""
    alone, two = (crowd.measure("langgraph", processes, tasks) for processes in (1, 2))
    best = max(alone, two, key=lambda figures: figures["tasks_per_second"])
    return best | {name: value for name, value in alone.items() if name.startswith("idle_")}
