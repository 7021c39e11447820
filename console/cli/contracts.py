"""`contracts`: what crosses a process boundary, and whether classes and schema files agree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from console.cli.call import EXIT_FAILED, Call, Json, command
from console.cli.output import put, put_fields, put_json, put_table

if TYPE_CHECKING:
    from contracts.confluent import SchemaRegistry

contracts = typer.Typer(help="Events, their schemas and who says them.", no_args_is_help=True, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Put these commands into the program."""
    app.add_typer(contracts, name="contracts")
    command(contracts, "list")(list_)
    command(contracts)(show)
    command(contracts)(check)
    command(contracts)(push)
    command(contracts)(asyncapi)


def list_(_call: Call, json: Json = False) -> None:
    """List every event with its schema id, who says it and who hears it."""
    from contracts.events import EVENTS

    found = [row(cls.event_type(), cls.event_version()) for cls in EVENTS]
    if json:
        put_json(found)
        return
    rows = [
        (
            str(each["schema_id"]),
            each["type"],
            str(each["version"]),
            ", ".join(each["said_by"]),
            ", ".join(each["heard_by"]),
        )
        for each in found
    ]
    put_table(("id", "event", "version", "said by", "heard by"), rows, right=("id", "version"))


def show(
    _call: Call,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="The event's type, for instance PlanProposed.")],
    version: Annotated[int | None, typer.Option(min=1, help="Default the newest.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the Avro schema alone.")] = False,
    json: Json = False,
) -> None:
    """Print an event's fields, and who says and hears it."""
    from contracts.errors import NotFound
    from contracts.events import latest_version, payload_class
    from contracts.registry import CommittedIds

    cls = payload_class(event, version or latest_version(event) or 0)
    if cls is None:
        raise NotFound(f"no event is called {event}{f' v{version}' if version else ''}", hint="gavotte contracts list")
    if schema:
        put(CommittedIds().by_type(event, cls.event_version()).text.rstrip())
        return
    about = row(event, cls.event_version()) | {"what": (cls.__doc__ or "").strip()}
    fields = [field_row(name, field) for name, field in cls.model_fields.items()]
    if json:
        put_json(about | {"fields": fields, "json_schema": cls.model_json_schema()})
        return
    put_fields(
        [
            (name.replace("_", " "), ", ".join(value) if isinstance(value, list) else str(value))
            for name, value in about.items()
        ]
    )
    put()
    put_table(("field", "type", "default"), [(each["name"], each["type"], each["default"]) for each in fields])


Url = Annotated[
    str, typer.Option("--registry", metavar="URL", help="Base of a schema registry's API; login from the settings.")
]


async def check(
    call: Call,
    against: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The contracts/schemas folder of a former release.")
    ] = None,
    registry: Url = "",
    json: Json = False,
) -> int:
    """Compare classes, schema files and ids with each other, a former release or a registry; exit 1 where they break."""
    from contracts.errors import Corrupt
    from contracts.events import EVENTS
    from contracts.evolution import check as breaks

    try:
        wrong = [str(one) for one in breaks(against)]
    except Corrupt as error:
        wrong = [error.message]
    absent: list[str] = []
    if registry:
        further, absent = await _compared(call, registry)
        wrong += further
    if json:
        put_json({"events": len(EVENTS), "wrong": wrong} | ({"not_pushed": absent} if registry else {}))
    else:
        for line in wrong:
            put(line)
        pushed = f", {len(absent)} not in the registry yet" if registry else ""
        put(f"{len(EVENTS)} events, {len(wrong)} wrong{pushed}")
    return EXIT_FAILED if wrong else 0


async def _compared(call: Call, url: str) -> tuple[list[str], list[str]]:
    """What is wrong in the registry, and which events are not there yet."""
    from contracts.confluent import standing
    from contracts.registry import committed_schemas

    registry = _registry(call, url)
    wrong, absent = [], []
    try:
        for schema in committed_schemas():
            name = f"{schema.type} v{schema.version}"
            found, problems = await standing(registry, schema)
            wrong += [f"{name}: {problem}" for problem in problems]
            if found is None:
                absent.append(name)
    finally:
        await registry.close()
    return wrong, absent


async def push(call: Call, registry: Url = "", json: Json = False) -> None:
    """Register every event's schema in a schema registry, each subject held to FULL_TRANSITIVE; safe to repeat."""
    from contracts.confluent import push as push_one
    from contracts.confluent import subject_of
    from contracts.registry import committed_schemas

    there = _registry(call, registry)
    rows = []
    try:
        for schema in committed_schemas():
            known = await there.lookup(subject_of(schema), schema.text)
            rows.append((schema, await push_one(there, schema), known is None))
    finally:
        await there.close()
    if json:
        put_json(
            [
                {"type": schema.type, "version": schema.version, "subject": subject_of(schema), "id": id_, "new": new}
                for schema, id_, new in rows
            ]
        )
        return
    put_table(
        ("id", "event", "version", "subject", ""),
        [
            (str(id_), schema.type, str(schema.version), subject_of(schema), "new" if new else "")
            for schema, id_, new in rows
        ],
        right=("id", "version"),
    )


def asyncapi(_call: Call) -> None:
    """Print the AsyncAPI 3.0 document: every topic, who sends and who receives what on it, headers and schemas."""
    from importlib import metadata

    from contracts.asyncapi import document

    put_json(document(metadata.version("gavotte")))


def _registry(call: Call, url: str) -> SchemaRegistry:
    from agents.wiring import registry_of
    from contracts.errors import Usage

    found = registry_of(call.settings, url)
    if found is None:
        raise Usage("no schema registry is named", hint="--registry URL, or set GAVOTTE_REGISTRY__URL")
    return found


def row(type_: str, version: int) -> dict[str, Any]:
    """An event in the table: names are stable."""
    from contracts.registry import CommittedIds
    from contracts.topology import Topology, topic_of

    topology = Topology()
    said_by = list(topology.producers(type_))
    return {
        "type": type_,
        "version": version,
        "schema_id": CommittedIds().by_type(type_, version).id,
        "said_by": said_by,
        "heard_by": list(topology.consumers(type_)),
        "topics": [topic_of(producer) for producer in said_by],
    }


def field_row(name: str, field: Any) -> dict[str, str]:
    """A field of a payload."""
    kind = getattr(field.annotation, "__name__", "") if isinstance(field.annotation, type) else ""
    default = "required" if field.is_required() else str(field.get_default(call_default_factory=True))
    return {"name": name, "type": kind or str(field.annotation).replace("typing.", ""), "default": default}
