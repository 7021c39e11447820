"""The simulator: a seed is a run; the bus's promises hold under crashes, duplicates and failures of any kind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import defaultdict

import pytest

from bus.lanes import Lanes
from bus.memory import Faults, MemoryBroker, MemoryBus
from bus.port import Consumer, Message, Record
from bus.simulated import Killed, Process, Simulation, SimulationStuck, current_process, run_simulated
from contracts.errors import OutcomeUnknown, Unavailable

MESSAGES = 120
KEYS = 11


class Job:
    def __init__(self, record: Record) -> None:
        self.key = record.key
        self.record = record


class Relay:
    """A worker in small: it handles records in lanes, some of them slowly, and acknowledges."""

    def __init__(self, simulation: Simulation, bus: MemoryBus, handled: dict[bytes, list[int]]) -> None:
        self.simulation = simulation
        self.bus = bus
        self.handled = handled
        self.lanes: Lanes[Job] = Lanes(self.handle, self.detach, detach_seconds=5.0, ahead_max=20)

    async def handle(self, job: Job) -> None:
        await asyncio.sleep(self.simulation.random.choice([0.0, 0.01, 1.0]))
        self.handled[job.key].append(int(job.record.value))

    async def detach(self, job: Job) -> None:
        raise AssertionError("nothing here takes so long")

    async def lost(self, parts: frozenset[int]) -> None:
        await self.lanes.drain(parts)
        await self.acknowledge()

    async def acknowledge(self) -> None:
        offsets = self.lanes.ready_offsets()
        with contextlib.suppress(Unavailable):
            await self.subscription.commit(offsets)
            self.lanes.committed(offsets)

    async def run(self, name: str) -> None:
        self.subscription = await self.bus.subscribe(Consumer("g", name, ("t",), on_lost=self.lost))
        while True:
            full = self.lanes.full_partitions()
            self.subscription.pause(full)
            self.subscription.resume(frozenset(range(8)) - full)
            for record in await self.subscription.fetch(10, 1.0):
                self.lanes.add(Job(record))
            await self.acknowledge()


async def relays(simulation: Simulation) -> tuple[int, dict[bytes, list[int]]]:
    """Three relays that are killed again and again; ends when everything was handled."""
    faults = Faults(
        simulation.seed, duplicate=0.1, fail_before=0.1, fail_after=0.1, commit_fails=0.1, delay_seconds_max=0.2
    )
    broker = MemoryBroker(clock=simulation.now_us, faults=faults)
    handled: dict[bytes, list[int]] = defaultdict(list)
    alive: list[Process] = []
    numbers = itertools.count()

    def start() -> None:
        process = simulation.process(f"relay-{next(numbers)}")
        bus = broker.connect()
        process.on_kill.append(bus.crash)
        process.start(Relay(simulation, bus, handled).run(process.name))
        alive.append(process)

    def perhaps_kill() -> None:
        if simulation.random.random() < 0.005 and simulation.loop.time() < 60:
            alive.pop(simulation.random.randrange(len(alive))).kill()
            start()

    for _ in range(3):
        start()
    simulation.loop.on_step = perhaps_kill
    bus = broker.connect()
    for number in range(MESSAGES):
        message = Message("t", b"%d" % (number % KEYS), b"%d" % number)
        while True:
            try:
                await bus.publish([message])
                break
            except (Unavailable, OutcomeUnknown):
                await asyncio.sleep(0.1)
    while len({number for numbers in handled.values() for number in numbers}) < MESSAGES:
        assert simulation.loop.time() < 1000, "something is lost"
        await asyncio.sleep(1)
    simulation.loop.on_step = None
    return simulation.loop.trace, handled


@pytest.mark.parametrize("seed", range(100))
def test_nothing_is_lost_and_order_is_kept_whatever_happens(seed: int) -> None:
    _, handled = run_simulated(seed, relays)
    for key, numbers in handled.items():
        first_times = list(dict.fromkeys(numbers))
        assert first_times == sorted(first_times), f"key {key!r}, seed {seed}"


def test_the_same_seed_is_the_same_run() -> None:
    runs = [run_simulated(seed, relays) for seed in (3, 3, 4)]
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[2][0]


def test_time_is_simulated() -> None:
    async def main(simulation: Simulation) -> tuple[float, int]:
        before = simulation.now_us()
        await asyncio.sleep(86_400)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(100):
                await asyncio.Event().wait()
        return simulation.loop.time(), simulation.now_us() - before

    assert run_simulated(1, main) == (86_500.0, 86_500_000_000)


def test_different_seeds_order_differently() -> None:
    async def main(_: Simulation) -> list[int]:
        order: list[int] = []

        async def note(number: int) -> None:
            await asyncio.sleep(0)
            order.append(number)

        await asyncio.gather(*(note(number) for number in range(6)))
        return order

    orders = {tuple(run_simulated(seed, main)) for seed in range(20)}
    assert len(orders) > 10


def test_a_killed_process_runs_no_further_not_even_its_cleanup() -> None:
    async def main(simulation: Simulation) -> list[str]:
        said: list[str] = []

        async def live() -> None:
            process = current_process()
            assert process is not None
            child = asyncio.create_task(chatter())
            try:
                await asyncio.sleep(10)
                said.append("alive at 10")
            finally:
                said.append("cleanup")
                await child

        async def chatter() -> None:
            while True:
                await asyncio.sleep(2)
                said.append("tick")

        process = simulation.process("p")
        process.on_kill.append(lambda: said.append("locks freed"))
        process.start(live())
        await asyncio.sleep(5)
        process.kill()
        await asyncio.sleep(100)
        return list(said)

    assert run_simulated(1, main) == ["tick", "tick", "locks freed"]


def test_a_process_that_kills_itself_does_not_return() -> None:
    async def main(simulation: Simulation) -> list[str]:
        said: list[str] = []

        async def live() -> None:
            process = current_process()
            assert process is not None
            said.append("before")
            try:
                process.kill()
            except Exception:
                said.append("survived")
            said.append("after")

        task = simulation.process("p").start(live())
        await asyncio.sleep(1)
        assert isinstance(task.exception(), Killed)
        return list(said)

    assert run_simulated(1, main) == ["before"]


def test_an_exception_in_a_process_ends_the_simulation_with_its_seed() -> None:
    async def main(simulation: Simulation) -> None:
        async def fail() -> None:
            raise ZeroDivisionError

        simulation.process("p").start(fail())
        await asyncio.sleep(1)

    with pytest.raises(ZeroDivisionError) as raised:
        run_simulated(77, main)
    assert "seed 77" in raised.value.__notes__[0]


def test_waiting_for_ever_is_found() -> None:
    async def main(_: Simulation) -> None:
        await asyncio.Event().wait()

    with pytest.raises(SimulationStuck):
        run_simulated(1, main)


def test_threads_are_refused() -> None:
    async def main(_: Simulation) -> None:
        await asyncio.to_thread(print)

    with pytest.raises(RuntimeError, match="no threads"):
        run_simulated(1, main)
