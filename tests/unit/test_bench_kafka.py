"""What the distributed bench compares is explained, and its goals name what it measures."""

from __future__ import annotations

from bench import kafka_systems
from bench.environments import versions
from bench.goals import SMALLEST


def test_every_system_of_the_distributed_bench_is_explained_and_pinned() -> None:
    with kafka_systems.systems(SMALLEST) as known:  # nothing is started before it is measured
        assert set(known) - {"stops"} == set(kafka_systems.ABOUT)
    assert {side[0] for goal in kafka_systems.GOALS for side in (goal.ours, goal.theirs) if side} <= set(known)
    assert all("==" in line for peer in kafka_systems.PEERS for line in versions(peer))
