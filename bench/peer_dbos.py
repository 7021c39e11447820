"""DBOS: a workflow of four steps on its system database, one workflow after the other.

    python peer_dbos.py FOLDER NUMBER TASKS [DATABASE]      SQLite in the folder, or PostgreSQL at the address

Speaks as `peer_langgraph.py` does. What it does more than the job asks: queues, schedules, and workflows that other
processes recover.
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dbos import DBOS, SetWorkflowID  # type: ignore[import-not-found]  # in its own environment

from bench.job import HOPS, first_event, next_event  # the folder is no package


def main() -> None:
    folder, number, tasks = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    database = sys.argv[4] if len(sys.argv) > 4 else f"sqlite:///{folder / 'dbos.db'}"
    DBOS(
        config={
            "name": "bench",
            "system_database_url": database,
            "log_level": "ERROR",
            "run_admin_server": False,
            "executor_id": f"executor-{number}",
        }
    )

    def step(hop: str) -> Any:
        @DBOS.step(name=hop)
        def decide(event: dict[str, Any]) -> dict[str, Any]:
            return next_event(event, hop)

        return decide

    steps = [step(hop) for hop in HOPS]

    @DBOS.workflow()
    def task(event: dict[str, Any]) -> str:
        for each in steps:
            event = each(event)
        return str(event["event_id"])

    DBOS.launch()

    def run(first: int, count: int) -> list[float]:
        spent = []
        for index in range(first, first + count):
            began = time.perf_counter()
            with SetWorkflowID(f"{number}-{index}"):
                task(first_event(index))
            spent.append((time.perf_counter() - began) * 1000)
        return spent

    run(0, 30)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(run(1000, tasks)), flush=True)
    sys.stdin.readline()
    os._exit(0)  # its threads would go on


if __name__ == "__main__":
    main()
