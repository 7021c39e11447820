"""`python bench/run.py`: the same job on ours and on its peers, in turn and several times; ratios beside their goals.

Ours keeps every promise as shipped (WAL, synchronous FULL, inbox, fold, hash chain, views). Absolute figures belong to
one machine at one hour: only the ratios of one run mean anything, and `others_percent` says how much of the machine was
busy with other work meanwhile. Each mode is a run of its own with a result file of its own, from which docs/performance.md
is written.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench import embedded_systems, growth, kafka_systems  # noqa: E402  # the folder is no package: the root comes first
from bench.dance import SETTINGS  # noqa: E402
from bench.environments import versions  # noqa: E402
from bench.goals import FULL, QUICK, SMALLEST, Goal, Rounds, Size, middle, rows  # noqa: E402
from bench.machine import description  # noqa: E402

MODES: dict[str, ModuleType] = {"embedded": embedded_systems, "kafka": kafka_systems, "growth": growth}
"""Each has GOALS, PEERS and `systems(size)`, a context that yields {name: measure}; `measure()` returns Figures."""
RESULTS = Path(__file__).with_name("results")


def measured(mode: ModuleType, size: Size, count: int, only: list[str], left_out: tuple[str, ...]) -> Iterator[Rounds]:
    """Interleaved rounds of everything chosen: all so far, after each."""
    with mode.systems(size) as known:
        measures = {name: one for name, one in known.items() if name in (only or known) and name not in left_out}
        rounds: Rounds = {name: [] for name in measures}
        for number in range(count):
            for name, measure in measures.items():
                print(f"round {number + 1} of {count}: {name}", file=sys.stderr, flush=True)
                rounds[name].append(measure())
            yield rounds


def show(rounds: Rounds, goals: tuple[Goal, ...]) -> None:
    """The table, and below it what was measured."""
    print(f"{'':4}{'':38}{'against':>16}{'ours':>12}{'theirs':>12}{'ratio':>9}{'floor':>8}{'aim':>7}")
    for row in rows(rounds, goals):
        theirs = "" if row["theirs"] is None else f"{row['theirs']:.2f}"
        print(
            f"{row['row']:4}{row['what']:38}{row['against']:>16}{row['ours']:12.2f}{theirs:>12}"
            f"{row['ratio']:9.3f}{row['floor']:8}{row['aim']:7}  {row['verdict']}"
        )
    for system, figures in rounds.items():
        shown = ", ".join(f"{name.replace('_', ' ')} {middle(rounds, system, name):.4g}" for name in figures[0])
        print(f"\n{system}: {shown}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=[*MODES, "all"], default="all")
    parser.add_argument("--rounds", type=int, help="default 5, of the quick set 2")
    parser.add_argument("--quick", action="store_true", help="a quarter of the tasks, two rounds")
    parser.add_argument("--smallest", action="store_true", help="a few tasks, one round: only to see that it runs")
    parser.add_argument("--only", default="", help="systems, separated by commas")
    parser.add_argument("--no-peers", action="store_true", help="leave out what needs an environment of its own")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}/MODE.json")
    parser.add_argument("--json", action="store_true", help="print the result and no table")
    return parser.parse_args()


def main() -> int:
    """Exit 0 when all that was chosen was measured."""
    chosen = arguments()
    size = SMALLEST if chosen.smallest else QUICK if chosen.quick else FULL
    count = chosen.rounds or (1 if chosen.smallest else 2 if chosen.quick else 5)
    for name in MODES if chosen.mode == "all" else [chosen.mode]:
        mode, began, machine = MODES[name], time.time(), description()
        left_out = mode.PEERS if chosen.no_peers else ()
        wanted = [one for one in chosen.only.split(",") if one]
        said: dict[str, Any] = {
            "command": f"python bench/run.py --mode {name} --save",
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
            "machine": machine,
            "peers": {peer: versions(peer) for peer in mode.PEERS},
            "about": getattr(mode, "ABOUT", {}),
            "settings": SETTINGS,
            "size": vars(size),
        }
        for rounds in measured(mode, size, count, wanted, left_out):
            said |= {"seconds": round(time.time() - began), "rounds": rounds, "rows": rows(rounds, mode.GOALS)}
            text = json.dumps(said, indent=1) + "\n"
            if chosen.save:  # after each round, so that one that fails takes none with it
                RESULTS.mkdir(exist_ok=True)
                (RESULTS / f"{name}.json").write_text(text)
        if chosen.json:
            print(text)
        else:
            show(rounds, mode.GOALS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
