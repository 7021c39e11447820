"""Writes the parts of the pages that follow from the code: `make docs`; a test fails where a page is out of date.

Each part stands between `<!-- generated: NAME -->` and `<!-- end: NAME -->`; all else on a page is written by hand.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import tomllib
import types
import typing
from collections.abc import Callable, Iterable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

from agents.model.faults import Fault  # noqa: E402
from agents.model.prices import LongRates, PriceTable, Rates  # noqa: E402
from agents.model.script import Rule, When  # noqa: E402
from agents.planning import OUT_OF_BOUNDS  # noqa: E402
from agents.prompts import prompt_for  # noqa: E402
from agents.settings import described  # noqa: E402
from agents.tools.authoring import OFFERS  # noqa: E402
from bench import report  # noqa: E402
from bus.retry import TABLE, DeadLetter, LetGo, Park, Stop  # noqa: E402
from contracts import errors, events  # noqa: E402
from contracts.asyncapi import document as asyncapi_document  # noqa: E402
from contracts.topology import AWAITED, Topology, dead_letter_topic  # noqa: E402
from state_store.fold import ANYWHERE, PAUSES, START, TRANSITIONS  # noqa: E402

TOPOLOGY = Topology()


# -- words and tables ------------------------------------------------------------------------------------------------


def sentence(thing: object) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; pipes in cells are escaped."""
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("|" + " - |" * len(lines[0].split(" | ")))
    lines += [
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines)


def code(words: Iterable[str]) -> str:
    """Names as code, in a row."""
    return ", ".join(f"`{word}`" for word in words) or "nobody"


def span(seconds: int) -> str:
    """A duration as a person says it."""
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
        if seconds % size == 0 and seconds >= size:
            count = seconds // size
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "at once"


def type_name(annotation: Any) -> str:
    """An annotation in short, without module names."""
    if annotation is type(None):
        return "null"
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_name(args[0])
    if origin is typing.Literal:
        return " or ".join(f'"{arg}"' for arg in args)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(type_name(arg) for arg in args)
    if origin is tuple:
        return f"list of {type_name(args[0])}"
    if origin is dict:
        return f"map of {type_name(args[1])}"
    if origin is not None:
        return f"{origin.__name__} of {', '.join(type_name(arg) for arg in args)}"
    return {"str": "text", "int": "integer", "float": "number", "bool": "yes or no", "datetime": "time"}.get(
        getattr(annotation, "__name__", str(annotation)),
        getattr(annotation, "__name__", str(annotation)),
    )


