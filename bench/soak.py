"""`python bench/soak.py`: thousands of do-nothing tasks while agents are killed and servers restarted, and then the books are read.

Broker and database are real: started here (deploy/local), or those that GAVOTTE_BUS__* and GAVOTTE_STORE__* name, where
topics and tables of its own are made and nothing is restarted. Every few seconds one of the four agents, by the seed,
is killed (-9) and started again. At the end every accepted task must have one end, no effect may be recorded twice,
every chain must be whole, every group must have read all, and no letter may be written.

Exit 0: all holds. 1: something does not; the seed and the offenders are printed, and the folder with the logs is kept.
2: it cannot be run like this. 130: interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agents.settings import load_settings  # noqa: E402  # the folder is no package: the root must be on the path first
from agents.wiring import Runtime, announce, open_runtime  # noqa: E402
from bench import history, roles  # noqa: E402
from bench.job import HOPS  # noqa: E402
from contracts.envelope import Event, root  # noqa: E402
from contracts.errors import GavotteError, Retryable  # noqa: E402
from contracts.events import ProductionDeployed, StagingDeployed, TaskSubmitted, TaskSucceeded  # noqa: E402
from deploy.local import kafka, postgres  # noqa: E402
from deploy.local.serving import Failed, Lacking  # noqa: E402
from state_store.port import Encoded  # noqa: E402

BURST_SECONDS: Final = 0.5
PROGRESS_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 0.5
SETTLE_SECONDS: Final = 90.0
"""In which all groups must have read to the end, once all tasks have ended."""
STOP_SECONDS: Final = 15.0
ROWS_MAX: Final = 20
UNFINISHED: Final = ("retry", "waiting", "dead", "parked", "started")
QUICK: Final = {
    "GAVOTTE_WORKER__SWEEP_SECONDS": "5",
    "GAVOTTE_BUS__TIMEOUT_SECONDS": "10",
    "GAVOTTE_WORKER__CONCURRENCY": "256",
}
"""What is missed is looked for sooner than usual: an agent seldom lives for the usual half a minute."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be done to how many tasks.

    `rate` is submissions per second, as long as fewer than `open_max` tasks are open; `patience_seconds` is how long
    nothing may move on.
    """

    bus: str = "kafka"
    store: str = "postgres"
    tasks: int = 2000
    rate: float = 20.0
    open_max: int = 400
    kill_seconds: float = 3.0
    broker_restarts: int = 3
    store_restarts: int = 0
    seed: int = 1
    patience_seconds: float = 180.0


class Lost(RuntimeError):
    """A process ended as none may; the message has its last words."""


class Servers:
    """Broker and database of one run: `environ` leads to them, `restarts` has those that may be restarted."""

    def __init__(self, plan: Plan) -> None:
        self.environ = {"GAVOTTE_BUS__BACKEND": plan.bus, "GAVOTTE_STORE__BACKEND": plan.store, **QUICK}
        self.broker: kafka.Kafka | None = None
        self.database: postgres.Postgres | None = None
        self._url = os.environ.get("GAVOTTE_STORE__URL", "")

    @contextlib.contextmanager
    def running(self, plan: Plan, folder: Path) -> Iterator[None]:
        """Start what is not given; all of it is gone afterwards."""
        with contextlib.ExitStack() as stack:
            if plan.bus == "kafka":
                self.environ["GAVOTTE_BUS__PREFIX"] = f"soak-{secrets.token_hex(4)}."
                if not os.environ.get("GAVOTTE_BUS__SERVERS"):
                    self.broker = stack.enter_context(kafka.Kafka(folder / "kafka"))
                    self.environ |= self.broker.environment()
            if plan.store == "postgres":
                if not self._url:
                    self.database = stack.enter_context(postgres.Postgres())
                    self._url = self.database.url
                self.environ["GAVOTTE_STORE__URL"] = asyncio.run(self._tables())
            yield

    async def _tables(self) -> str:
        from state_store.postgres.migrations import start_over

        return await start_over(self._url, f"soak_{secrets.token_hex(4)}")


class Crew:
    """The four agents as processes, and how often each was started. Whoever is killed is started again by `tend`.

    All are in one process group, away from the terminal's Ctrl-C; its leader ends it when this process is gone.
    """

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.folder = folder
        self.environ = {**os.environ, **environ}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.kills: Counter[str] = Counter()
        self.restarted_itself: Counter[str] = Counter()
        self._leader = subprocess.Popen(["sh", "-c", "read -r _; kill -9 -$$"], stdin=subprocess.PIPE, process_group=0)

    def start(self, role: str) -> None:
        """Start one agent, under the name that it had before."""
        command = [sys.executable, __file__, "--agent", role, str(self.folder / "data"), "soak"]
        with self.log(role).open("ab") as log:
            self.running[role] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environ,
                process_group=self._leader.pid,
            )

    def kill(self, role: str) -> None:
        """SIGKILL, and start it again."""
        self.running[role].kill()
        self.running[role].wait()
        self.kills[role] += 1
        self.start(role)

    def tend(self) -> None:
        """Start again who ended because a server was away, as a supervisor would; Lost where one ended otherwise."""
        for role, process in list(self.running.items()):
            code = process.poll()
            if code == Retryable.exit_code:
                self.restarted_itself[role] += 1
                self.start(role)
            elif code is not None:
                raise Lost(f"agent {role} ended with {code}: {self.log(role).read_text()[-3000:]}")

    def log(self, role: str) -> Path:
        return self.folder / f"{role}.log"

    def close(self) -> None:
        """End all of them; nothing is left."""
        for process in self.running.values():
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in self.running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.wait()
        os.killpg(self._leader.pid, signal.SIGKILL)
        self._leader.communicate()


class Soak:
    """One run: traffic, kills and restarts side by side, until all tasks have ended."""

    def __init__(self, plan: Plan, servers: Servers, crew: Crew, runtime: Runtime) -> None:
        self.plan = plan
        self.servers = servers
        self.crew = crew
        self.runtime = runtime
        self.chance = random.Random(plan.seed)
        self.accepted: list[str] = []
        self.done = 0
        self.restarts: Counter[str] = Counter()
        self.began = time.monotonic()

    async def go(self) -> dict[str, Any]:
        """Everything; the report."""
        for role in HOPS:
            self.crew.start(role)
        while not all(b"ready " in self.crew.log(role).read_bytes() for role in HOPS):
            self.crew.tend()
            await asyncio.sleep(LOOK_SECONDS)
        self.began = time.monotonic()
        endless = [self.tend(), self.tell(), *([self.kill()] if self.plan.kill_seconds > 0 else [])]
        found = await self.until_all_ended([self.submit(), self.ends(), *self.disturbances()], endless)
        seconds = self.seconds()
        self.crew.tend()
        found += await self.unread()
        found += await self.verdict()
        return await self.report(seconds, found)

    async def until_all_ended(self, finite: list[Any], endless: list[Any]) -> list[str]:
        """Run all of it until what is finite is done; raises what one of them raises."""
        done = asyncio.gather(*finite)
        running = [asyncio.ensure_future(one) for one in endless]
        try:
            finished, _ = await asyncio.wait([done, *running], return_when=asyncio.FIRST_COMPLETED)
            for one in finished:
                one.result()
        except TimeoutError as error:
            return [str(error)]
        finally:
            for one in (done, *running):
                one.cancel()
            await asyncio.gather(done, *running, return_exceptions=True)
        return []

    # -- what happens side by side --------------------------------------------------------------------------------------

    async def submit(self) -> None:
        """Append, and publish what was appended: the record comes first, as everywhere."""
        burst = max(1, round(self.plan.rate * BURST_SECONDS))
        for begin in range(0, self.plan.tasks, burst):
            due = self.began + begin / self.plan.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            while begin - self.done >= self.plan.open_max:
                await asyncio.sleep(LOOK_SECONDS)
            encoded = [self.submission(number) for number in range(begin, min(begin + burst, self.plan.tasks))]
            while True:
                try:
                    recorded = await self.runtime.store.append(encoded)
                    break
                except Retryable:  # the same events again: whether they were recorded is not known
                    await asyncio.sleep(LOOK_SECONDS)
            self.accepted += [one.event.envelope.task_id for one in encoded]
            await announce(self.runtime, recorded)

    def submission(self, number: int) -> Encoded:
        given = {"repository": "r", "project_id": "p", "project_digest": "d", "base_commit": "base"}
        payload = TaskSubmitted.model_validate({"title": f"task {number}", "description": "x" * 200, **given})
        return Encoded(root(payload), self.runtime.codec.encode_payload(payload))

    async def kill(self) -> None:
        while True:
            await asyncio.sleep(self.plan.kill_seconds)
            self.crew.kill(self.chance.choice(HOPS))

    async def tend(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.crew.tend()

    async def tell(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            kills, restarts = sum(self.crew.kills.values()), dict(self.restarts)
            said(
                f"{self.seconds():5.0f} s  {len(self.accepted)} submitted, {self.done} ended, {kills} kills, {restarts}"
            )

    def disturbances(self) -> list[Any]:
        """Restarts of each server, spread evenly over the tasks that ended."""
        plan, servers = self.plan, self.servers
        rows = (("broker", servers.broker, plan.broker_restarts), ("store", servers.database, plan.store_restarts))
        return [self.restart(name, server, times) for name, server, times in rows if server is not None]

    async def restart(self, name: str, server: kafka.Kafka | postgres.Postgres, times: int) -> None:
        """Stop a server in good order or kill it, by the seed, and start it at once."""
        chance = random.Random(f"{self.plan.seed} {name}")
        for number in range(times):
            while self.done < self.plan.tasks * (number + 1) / (times + 1):
                await asyncio.sleep(LOOK_SECONDS)
            end = chance.choice((server.stop, server.kill))
            said(f"{self.seconds():5.0f} s  {name}: {end.__name__} and start")
            await asyncio.to_thread(end)
            await asyncio.to_thread(server.start)
            self.restarts[name] += 1

    async def ends(self) -> None:
        """Wait until all tasks have ended; TimeoutError where none does for too long."""
        moved = time.monotonic()
        while self.done < self.plan.tasks:
            await asyncio.sleep(LOOK_SECONDS)
            with contextlib.suppress(Retryable):
                before, self.done = self.done, await self.ended()
                moved = time.monotonic() if self.done > before else moved
            if time.monotonic() > moved + self.plan.patience_seconds:
                raise TimeoutError(f"no further task ended for {self.plan.patience_seconds:g} s: {self.done} did")

    async def ended(self) -> int:
        counts = (await self.runtime.store.statistics())["tasks"]
        return sum(counts.get(status, 0) for status in ("succeeded", "failed", "cancelled"))

    def seconds(self) -> float:
        return time.monotonic() - self.began

    # -- the books --------------------------------------------------------------------------------------------------------

    async def unread(self) -> list[str]:
        """Groups that have not read all, when they had time to."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while found := await self.behind():
            if time.monotonic() > deadline:
                return found
            self.crew.tend()
            await asyncio.sleep(LOOK_SECONDS)
        return []

    async def behind(self) -> list[str]:
        found = []
        for role in HOPS:
            group = self.runtime.topology.agent(role).group
            try:
                lags = await self.runtime.bus.lag(group, self.runtime.topology.topics_for(role))
            except Retryable as error:
                return [f"{group}: how far it has read is not known: {error}"]
            found += [
                f"{group} is {lag.behind} records behind on {lag.topic}/{lag.partition}" for lag in lags if lag.behind
            ]
        return found

    async def verdict(self) -> list[str]:
        """All that is wrong with the record and the dead letters."""
        from dlq_tools.letters import letters

        store = self.runtime.store
        events = await history.history(store.tail, self.runtime.codec)
        found = history.faults(events, self.accepted) + history.judged(events, self.accepted)
        found += await store.verify_chain()
        for letter in await letters(self.runtime.bus, store, self.runtime.topology):
            found.append(f"task {letter.task_id}: a letter of {letter.role} at {letter.place}")
        for row in await store.inbox(statuses=UNFINISHED):
            found.append(f"task {row.task_id}: {row.role} has {row.event_type} as {row.status}: {row.reason}")
        return found

    async def report(self, seconds: float, found: list[str]) -> dict[str, Any]:
        counted = await self.runtime.store.statistics()
        return {
            **dataclasses.asdict(self.plan),
            "seconds": round(seconds, 1),
            "submitted": len(self.accepted),
            "ended": counted["tasks"],
            "events": counted["events"],
            "deliveries": counted["deliveries"],
            "kills": dict(self.crew.kills),
            "restarts": dict(self.restarts),
            "agents_that_left": dict(self.crew.restarted_itself),
            "judged": history.JUDGE.exists(),
            "faults": found,
        }


