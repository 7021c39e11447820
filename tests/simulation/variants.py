"""Planted faults."""
from tests.simulation.schedule import Parts
VARIANTS: dict[str, Parts] = {}
