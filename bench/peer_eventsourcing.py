"""The `eventsourcing` library: one event per save, and its notification log read and decoded.

    python peer_eventsourcing.py FOLDER EVENTS [DATABASE]      SQLite in the folder, or PostgreSQL at the address

Prints JSON: events per second of both. Aggregates have five events, as our tasks.
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eventsourcing.application import Application  # type: ignore[import-not-found]  # in its own environment
from eventsourcing.domain import Aggregate, event  # type: ignore[import-not-found]  # likewise

from bench.job import HOPS, first_event, next_event  # the folder is no package


class Task(Aggregate):  # type: ignore[misc]  # its base class has no types here
    @event("Submitted")
    def __init__(self, said: dict[str, Any]) -> None:
        self.said = said

    @event("Advanced")
    def advance(self, said: dict[str, Any]) -> None:
        self.said = said


def environment(folder: Path, database: str = "") -> dict[str, str]:
    if not database:
        return {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(folder / "events.db")}
    where = urlsplit(database)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": where.path.lstrip("/"),
        "POSTGRES_HOST": where.hostname or "",
        "POSTGRES_PORT": str(where.port),
        "POSTGRES_USER": where.username or "",
        "POSTGRES_PASSWORD": where.password or "",
        "POSTGRES_SCHEMA": unquote(where.query).partition("search_path=")[2],
    }


def main() -> None:
    folder, tasks = Path(sys.argv[1]), int(sys.argv[2]) // (len(HOPS) + 1)
    app: Any = Application(env=environment(folder, *sys.argv[3:]))
    count, spent = tasks * (len(HOPS) + 1), 0.0
    cpu = time.process_time()
    for number in range(tasks):
        made, began = first_event(number), time.perf_counter()
        task = Task(made)
        app.save(task)
        spent += time.perf_counter() - began
        for hop in HOPS:
            made, began = next_event(made, hop), time.perf_counter()
            task.advance(made)
            app.save(task)
            spent += time.perf_counter() - began
    appended = {"append_per_second": count / spent, "append_cpu_us": (time.process_time() - cpu) / count * 1e6}
    began, cpu, read = time.perf_counter(), time.process_time(), 0
    while read < count:
        found = app.recorder.select_notifications(start=read + 1, limit=100)
        for notification in found:
            app.mapper.to_domain_event(notification)
        read += len(found)
    spent = time.perf_counter() - began
    log = {"log_per_second": count / spent, "log_cpu_us": (time.process_time() - cpu) / count * 1e6}
    print(json.dumps(appended | log))
    app.close()


if __name__ == "__main__":
    main()