async def soak(plan: Plan, servers: Servers, folder: Path) -> dict[str, Any]:
    """One run on servers that are there."""
    if (this := asyncio.current_task()) is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    logging.basicConfig(filename=folder / "soak.log", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = load_settings(data=folder / "data", environ={**os.environ, **servers.environ})
    runtime = await open_runtime(settings)
    crew = Crew(folder, servers.environ)
    try:
        return await Soak(plan, servers, crew, runtime).go()
    finally:
        crew.close()
        await runtime.close()


def said(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bus", choices=("kafka", "embedded"), default=Plan.bus)
    parser.add_argument("--store", choices=("postgres", "sqlite"), default=Plan.store)
    parser.add_argument("--tasks", type=int, default=Plan.tasks)
    parser.add_argument("--rate", type=float, default=Plan.rate, help="submissions per second (%(default)s)")
    parser.add_argument("--open-max", type=int, default=Plan.open_max, help="open tasks at which submissions wait")
    parser.add_argument("--kill-seconds", type=float, default=Plan.kill_seconds, help="0: none is killed")
    parser.add_argument(
        "--broker-restarts", type=int, default=None, help=f"of a Kafka started here ({Plan.broker_restarts})"
    )
    parser.add_argument("--store-restarts", type=int, default=0, help="of a PostgreSQL started here (%(default)s)")
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--patience-seconds", type=float, default=Plan.patience_seconds)
    parser.add_argument("--json", action="store_true")
    chosen = vars(parser.parse_args(words))
    as_json = chosen.pop("json")
    own_broker = chosen["bus"] == "kafka" and not os.environ.get("GAVOTTE_BUS__SERVERS")
    own_store = chosen["store"] == "postgres" and not os.environ.get("GAVOTTE_STORE__URL")
    if chosen["broker_restarts"] is None:
        chosen["broker_restarts"] = Plan.broker_restarts if own_broker else 0
    if (chosen["broker_restarts"] and not own_broker) or (chosen["store_restarts"] and not own_store):
        parser.error("only a server that is started here can be restarted")
    if chosen["tasks"] < 1 or chosen["rate"] <= 0:
        parser.error("--tasks and --rate must be more than 0")
    return conclude(Plan(**chosen), as_json=as_json)


def conclude(plan: Plan, *, as_json: bool) -> int:
    """Run it, print what came of it, and keep the folder where something was wrong."""
    folder, servers = Path(tempfile.mkdtemp(prefix="gavotte-soak-")), Servers(plan)
    kept = ""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with servers.running(plan, folder):
            report = asyncio.run(soak(plan, servers, folder))
        kept = f"the logs are in {folder}" if report["faults"] else ""
        print(json.dumps(report, indent=1) if as_json else lines(report), flush=True)
        for fault in report["faults"][:ROWS_MAX]:
            said(f"seed {plan.seed}: {fault}")
        return 1 if report["faults"] else 0
    except (KeyboardInterrupt, asyncio.CancelledError):
        said("interrupted")
        return 130
    except (Lost, GavotteError, Lacking, Failed) as error:
        kept = f"the logs are in {folder}"
        said(f"seed {plan.seed}: {error}")
        return 1
    finally:
        if kept:
            said(kept)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def lines(report: dict[str, Any]) -> str:
    return "\n".join(f"{name.replace('_', ' '):18} {value}" for name, value in report.items() if name != "faults")


async def deploy(event: Event, _state: Any, _tools: Any) -> list[Event]:
    """The end with an effect, so that the books can say whether it was recorded twice."""
    release = {"digest": "d", "commit": "head", "path": "p", "effect_key": "k"}
    return [
        event.cause(StagingDeployed(**release, health="well")),
        event.cause(ProductionDeployed(**release)),
        event.cause(TaskSucceeded(digest="d", commit="head")),
    ]


def agent(role: str, data: str, instance: str) -> int:
    """One of the four processes."""
    from agents.logs import start_logging

    try:
        start_logging(load_settings(data=Path(data)), agent=role, pid=str(os.getpid()))
        asyncio.run(roles.agent(role, Path(data), instance, deploy if role == "deploy" else None))
    except GavotteError as error:
        said(f"error: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(agent(*sys.argv[2:]) if sys.argv[1:2] == ["--agent"] else main(sys.argv[1:]))