def default_of(field: Any) -> str:
    """What a field is when it is not given; `required` where it must be."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ("", (), {}):
        return "empty"
    return f"`{value}`" if isinstance(value, str | int | float | bool) else "see below"


def fields(model: Any) -> str:
    """The fields of a pydantic class as a table."""
    rows = [(f"`{name}`", type_name(f.annotation), default_of(f)) for name, f in model.model_fields.items()]
    return table(("field", "type", "default"), rows)


# -- contracts ---------------------------------------------------------------------------------------------------------


def event_pages() -> str:
    """Every event: what it says, who says it, who listens, what it carries."""
    parts = []
    for cls in events.EVENTS:
        type_, version = cls.event_type(), cls.event_version()
        signed = "; signed by an operator" if type_ in events.SIGNED_TYPES else ""
        said = f"Emitted by {code(TOPOLOGY.producers(type_))}; consumed by {code(TOPOLOGY.consumers(type_))}"
        schema = f"[schema](../contracts/schemas/{type_}/v{version}.avsc)"
        about = f"{said}; trust `{cls.TRUST}`{signed}. Version {version}: {schema}."
        parts += [f"### {type_}", sentence(cls), about, fields(cls)]
    return "\n\n".join(parts)


def record_pages() -> str:
    """The records that events carry inside."""
    found = [
        cls
        for cls in vars(events).values()
        if isinstance(cls, type) and issubclass(cls, events.Fact) and not issubclass(cls, events.Payload)
    ]
    parts = [
        part for cls in found if cls is not events.Fact for part in (f"### {cls.__name__}", sentence(cls), fields(cls))
    ]
    return "\n\n".join(parts)


def said_on(topic: str) -> list[str]:
    """The event types that travel on a topic."""
    producer = topic.split(".")[1]
    return [cls.event_type() for cls in events.EVENTS if producer in TOPOLOGY.producers(cls.event_type())]


def topics() -> str:
    """The topics, who alone writes each, and what travels on it."""
    rows = [(f"`{topic}`", f"`{topic.split('.')[1]}`", code(said_on(topic))) for topic in TOPOLOGY.topics()]
    return table(("topic", "written by", "events"), rows)


def groups() -> str:
    """The consumer group of each role and where its letters go."""
    rows = []
    for agent in TOPOLOGY.agents:
        letters = dead_letter_topic("<topic>", agent.group)
        rows.append((f"`{agent.group}`", code(agent.consumes), code(TOPOLOGY.topics_for(agent.role)), f"`{letters}`"))
    return table(("group", "consumes", "subscribes to", "dead letters"), rows)


def dance() -> str:
    """The way of a task through the roles, drawn from the topology."""
    lines = ["```mermaid", "flowchart LR", "  you((you))"]
    lines += [f"  {agent.role}[{agent.role.capitalize()}]" for agent in TOPOLOGY.agents]
    heard = {type_ for type_ in events.SIGNED_TYPES if type_ not in ("ApprovalGranted", "ApprovalDenied")}
    for cls in events.EVENTS:
        type_ = cls.event_type()
        if type_ in heard or len(TOPOLOGY.consumers(type_)) == len(TOPOLOGY.agents):
            continue
        for producer in TOPOLOGY.producers(type_):
            origin = producer if producer not in ("tasks", "operator") else "you"
            lines += [f"  {origin} -- {type_} --> {role}" for role in TOPOLOGY.consumers(type_)]
    lines += ["  deploy -. ApprovalRequested .-> you", "  deploy -. TaskSucceeded .-> you", "```"]
    return "\n".join(lines)


def steps() -> str:
    """The legal moves of a task, drawn from the table that the store enforces."""
    lines = ["```mermaid", "stateDiagram-v2"]
    for step, moves in TRANSITIONS.items():
        origin = "[*]" if step == START else step
        lines += [f"  {origin} --> {target}: {type_}" for type_, target in moves.items()]
    ends = ["succeeded", *ANYWHERE.values()]
    lines += [f"  {end} --> [*]" for end in ends]
    lines.append("```")
    anywhere = ", ".join(f"`{type_}`" for type_ in ANYWHERE)
    pauses = ", ".join(f"`{type_}` (until `{resume}`)" for type_, resume in PAUSES.items())
    return "\n".join([*lines, "", f"In every step that has not ended: {anywhere}. Pauses, in every step: {pauses}."])


def awaited() -> str:
    """Whose turn it is in each step, and by when."""
    rows = [
        (
            f"`{row.step}`",
            f"`{row.owner}`" + (" (a person)" if row.person else ""),
            code(row.awaits),
            span(row.within_seconds),
        )
        for row in AWAITED
    ]
    return table(("step", "whose turn", "awaited", "within"), rows)


# -- settings ----------------------------------------------------------------------------------------------------------


def setting_table() -> str:
    """Every setting: its key in the file, its variable, its default and what it is."""
    rows = [
        (f"`{key}`", f"`GAVOTTE_{key.upper().replace('.', '__')}`", f"`{default}`" if default else "empty", text)
        for key, default, text in described()
    ]
    return table(("key", "variable", "default", "what it is"), rows)


# -- commands ----------------------------------------------------------------------------------------------------------


EVERYWHERE = ("--data", "--config", "--debug")  # said once, on top


def parameter_row(parameter: Any) -> tuple[str, str]:
    """An argument or option with its kind, and its help."""
    names = ", ".join(parameter.opts + parameter.secondary_opts)
    flag = getattr(parameter, "is_flag", False)
    kind = "" if flag else parameter.metavar or "VALUE"
    shown = parameter.name.upper() if parameter.param_type_name == "argument" else f"{names} {kind}".strip()
    help_text = " ".join((getattr(parameter, "help", None) or "").split())
    return f"`{shown}`", help_text + (" Required." if parameter.required else "")


def command_pages() -> str:
    """Every command: what it does, its arguments and options."""
    from typer.main import get_command

    from console.cli.main import app

    parts: list[str] = []

    def visit(command: Any, path: str) -> None:
        words = " ".join((command.help or "").replace("\b", "").split())
        subcommands = dict(getattr(command, "commands", {}))
        parts.extend([f"### {path}", words])
        own = [p for p in command.params if not getattr(p, "hidden", False) and not {*p.opts} & {*EVERYWHERE}]
        if own:
            parts.append(table(("parameter", "what it is"), map(parameter_row, own)))
        for name, further in subcommands.items():
            if not further.hidden:
                visit(further, f"{path} {name}")

    visit(get_command(app), "gavotte")
    return "\n\n".join(part for part in parts if part)


# -- errors ------------------------------------------------------------------------------------------------------------


def error_classes() -> list[type[errors.GavotteError]]:
    """All error classes in the order of their file."""
    found = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.GavotteError)]
    return [cls for cls in found if cls.__module__ == errors.__name__]


def verdict_on(cls: type[BaseException]) -> str:
    """What such a failure means for a delivery, in words, from the table of `bus.retry`."""
    rule = next(TABLE[known] for known in cls.__mro__ if known in TABLE)
    ends = {DeadLetter: "dead letter", Park: "park", LetGo: "let go", Stop: "stop"}
    end = ends[rule.then] if rule.then else "the last pause again and again"
    if not rule.backoff_seconds:
        return end
    return f"retry after {', '.join(span(int(seconds)) for seconds in rule.backoff_seconds)}; then {end}"


def error_table() -> str:
    """Each error: its code, what it means, what becomes of a delivery, what the command line exits with."""
    rows = [(f"`{cls.code}`", sentence(cls), verdict_on(cls), cls.exit_code) for cls in error_classes()]
    return table(("code", "what it says", "verdict on a delivery", "exit code"), rows)


def fifth_agent() -> str:
    """The example of a further agent, whole."""
    return f"```python\n{(ROOT / 'examples' / 'licence_scan.py').read_text().strip()}\n```"


def described_fields(model: Any) -> str:
    """The fields of a class that describes each of them."""
    return table(
        ("field", "what it is"), [(f"`{name}`", f.description or "see below") for name, f in model.model_fields.items()]
    )


def model_prices() -> str:
    """The prices that come with gavotte, in dollars per million tokens."""
    head = ("model", "since", "in", "out", "cache write", "for an hour", "cache read")
    rows = []
    for price in PriceTable.load().rows():
        kinds: list[Rates] = [price, *([price.long] if price.long else [])]
        for rates in kinds:
            over = f" above {rates.above_tokens:,} tokens" if isinstance(rates, LongRates) else ""
            cents = (rates.input, rates.output, rates.cache_write, rates.cache_write_1h, rates.cache_read)
            rows.append((f"`{price.model}`{over}", price.since, *(f"{value:g}" for value in cents)))
    return table(head, rows)


def mind_tools() -> str:
    """What a model may call while it writes a change."""
    return table(("tool", "what it does"), [(f"`{offer.name}`", offer.description) for offer in OFFERS])


def refusals() -> str:
    """What triage refuses."""
    return table(("kind", "why"), [(f"`{kind}`", words) for kind, words in OUT_OF_BOUNDS.items()])


def prompts() -> str:
    """The prompts in use, and what they are known by in the journal."""
    used = [prompt_for(name) for name in ("triage", "planning", "coding", "review")]
    return table(("prompt", "digest"), [(f"`{p.name}`", f"`{sha256(p.text.encode()).hexdigest()[:16]}`") for p in used])


PARTS: dict[str, Callable[[], str]] = {
    "awaited": awaited,
    "commands": command_pages,
    "dance": dance,
    "errors": error_table,
    "events": event_pages,
    "fifth-agent": fifth_agent,
    "groups": groups,
    "model-conditions": lambda: described_fields(When),
    "model-faults": lambda: described_fields(Fault),
    "model-prices": model_prices,
    "mind-tools": mind_tools,
    "model-rules": lambda: described_fields(Rule),
    "performance-goals": report.goals,
    "performance-growth": report.growth,
    "performance-machines": report.machines,
    "performance-peers": report.peers,
    "performance-stops": partial(report.stops, "embedded"),
    "performance-stops-kafka": partial(report.stops, "kafka"),
    "performance-systems": report.systems,
    "performance-versions": report.versions,
    "prompts": prompts,
    "records": record_pages,
    "refusals": refusals,
    "settings": setting_table,
    "steps": steps,
    "topics": topics,
}

MARKED = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n)(?P<body>.*?)(<!-- end: (?P=name) -->)", re.DOTALL)


def asyncapi() -> str:
    """The AsyncAPI document, for machines."""
    return json.dumps(asyncapi_document(version()), indent=1, ensure_ascii=False) + "\n"


def version() -> str:
    """The release that the code is."""
    found: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return found


FILES: dict[str, Callable[[], str]] = {"asyncapi.json": asyncapi}
"""Files that are generated whole."""


def rendered(text: str) -> str:
    """A page with its generated parts made anew."""

    def part(match: re.Match[str]) -> str:
        return f"{match.group(1)}\n{PARTS[match.group('name')]()}\n\n{match.group(4)}"

    return MARKED.sub(part, text)


def pages() -> list[Path]:
    """Every page that may hold generated parts."""
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


if __name__ == "__main__":
    for page in pages():
        before = page.read_text()
        after = rendered(before)
        if after != before:
            page.write_text(after)
            print(f"wrote {page.relative_to(ROOT)}")
    for name, made in FILES.items():
        file = DOCS / name
        if not file.exists() or file.read_text() != made():
            file.write_text(made())
            print(f"wrote {file.relative_to(ROOT)}")
