"""The generated parts of docs/performance.md, from the result files alone: `make docs` writes them, a test holds them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
UNITS = (("_per_second", "/s"), ("_percent", " %"), ("_seconds", " s"), ("_ms", " ms"), ("_us", " µs"))
VERDICTS = {"aim": "aim reached", "floor": "floor holds", "below": "**below the floor**"}
STOPS = {
    "embedded": {
        "receive": "the records read from the log",
        "decode": "envelope and payload",
        "fold": "the inbox asked, the state of the task",
        "decide": "the role, and whether it is its turn",
        "journal": "one step written down before and after it is taken (the role of the other figures takes none)",
        "seal": "ids, right to emit, secrets, bytes",
        "commit": "the next state, hashes, rows written",
        "flush": "waiting for the disk, shared by all that is committed together",
        "publish": "the news appended to the log",
        "acknowledge": "marks and offsets, together once a second",
        "between": "the event loop, lanes, tasks and futures of a delivery, wake-ups, the process around them",
        "whole": "processor time of one delivery",
    },
    "kafka": {
        "receive": "answers of the broker taken apart",
        "decode": "headers and envelope, payload",
        "fold": "the inbox asked for many at once, the state of the task",
        "decide": "the role, and whether it is its turn",
        "journal": "one step written down before and after it is taken (the role of the other figures takes none)",
        "seal": "ids, right to emit, secrets, bytes",
        "commit": "the next state, hashes, rows sent to the server",
        "publish": "records made, put into batches and sent to the broker",
        "acknowledge": "marks and offsets, together once a second",
        "between": "the event loop, answers of both servers as they come in, lanes, tasks and futures of a delivery",
        "whole": "processor time of the agents for one delivery",
        "postgres": "what the database server does for it",
        "broker": "what the broker does for it",
    },
}
"""mode -> what each stop is, in the order of the path."""


def found(mode: str) -> dict[str, Any] | None:
    """The result of a mode, None where it was not measured."""
    path = RESULTS / f"{mode}.json"
    return json.loads(path.read_text()) if path.exists() else None


def modes() -> list[str]:
    """All that was measured: the embedded mode first."""
    order = ("embedded", "kafka", "growth")
    names = {path.stem for path in RESULTS.glob("*.json") if "rounds" in json.loads(path.read_text())}
    return [*(name for name in order if name in names), *sorted(names - {*order})]


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    names = list(head)
    lines = ["| " + " | ".join(names) + " |", "|" + " - |" * len(names)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def number(value: float) -> str:
    """Three digits that count."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def spread(values: Iterable[float]) -> str:
    """Median and range of the rounds."""
    ordered = sorted(values)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return f"{number(middle)} ({number(ordered[0])} to {number(ordered[-1])})"


def machines() -> str:
    """When, where and with what each mode was measured."""
    rows = []
    for mode in modes():
        said = found(mode) or {}
        machine = said["machine"]
        rounds = max(len(each) for each in said["rounds"].values())
        versions = f"Python {machine['python']}, SQLite {machine['sqlite']}, {machine['system']}"
        place = f"{machine['processor']}, {machine['cpus']} cores"
        rows.append((mode, said["began"], rounds, place, versions, f"`{said['command']}`"))
    return table(("mode", "began", "rounds", "machine", "versions", "made by"), rows)


def goals() -> str:
    """Each goal: both figures, the ratio round by round, floor and aim, how near."""
    rows = []
    for mode in modes():
        for row in (found(mode) or {})["rows"]:
            sign = "at most " if row["most"] else ""
            near = row["aim"] / row["ratio"] if row["most"] else row["ratio"] / row["aim"]
            theirs = "" if row["theirs"] is None else number(row["theirs"])
            ratio = f"{number(row['ratio'])} ({number(row['lowest'])} to {number(row['highest'])})"
            limits = (f"{sign}{row['floor']:g}", f"{sign}{row['aim']:g}")
            verdict = f"{VERDICTS[row['verdict']]}, {min(near, 9.99):.0%} of the aim"
            rows.append((row["row"], row["what"], row["against"], number(row["ours"]), theirs, ratio, *limits, verdict))
    rows.sort(key=lambda row: (float(str(row[0]).rstrip("abc")), str(row[0])))
    return table(("#", "work", "against", "ours", "theirs", "ratio", "floor", "aim", "how near"), rows)


def systems() -> str:
    """Everything that was measured, system by system."""
    parts = []
    for mode in modes():
        if mode == "growth":
            continue
        for system, rounds in (found(mode) or {})["rounds"].items():
            if system == "stops" or not rounds:
                continue
            names = [name for name in rounds[0] if all(name in one for one in rounds)]
            shown = [f"{_words(name)} {spread(one[name] for one in rounds)}" for name in names]
            parts.append(f"- **{mode}: {system}**: " + "; ".join(shown))
    return "\n".join(parts)


def stops(mode: str) -> str:
    """Where the time of a delivery goes."""
    said = found(mode)
    rounds = said["rounds"].get("stops", []) if said else []
    if not rounds:
        return "Not measured in this run."
    rows = [(stop, what, spread(one[f"{stop}_us"] for one in rounds)) for stop, what in STOPS[mode].items()]
    return table(("stop", "what it is", "µs per delivery"), rows)


def growth() -> str:
    """The same figures in larger stores, and with more of everything."""
    said = found("growth")
    if not said:
        return "Not measured."
    names = ("tasks_per_second", "cpu_ms_per_task", "idle_p50_ms", "idle_p99_ms")
    rows = [
        (said["about"].get(system, system), *(spread(one[name] for one in rounds) if name in rounds[0] else "" for name in names))
        for system, rounds in said["rounds"].items()
        if rounds and system != "million"
    ]  # fmt: skip
    reading = said["rounds"].get("million", [])
    lines = [f"- {_words(name)}: {spread(one[name] for one in reading)}" for name in (reading[0] if reading else ())]
    head = ("what", "tasks/s", "CPU ms per task", "idle p50 ms", "idle p99 ms")
    return table(head, rows) + ("\n\nReading a log of a million events:\n\n" + "\n".join(lines) if lines else "")


def peers() -> str:
    """What each system is, what it does more of, and what a crash or a loss of power takes from it."""
    lines = []
    for mode in modes():
        said = found(mode) or {}
        if mode != "growth":
            lines += [f"- **{name}**: {about}" for name, about in said.get("about", {}).items()]
    return "\n".join(lines)


def versions() -> str:
    """The pinned versions of the peers' own packages."""
    named: dict[str, str] = {}
    for mode in modes():
        for peer, pinned in (found(mode) or {})["peers"].items():
            named[peer] = ", ".join(pinned[:3])
    return "\n".join(
        f"- {peer}: {pinned}; all of it in `bench/requirements/{peer}.txt`" for peer, pinned in named.items()
    )


def _words(name: str) -> str:
    for end, unit in UNITS:
        if name.endswith(end):
            return f"{name.removesuffix(end).replace('_', ' ')}{' per' + unit.replace('/s', ' second') if unit == '/s' else ', in' + unit}"
    return name.replace("_", " ")
