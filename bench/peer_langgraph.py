"""LangGraph: a graph of four nodes and a checkpointer, durability `sync`, one invocation after the other.

    python peer_langgraph.py FOLDER NUMBER TASKS [DATABASE]      SQLite in the folder, or PostgreSQL at the address

Prints `ready`, waits for a line, does the tasks, and prints the milliseconds of each as JSON. What it does more than
the job asks: it keeps the whole state of the graph at every step, so that any step can be looked at and resumed.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any, TypedDict

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from langgraph.checkpoint.sqlite import SqliteSaver  # type: ignore[import-not-found]  # in its own environment
from langgraph.graph import END, START, StateGraph  # type: ignore[import-not-found]  # likewise

from bench.job import HOPS, first_event, next_event  # the folder is no package


class State(TypedDict):
    event: dict[str, Any]


def node(hop: str) -> Any:
    return lambda state: {"event": next_event(state["event"], hop)}


def saver_of(folder: Path, database: str = "") -> Any:
    if not database:
        return SqliteSaver(sqlite3.connect(folder / "checkpoints.db", check_same_thread=False, timeout=60))
    from langgraph.checkpoint.postgres import PostgresSaver  # type: ignore[import-not-found]  # in its own environment
    from psycopg import Connection  # type: ignore[import-not-found]  # likewise
    from psycopg.rows import dict_row  # type: ignore[import-not-found]  # likewise

    connection = Connection.connect(database, autocommit=True, prepare_threshold=0, row_factory=dict_row)
    saver = PostgresSaver(connection)
    while not connection.execute("SELECT pg_try_advisory_lock(1) AS free").fetchone()["free"]:
        time.sleep(0.1)  # two that set up at once get in each other's way
    saver.setup()
    connection.execute("SELECT pg_advisory_unlock(1)")
    return saver


def main() -> None:
    number, tasks = int(sys.argv[2]), int(sys.argv[3])
    saver = saver_of(Path(sys.argv[1]), *sys.argv[4:])
    saver.setup()
    graph, before = StateGraph(State), START
    for hop in HOPS:
        graph.add_node(hop, node(hop))
        graph.add_edge(before, hop)
        before = hop
    graph.add_edge(before, END)
    app = graph.compile(checkpointer=saver)

    def run(first: int, count: int) -> list[float]:
        spent = []
        for index in range(first, first + count):
            began = time.perf_counter()
            thread = {"configurable": {"thread_id": f"task-{index}"}}
            app.invoke({"event": first_event(index)}, thread, durability="sync")
            spent.append((time.perf_counter() - began) * 1000)
        return spent

    base = (number + 1) * 10**7
    run(base, 30)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(run(base + 1000, tasks)), flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
