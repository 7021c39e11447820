"""Run schedules by seed: `python tests/simulation/run.py --seed 7`, or `--from 0 --count 500`, with `--variant` or `--trace`.

The order of sets is part of a run, so it starts itself again with PYTHONHASHSEED=0.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Exit 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--variant", default="", help="a planted fault, see variants.py")
    parser.add_argument("--stop", action="store_true", help="stop at the first broken promise")
    parser.add_argument("--trace", action="store_true", help="print a line for each schedule")
    chosen = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"PYTHONHASHSEED": "0"})
    sys.path.insert(0, str(ROOT))
    from tests.simulation.schedule import run
    from tests.simulation.variants import VARIANTS

    parts = VARIANTS[chosen.variant] if chosen.variant else None
    seeds = range(chosen.first, chosen.first + chosen.count) if chosen.seed is None else [chosen.seed]
    broken, began = 0, time.monotonic()
    for seed in seeds:
        outcome = run(seed, parts)
        if chosen.trace:
            print(
                f"{seed} {outcome.trace} {outcome.events} events, {outcome.deaths} deaths, {outcome.steps} steps, "
                f"{outcome.virtual_seconds:.0f} s"
            )
        if outcome.broken:
            broken += 1
            print(outcome.report(chosen.variant), flush=True)
            if chosen.stop:
                break
    print(f"{len(seeds)} schedules, {broken} with broken promises, {time.monotonic() - began:.1f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
