"""One schedule: a seed decides the tasks, the order of everything, every fault and every act of an operator.

Processes run the real runner and worker over the real SQL, in memory and in line; time is virtual. After the faults
comes the healing: everything is started, thawed, lifted, resumed and decided, until each task has ended. Then every
promise is checked (`invariants`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from functools import cache
from typing import Any, Final
from unittest import mock

from agents.emission import Emission
from agents.runner import Pace, Runner
from agents.session import Session
from bus.memory import Faults as BusFaults
from bus.memory import MemoryBroker
from bus.simulated import Process, Simulation, SimulationStuck, run_simulated
from contracts import ids
from contracts.authority import Keyring, OperatorKey
from contracts.codec import EPOCH, MICROSECOND, Codec
from contracts.envelope import OPERATOR_SOURCE, Event, root
from contracts.errors import Corrupt, GavotteError, OutcomeUnknown, Retryable
from contracts.events import (
    SIGNED_TYPES,
    ApprovalDenied,
    ApprovalGranted,
    Budget,
    BudgetRaised,
    KillLifted,
    KillRaised,
    Payload,
    TaskCancelRequested,
    TaskResumed,
    TaskSubmitted,
)
from contracts.registry import CommittedIds
from contracts.topology import CORE_AGENTS, Topology
from embedded.inline import InlineDatabase
from state_store.fold import TaskState, moves
from state_store.port import Encoded, Recorded, StateStore, TaskFilter
from state_store.sqlite import SCHEMA, SqliteStore
from tests.simulation import invariants
from tests.simulation.fences import claims_watched, fences_watched
from tests.simulation.processes import Freezer, Gate, Handle
from tests.simulation.roles import ROLES, Script, ScriptedTools, handle
from tests.simulation.world import World

HEALING_SECONDS_MAX: Final = 1200.0
STEPS_MAX: Final = 300_000
"""Of the scheduler: a schedule that needs more goes in circles."""
DAY_US: Final = 86_400_000_000
TIGHT: Final = (Budget(steps=3), Budget(tokens=25), Budget(cost_microdollars=8), Budget(wall_seconds=6))
GENEROUS: Final = Budget(tokens=10_000_000, steps=10_000, wall_seconds=1_000_000, cost_microdollars=10**12)


@dataclass(frozen=True)
class Faults:
    """What a schedule has to bear. Those without a unit in their name are probabilities."""

    tasks: int = 2
    workers: int = 1
    trouble_seconds: float = 40.0
    crash_steps: int | None = None
    """Some process dies after so many steps of the scheduler, on average."""
    freezes: float = 0.0
    cut_offs: float = 0.0
    publish_fails: float = 0.0
    publish_lost_answers: float = 0.0
    acknowledge_fails: float = 0.0
    duplicates: float = 0.0
    undelivered: float = 0.0
    delay_seconds_max: float = 0.0
    unknown_commits: float = 0.0
    operator: float = 0.0
    kills: float = 0.0
    tight_budget: float = 0.0
    lost_client: float = 0.0
    leaps: float = 0.0
    """The clock jumps ahead by hours, as after a machine was suspended: leases run out and deadlines pass at once."""
    presence: bool = True
    """Whether a dead process is known to be dead at once; else its leases run out."""
    approvals_expire: bool = False
    """The healing lets days go by instead of deciding."""

    @classmethod
    def drawn(cls, rng: random.Random) -> Faults:
        """Some faults, not all: what hides behind one is found without it."""

        def perhaps(share: float, most: float) -> float:
            return rng.random() * most if rng.random() < share else 0.0

        return cls(
            tasks=rng.choice((1, 1, 2, 2, 3)),
            workers=rng.choice((1, 1, 2)),
            trouble_seconds=rng.choice((15.0, 30.0, 50.0)),
            crash_steps=rng.choice((None, 150, 500, 1500)),
            freezes=perhaps(0.3, 0.7),
            cut_offs=perhaps(0.2, 0.5),
            publish_fails=perhaps(0.3, 0.5),
            publish_lost_answers=perhaps(0.3, 0.3),
            acknowledge_fails=perhaps(0.2, 0.3),
            duplicates=perhaps(0.3, 0.5),
            undelivered=perhaps(0.25, 0.6),
            delay_seconds_max=perhaps(0.3, 0.3),
            unknown_commits=perhaps(0.3, 0.1),
            operator=perhaps(0.5, 0.7),
            kills=perhaps(0.25, 0.3),
            tight_budget=perhaps(0.2, 0.7),
            lost_client=perhaps(0.2, 0.6),
            leaps=perhaps(0.15, 0.5),
            presence=rng.random() < 0.6,
            approvals_expire=rng.random() < 0.03,
        )


@dataclass
class Outcome:
    """What came of a schedule: broken promises, and a digest of everything that was recorded, in order."""

    seed: int
    broken: list[str]
    trace: str
    virtual_seconds: float
    steps: int
    deaths: int
    events: int

    def report(self, variant: str = "") -> str:
        """The broken promises and how to see them again."""
        again = f"python tests/simulation/run.py --seed {self.seed}" + (f" --variant {variant}" if variant else "")
        return "\n  ".join([f"seed {self.seed} broke {len(self.broken)} promises; again: {again}", *self.broken[:12]])


@dataclass(frozen=True)
class Parts:
    """The classes that a schedule is run with; planted faults replace one of them."""

    runner: type[Runner] = Runner
    store: type[SqliteStore] = SqliteStore
    tools: type[ScriptedTools] = ScriptedTools
    patches: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    faults: Mapping[str, Any] = field(default_factory=dict)
    """What a planted fault needs to show: set over what the seed drew."""


def run(seed: int, parts: Parts | None = None) -> Outcome:
    """Run one schedule to its end."""
    parts = parts or Parts()

    async def main(simulation: Simulation) -> Outcome:
        schedule = Schedule(simulation, parts)
        with (
            same_numbers(simulation.seed, schedule.now_us),
            fences_watched(schedule.world),
            mock.patch("bus.simulated._is_of_the_dead", schedule.freezer.passes_over),
        ):
            return await schedule.run()

    logging.disable(logging.CRITICAL)
    try:
        with parts.patches(), mock.patch("bus.simulated.STEPS_MAX", STEPS_MAX):
            return run_simulated(seed, main)
    except SimulationStuck as error:
        return Outcome(seed, [f"it never ends: {error}"], "", 0.0, STEPS_MAX, 0, 0)
    except Corrupt as error:
        return Outcome(seed, [f"what is stored does not hold together: {error}"], "", 0.0, 0, 0, 0)
    finally:
        logging.disable(logging.NOTSET)


@contextlib.contextmanager
def same_numbers(seed: int, now_us: Callable[[], int]) -> Any:
    """Ids and traces from the seed, and the simulated clock wherever product code asks for the time."""
    rng = random.Random(f"ids of {seed}")

    def uuid7(time_us: int | None = None) -> str:
        del time_us
        return ids.derived("simulated", rng.getrandbits(64))

    def traceparent(_correlation_id: str) -> str:
        return f"00-{rng.getrandbits(128):032x}-{rng.getrandbits(64):016x}-01"

    with (
        mock.patch.object(ids, "now_us", now_us),
        mock.patch.object(ids, "uuid7", uuid7),
        mock.patch("contracts.envelope.open_trace", traceparent),
    ):
        yield


@cache
def codec() -> Codec:
    return Codec(CommittedIds())


@cache
def operator_key() -> OperatorKey:
    return OperatorKey(bytes(range(32)))


class Schedule:
    """The parts of one schedule and how they are set going."""

    def __init__(self, simulation: Simulation, parts: Parts) -> None:
        self.simulation = simulation
        self.rng = simulation.random
        self.parts = parts
        drawn = Faults.drawn(self.rng)
        self.faults = Faults(**({f.name: getattr(drawn, f.name) for f in fields(Faults)} | dict(parts.faults)))
        self.days_us = 0
        self.codec = codec()
        self.topology = Topology()
        self.world = World()
        self.freezer = Freezer(simulation.loop)
        self.trouble = True
        self.alive: dict[str, tuple[Process, Gate]] = {}
        self.accepted: list[str] = []
        self.deaths = 0
        self.steps_to_crash = 0

    def now_us(self) -> int:
        """The wall clock of all processes, which can be put forward by days."""
        return self.simulation.now_us() + self.days_us

    async def run(self) -> Outcome:
        """Trouble, healing, quiet, judgement."""
        loop = self.simulation.loop
        faults = self.faults
        self.database = await InlineDatabase.open(schema=[SCHEMA])
        self.bus_faults = BusFaults(
            seed=self.simulation.seed,
            duplicate=faults.duplicates,
            drop=faults.undelivered,
            fail_before=faults.publish_fails,
            fail_after=faults.publish_lost_answers,
            commit_fails=faults.acknowledge_fails,
            delay_seconds_max=faults.delay_seconds_max,
        )
        self.broker = MemoryBroker(clock=self.now_us, faults=self.bus_faults)
        self.bus = self.broker.connect()
        self.store: StateStore = self.parts.store(self.database, None, self.codec, clock=self.now_us)
        self.stop = asyncio.Event()
        places = [(role, number) for role in ROLES for number in range(faults.workers)]
        keepers = [asyncio.create_task(self.keep(role, number)) for role, number in places]
        clients = [asyncio.create_task(self.submit(number)) for number in range(faults.tasks)]
        acting = [asyncio.create_task(act) for act in (self.operate(), self.be_away(), self.leap())]
        if faults.crash_steps:
            self.steps_to_crash = self.until_crash()
            loop.on_step = self.crash_perhaps
        await asyncio.sleep(faults.trouble_seconds)
        await asyncio.gather(*clients)
        self.calm(acting)
        quiet = await self.heal()
        self.stop.set()
        await asyncio.gather(*keepers)
        connection = self.database._store.connection
        broken = [] if quiet else [f"not quiet after {HEALING_SECONDS_MAX:g} s of healing"]
        broken += await invariants.broken(self.store, self.codec, connection, self.world, self.accepted)
        broken += await invariants.on_the_bus(self.store, connection, self.broker)
        events = await invariants.everything(self.store)
        trace = hashlib.sha256("".join(event.hash for event in events).encode()).hexdigest()
        await self.database.close()
        return Outcome(
            self.simulation.seed,
            broken,
            f"{trace[:16]}/{loop.trace:08x}",
            loop.time(),
            loop.steps,
            self.deaths,
            len(events),
        )

    def calm(self, acting: Sequence[asyncio.Task[None]]) -> None:
        """The trouble is over: nothing more breaks, and who stood still goes on."""
        self.trouble = False
        self.simulation.loop.on_step = None
        for task in acting:
            task.cancel()
        faults = self.bus_faults
        faults.duplicate = faults.drop = faults.fail_before = faults.fail_after = faults.commit_fails = 0.0
        for process, gate in self.alive.values():
            gate.open()
            self.freezer.thaw(process)

    # -- processes -----------------------------------------------------------------------------------------------------

    async def keep(self, role: str, number: int) -> None:
        """Start the process again whenever it dies, until all is over."""
        incarnation = 0
        while not self.stop.is_set():
            incarnation += 1
            process, gate = self.simulation.process(f"{role}-{number}.{incarnation}"), Gate()
            self.alive[process.name] = process, gate
            gone = asyncio.Event()
            process.on_kill.append(gone.set)
            process.start(self.live(process, gate, role, gone))
            await gone.wait()
            del self.alive[process.name]
            if not self.stop.is_set():
                self.deaths += 1
                await asyncio.sleep(self.rng.choice((0.1, 1.0, 5.0)) if self.trouble else 0.1)

    async def live(self, process: Process, gate: Gate, role: str, gone: asyncio.Event) -> None:
        """The life of a process; one that ends by itself, but for a store or bus that is away, is a fault."""
        try:
            await self.work(process, gate, role)
        except Retryable:
            pass  # a supervisor starts it again
        except Exception as error:
            self.world.faults.append(f"{process.name} ended by itself: {error!r}")
        process.alive = False
        for each in process.on_kill:
            each()
        gone.set()

    async def work(self, process: Process, gate: Gate, role: str) -> None:
        """What runs inside a process: the real runner over handles that can stand still."""
        share = self.database.share(self.commit_fault)
        is_alive = self.is_alive if self.faults.presence else None
        store: Any = self.parts.store(share, None, self.codec, clock=self.now_us, is_alive=is_alive)
        store.claim = claims_watched(store.claim, self.world, self.is_done)
        connection = self.broker.connect()
        process.on_kill.append(connection.crash)
        bus: Any = Handle(gate, connection)

        def tools(session: Session) -> ScriptedTools:
            return self.parts.tools(session, self.world, asyncio.sleep, self.now_us, self.answered)

        agent = next(agent for agent in CORE_AGENTS if agent.role == role)
        runner = self.parts.runner(
            agent,
            handle,
            tools,
            store=Handle(gate, store),
            bus=bus,
            codec=self.codec,
            topology=self.topology,
            keyring=Keyring((operator_key().public,)),
            holder=process.name,
            pace=Pace(sweep_seconds=10.0, missed_after_seconds=15.0),
            clock=self.now_us,
        )
        await runner.run(self.stop)

    def until_crash(self) -> int:
        return 1 + int(self.rng.expovariate(1 / (self.faults.crash_steps or 1)))

    def crash_perhaps(self) -> None:
        """Before each step of the scheduler: some process may die here, whatever it is about to do."""
        self.steps_to_crash -= 1
        if self.steps_to_crash <= 0:
            self.steps_to_crash = self.until_crash()
            if self.alive:
                name = self.rng.choice(sorted(self.alive))
                self.alive[name][0].kill()

    def commit_fault(self, point: str) -> None:
        del point
        if self.trouble and self.faults.unknown_commits and self.rng.random() < self.faults.unknown_commits:
            raise OutcomeUnknown("the simulation lost the answer to a commit")

    def is_alive(self, holder: str) -> bool:
        found = self.alive.get(holder)
        return found is not None and found[0].alive

    def is_done(self, role: str, inbox_id: str) -> bool:
        """Whether the inbox has this delivery as done."""
        query = "SELECT 1 FROM deliveries WHERE role = ? AND event_id = ? AND status = 'done'"
        return self.database._store.connection.execute(query, (role, inbox_id)).fetchone() is not None

    def answered(self, session: Session, ordinal: int) -> bool:
        """Whether the journal already holds an ok outcome under this key."""
        d = session.delivery
        query = (
            "SELECT 1 FROM steps WHERE task_id = ? AND cause_id = ? AND role = ? AND ordinal = ?"
            " AND outcome = 'ok' AND NOT abandoned"
        )
        keys = (d.task_id, d.cause_id, d.role, ordinal)
        return self.database._store.connection.execute(query, keys).fetchone() is not None

    async def be_away(self) -> None:
        """Now and then a process stands still or is cut off, also for longer than its lease lasts."""
        loop = asyncio.get_running_loop()
        while self.faults.freezes or self.faults.cut_offs:
            await asyncio.sleep(self.rng.uniform(0.2, 6.0))
            if not self.alive:
                continue
            process, gate = self.alive[self.rng.choice(self.at_work() or sorted(self.alive))]
            seconds = self.rng.choice((3.0, 11.0, 14.0, 40.0))
            if self.rng.random() < self.faults.freezes:
                self.freezer.freeze(process)
                loop.call_later(seconds, self.freezer.thaw, process)
            elif self.rng.random() < self.faults.cut_offs:
                gate.shut()
                loop.call_later(seconds, gate.open)

    def at_work(self) -> list[str]:
        """Who holds a lease now."""
        rows = self.database._store.connection.execute("SELECT DISTINCT holder FROM leases ORDER BY holder")
        return [holder for (holder,) in rows if holder in self.alive]

    async def leap(self) -> None:
        """Now and then hours pass in an instant."""
        while self.faults.leaps:
            await asyncio.sleep(self.rng.uniform(1.0, 20.0))
            if self.rng.random() < self.faults.leaps:
                self.days_us += self.rng.choice((20, 5400, 7300)) * 1_000_000

    # -- the people ----------------------------------------------------------------------------------------------------

    async def submit(self, number: int) -> None:
        """A client: what was appended is accepted; the news of it may never be sent."""
        await asyncio.sleep(self.rng.uniform(0.0, 10.0))
        budget = self.rng.choice(TIGHT) if self.rng.random() < self.faults.tight_budget else GENEROUS
        submitted = TaskSubmitted(
            title=f"task {number}",
            repository=Script.drawn(self.rng).text(),
            project_id="p",
            project_digest="d",
            base_commit="base",
            budget=budget,
        )
        event = root(submitted, time_us=self.now_us())
        recorded = await self.store.append([self.encoded(event)])
        self.accepted.append(event.task_id)
        if self.rng.random() >= self.faults.lost_client:
            await self.announce(recorded)

    async def operate(self) -> None:
        """An operator who acts at any moment, also in the middle of a handler."""
        kills: list[Recorded] = []
        while True:
            await asyncio.sleep(self.rng.uniform(0.5, 6.0))
            with contextlib.suppress(GavotteError):
                if self.rng.random() < self.faults.operator:
                    await self.act_on_one()
                if self.rng.random() < self.faults.kills:
                    kills += await self.kill()
                elif kills and self.rng.random() < 0.5:
                    await self.lift(kills.pop(self.rng.randrange(len(kills))))

    async def act_on_one(self) -> None:
        rows = await self.store.tasks(TaskFilter())
        if rows:
            state = self.rng.choice(sorted(rows, key=lambda row: row.state.submitted_at_us)).state
            await self.act_on(state, cancel=self.rng.random() < 0.3)

    async def act_on(self, state: TaskState, *, cancel: bool = False) -> None:
        """Whatever a person can do about a task in this state."""
        if state.ended:
            return
        if cancel and not state.cancel_requested:
            await self.say(state, TaskCancelRequested(reason="changed my mind", operator="ada"))
        elif state.pause is not None and state.pause.kind == "budget":
            await self.say(state, BudgetRaised(operator="ada", budget=GENEROUS))
        elif state.pause is not None:
            await self.say(state, TaskResumed(operator="ada"))
        elif state.step == "awaiting_approval" and state.approval is not None:
            facts = {"request_id": state.approval.request_id, "digest": state.approval.digest, "operator": "ada"}
            answer = ApprovalDenied if self.rng.random() < 0.2 else ApprovalGranted
            await self.say(state, answer.model_validate(facts))

    async def say(self, state: TaskState, payload: Payload) -> None:
        """An operator's act as the command line does it: appended, then published."""
        recorded = await self.store.append([self.encoded(await self.spoken(state.task_id, payload))])
        await self.announce(recorded)

    async def spoken(self, task_id: str, payload: Payload) -> Event:
        """An operator's event, caused by the newest event of the task that moved it."""
        stream = await self.store.stream(task_id)
        last = next(event for event in reversed(stream) if moves(event.envelope.type))
        return self.signed(Event(last.envelope, payload).cause(payload))

    def signed(self, draft: Event) -> Event:
        """With an id of its own, and a signature where the type asks for one."""
        producer = f"operator/{self.rng.getrandbits(64)}"
        event = draft.sealed(producer=producer, index=0, time_us=self.now_us(), source=OPERATOR_SOURCE)
        if event.type not in SIGNED_TYPES:
            return event
        return operator_key().sign(event, EPOCH + self.now_us() * MICROSECOND + timedelta(days=1))

    async def kill(self) -> list[Recorded]:
        """Stop a task, a role or everything."""
        open_tasks = [row.state.task_id for row in await self.store.tasks(TaskFilter()) if not row.state.ended]
        scope = self.rng.choice(("task", "role", "all")) if open_tasks else "all"
        target = {"task": self.rng.choice(sorted(open_tasks)) if open_tasks else "", "role": self.rng.choice(ROLES)}
        facts = {"scope": scope, "target": target.get(scope, ""), "reason": "stop", "operator": "ada"}
        payload = KillRaised.model_validate(facts)
        if scope == "task":
            event = await self.spoken(target[scope], payload)
        else:
            home = ids.SYSTEM_TASK
            event = root(payload, task_id=home, source=OPERATOR_SOURCE, trust="operator", time_us=self.now_us())
        recorded = await self.store.append([self.encoded(event)])
        await self.announce(recorded)
        return recorded

    async def lift(self, kill: Recorded) -> None:
        """Let what the kill stopped go on."""
        payload = KillLifted(kill_id=kill.envelope.id, operator="ada")
        event = self.signed(Event(kill.envelope, payload).cause(payload))
        await self.announce(await self.store.append([self.encoded(event)]))

    async def announce(self, recorded: Sequence[Recorded]) -> None:
        """The news of what is recorded; where it cannot be sent, nothing is lost."""
        emission = Emission(CORE_AGENTS[0], self.codec, self.topology, self.now_us)
        with contextlib.suppress(GavotteError):
            await self.bus.publish([emission.message(event) for event in recorded])

    def encoded(self, event: Event) -> Encoded:
        return Encoded(event, self.codec.encode_payload(event.payload))

    # -- the healing ---------------------------------------------------------------------------------------------------

    async def heal(self) -> bool:
        """Lift, resume, raise and decide until every task has ended and nothing is open; False if that never comes."""
        loop = asyncio.get_running_loop()
        if self.faults.approvals_expire:
            await self.let_days_go_by()
        deadline = loop.time() + HEALING_SECONDS_MAX
        while loop.time() < deadline:
            for kill in await self.store.kills():
                if not kill.lifted:
                    raised = await self.store.event(kill.event_id)
                    assert raised is not None
                    with contextlib.suppress(GavotteError):
                        await self.lift(raised)
            rows = await self.store.tasks(TaskFilter())
            for row in rows:
                with contextlib.suppress(GavotteError):
                    await self.act_on(row.state)
            if all(row.state.ended for row in rows) and not await self.store.inbox(statuses=invariants.OPEN):
                await asyncio.sleep(30.0)  # whatever was forgotten has time to show
                if not await self.store.inbox(statuses=invariants.OPEN):
                    return True
            await asyncio.sleep(5.0)
        return False

    async def let_days_go_by(self) -> None:
        """Nobody decides anything: approvals expire after three days, and a week later what waits for a person fails."""
        for days in (0, 4, 8):
            self.days_us += days * DAY_US
            await asyncio.sleep(60.0)
