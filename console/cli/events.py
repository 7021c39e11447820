"""The record of a task: `log`, `steps`, `diff`, `at`; and `publish`, which adds to it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from console.cli.call import Call, Json, TaskId, command
from console.cli.output import put, put_fields, put_json, put_table, say
from console.harmless import clipped, harmless_lines, to_json
from console.words import MICRO, count, dollars, moment, short_id, span

if TYPE_CHECKING:
    from agents.wiring import Runtime
    from contracts.envelope import Event
    from contracts.events import ChangeProposed
    from state_store.port import Recorded, Step

PAGE = 500


def add_to(app: typer.Typer) -> None:
    """Put these commands into the program."""
    for function in (log, steps, diff, at, publish):
        command(app)(function)


async def log(
    call: Call,
    task: Annotated[str, typer.Argument(metavar="[TASK]", help="The task's id, or any unique part of it.")] = "",
    all_: Annotated[bool, typer.Option("--all", help="The events of all tasks.")] = False,
    from_bus: Annotated[
        str,
        typer.Option(
            metavar="TOPIC",
            help="What lies on a topic instead, of any version, letters too: `coding` or its whole name.",
        ),
    ] = "",
    only: Annotated[
        str, typer.Option("--task", metavar="TASK", help="With --from-bus: the records of this task alone.")
    ] = "",
    since: Annotated[
        str, typer.Option(metavar="TIME", help="With --from-bus: from then on; `2h`, `7d`, a date or an RFC 3339 time.")
    ] = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="With --from-bus: go on with what comes, until Ctrl-C.")
    ] = False,
    json: Json = False,
) -> None:
    """Print every event and its cause, from the record or from a topic; with --json one a line."""
    from contracts.errors import Usage

    if from_bus:
        from console.cli import topic

        await topic.log(call, from_bus, task=only or task, since=since, follow=follow, json=json)
        return
    if only or since or follow:
        raise Usage("--task, --since and --follow go with --from-bus", hint="gavotte watch TASK follows a task")
    if bool(task) == all_:
        raise Usage("name a task, or say --all", hint="gavotte tasks lists them")
    runtime = await call.runtime()
    if all_:
        await _log_all(runtime, json=json)
        return
    put_events(runtime, await runtime.store.stream(await runtime.store.find_task(task)), json=json)


async def _log_all(runtime: Runtime, *, json: bool) -> None:
    position = 0
    found: list[Recorded] = []
    while page := await runtime.store.tail(position, PAGE):
        position = page[-1].position
        if json:
            put_events(runtime, page, json=True)
        else:
            found += page
    if not json:
        put_events(runtime, found, json=False, tasks=True)


def put_events(runtime: Runtime, stream: list[Recorded], *, json: bool, tasks: bool = False) -> None:
    """Events as lines of JSON, or as a table."""
    if json:
        for recorded in stream:
            put(to_json(event_fields(runtime, recorded)))
        return
    from console.following import decoded, plain
    from console.timeline import line_of

    me = runtime.settings.operator_name
    rows = []
    for recorded in stream:
        envelope = recorded.envelope
        payload = decoded(runtime, recorded) or plain(runtime, recorded)
        line = line_of(envelope.type, envelope.role, payload, me=me)
        cause = short_id(envelope.causation_id) if envelope.causation_id else ""
        task = [short_id(envelope.task_id)] if tasks else []
        row = (*task, str(recorded.sequence), moment(envelope.time_us), short_id(envelope.id), cause)
        rows.append((*row, envelope.role, envelope.type, clipped(line.detail, 80)))
    put_table(
        (*(["task"] if tasks else []), "#", "time", "event", "cause", "source", "type", "what"), rows, right=("#",)
    )


def event_fields(runtime: Runtime, recorded: Recorded) -> dict[str, Any]:
    """An event for programs: stable names."""
    from console.following import decoded
    from contracts.codec import iso
    from contracts.errors import Skew

    envelope, payload = recorded.envelope, decoded(runtime, recorded)
    fields, problem = None, None
    try:
        known = payload is not None
        fields = payload.model_dump(mode="json") if known else runtime.codec.decode_plain(recorded.value)[2]
    except Skew as error:  # an agent of a newer release wrote it
        problem = error.message
    return {
        "event_id": envelope.id,
        "task_id": envelope.task_id,
        "type": envelope.type,
        "version": envelope.version,
        "source": envelope.source,
        "correlation_id": envelope.correlation_id,
        "causation_id": envelope.causation_id,
        "sequence": recorded.sequence,
        "position": recorded.position,
        "ts": iso(envelope.time_us),
        "time_us": envelope.time_us,
        "recorded_at_us": recorded.recorded_at_us,
        "trust": envelope.trust,
        "tenant": envelope.tenant,
        "traceparent": envelope.traceparent,
        "hash": recorded.hash,
        "prev_hash": recorded.prev_hash,
        "payload": fields,
        "problem": problem,
    }


async def steps(call: Call, task: TaskId, json: Json = False) -> None:
    """Print the journal: every model and tool call, why, how long, at what cost."""
    from dataclasses import asdict

    runtime = await call.runtime()
    found = await runtime.store.steps(await runtime.store.find_task(task))
    if json:
        put_json([asdict(step) for step in found])
        return
    put_table(
        ("role", "#", "step", "outcome", "took", "cost", "why"), [_step(s) for s in found], right=("#", "took", "cost")
    )
    cost = sum(step.cost_microdollars for step in found)
    say(f"{count(len(found), 'step')}, {dollars(cost)}")


def _step(step: Step) -> tuple[str, ...]:
    outcome = "abandoned" if step.abandoned else step.outcome or "open"
    took = span((step.ended_at_us - step.began_at_us) / MICRO) if step.ended_at_us else ""
    why = step.error or step.why
    name = f"{step.kind} {step.name}"
    return (step.role, str(step.ordinal), name, outcome, took, dollars(step.cost_microdollars), clipped(why, 80))


async def diff(
    call: Call,
    task: TaskId,
    revision: Annotated[int | None, typer.Option(min=1, help="Which proposed change; default the newest.")] = None,
) -> None:
    """Print a proposed change as a unified diff."""
    runtime = await call.runtime()
    text = await diff_text(runtime, await change_of(runtime, await runtime.store.find_task(task), revision))
    if sys.stdout.isatty():
        put(harmless_lines(text).rstrip("\n"))
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()


async def change_of(runtime: Runtime, task_id: str, revision: int | None) -> ChangeProposed:
    """The proposed change of a revision, or the newest; raises NotFound."""
    from contracts.errors import NotFound
    from contracts.events import ChangeProposed

    stream = [r for r in await runtime.store.stream(task_id) if r.envelope.type == "ChangeProposed"]
    for recorded in reversed(stream):
        payload = runtime.codec.decode(recorded.envelope, recorded.value).payload
        if isinstance(payload, ChangeProposed) and revision in {None, payload.revision}:
            return payload
    wanted = "" if revision is None else f" of revision {revision}"
    raise NotFound(f"task {task_id} has no change{wanted}", hint=f"gavotte log {task_id}")


async def diff_text(runtime: Runtime, change: ChangeProposed) -> str:
    """The diff of a change, wherever it is kept."""
    from contracts.events import body_text

    raw = await runtime.store.body(change.diff.digest) if change.diff.text is None else None
    return body_text(change.diff, None if raw is None else raw.decode("utf-8", "surrogateescape"))


async def at(
    call: Call,
    task: TaskId,
    event: Annotated[
        int, typer.Option("--event", min=1, metavar="N", help="The number of an event in the task's log.")
    ],
    json: Json = False,
) -> None:
    """Print the state of a task as it was right after its N-th event."""
    from console.cli.tasks import state_rows
    from console.following import history
    from contracts.errors import NotFound

    runtime = await call.runtime()
    task_id = await runtime.store.find_task(task)
    seen = await history(runtime, task_id, upto=event)
    if len(seen) < event:
        raise NotFound(f"task {task_id} has {count(len(seen), 'event')}, none has the number {event}")
    state = seen[-1].state
    if json:
        put_json({"event": event, **state.model_dump(mode="json"), "status": state.status})
        return
    put_fields([("event", f"{event} {seen[-1].recorded.envelope.type}"), *state_rows(state)])


async def publish(
    call: Call,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file with one event as JSON, or - for stdin.")] = "-",
    json: Json = False,
) -> None:
    """Record and publish an event written as JSON: {"type": ..., "task_id": ..., "payload": {...}}."""
    from console import acts
    from console.cli.acts import put_act

    fields = read_object(file)
    runtime = await call.runtime(create=True)
    recorded = await acts.record(runtime, await event_from(runtime, fields), None)
    put_act(
        call,
        recorded,
        json,
        f"recorded {recorded.envelope.type} {recorded.envelope.id} of task {recorded.envelope.task_id}",
    )


def read_object(file: str) -> dict[str, Any]:
    """A JSON object from a file or stdin; raises Usage with the place of the mistake."""
    import json

    from contracts.errors import Usage

    name = "stdin" if file == "-" else file
    try:
        raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        found = json.loads(raw)
    except OSError as error:
        raise Usage(f"{name} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Usage(f"{name} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Usage(
            f"{name} holds no JSON object", hint='{"type": "TaskCancelRequested", "task_id": "...", "payload": {}}'
        )
    return found


FIELDS = ("type", "version", "task_id", "event_id", "source", "payload")


async def event_from(runtime: Runtime, fields: dict[str, Any]) -> Event:
    """A sealed event from JSON fields: its class validates the payload, the topology the right to say it."""
    from console import acts
    from contracts import ids
    from contracts.envelope import CLIENT_SOURCE, OPERATOR_SOURCE, root
    from contracts.errors import NotAllowed, Usage
    from contracts.topology import TASK_EVENTS

    unknown = sorted(set(fields) - set(FIELDS))
    if unknown or not isinstance(fields.get("type"), str):
        raise Usage(
            f"the event has no field {unknown[0]!r}" if unknown else "the event has no type",
            hint=f"fields are {', '.join(FIELDS)}; gavotte contracts show TYPE",
        )
    payload = payload_from(fields)
    if getattr(payload, "operator", None) == "":
        payload = payload.model_copy(update={"operator": runtime.settings.operator_name})
    first = fields["type"] in TASK_EVENTS
    source = str(fields.get("source") or (CLIENT_SOURCE if first else OPERATOR_SOURCE))
    if source not in {CLIENT_SOURCE, OPERATOR_SOURCE}:
        raise NotAllowed(f"a person does not speak as {source}", hint=f"leave out the source, or {OPERATOR_SOURCE}")
    runtime.topology.check_emission(fields["type"], source)
    for name in ("task_id", "event_id"):
        if fields.get(name) is not None and not ids.is_uuid(str(fields[name])):
            raise Usage(f"{name} is {fields[name]!r}, not a uuid in canonical lower case")
    task_id = fields.get("task_id")
    if first:
        return root(payload, task_id=task_id, source=source, event_id=fields.get("event_id"))
    if task_id is None:
        raise Usage(f"{fields['type']} needs a task_id", hint="gavotte tasks lists them")
    cause = await acts.last_event(runtime, task_id)
    producer = f"operator/{fields.get('event_id') or ids.uuid7()}"
    return cause.cause(payload).sealed(producer=producer, index=0, time_us=ids.now_us(), source=source)


def payload_from(fields: dict[str, Any]) -> Any:
    """The payload, validated by its class; raises Usage naming each field that is off."""
    from pydantic import ValidationError

    from contracts.errors import Usage
    from contracts.events import from_plain, latest_version

    type_ = fields["type"]
    version = fields.get("version", latest_version(type_) or 1)
    body = fields.get("payload", {})
    if not isinstance(version, int) or not isinstance(body, dict):
        raise Usage("version is a number and payload an object", hint=f"gavotte contracts show {type_}")
    try:
        return from_plain(type_, version, body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[:3]
        said = "; ".join(f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in first)
        raise Usage(f"{type_} v{version}: {said}", hint=f"gavotte contracts show {type_}") from None
