"""Acts of people: made from the state they were decided on, signed where they carry authority, recorded, announced."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from contracts import ids
from contracts.codec import EPOCH, MICROSECOND
from contracts.envelope import OPERATOR_SOURCE, Event, root
from contracts.errors import Conflict, NotAllowed, NotFound, Refused, Unverified, Usage
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
)

if TYPE_CHECKING:
    from agents.settings import Settings
    from agents.wiring import Runtime
    from contracts.authority import OperatorKey
    from contracts.events import ApprovalRequested
    from state_store.appliers import Approval
    from state_store.fold import TaskState
    from state_store.port import Kill, Recorded

SIGNATURE_HOURS = 24
"""How long a signature that no request bounds may be used for its first time."""


CORRECTABLE = ("revisions_max", "title", "description")


@dataclass(frozen=True)
class Asked:
    """What a person is asked: the state they see, the approval that is open, and the event that asked."""

    state: TaskState
    approval: Approval
    request: ApprovalRequested
    event: Event


def enrol(settings: Settings) -> OperatorKey:
    """The operator's key, made at first use; its public half is put into a data folder that has none yet."""
    from contracts.authority import OperatorKey, public_keys

    key = OperatorKey.load_or_make(settings.operator_key)
    known = public_keys(settings.operators_pub)
    if not known:
        settings.operators_pub.write_text(f"{key.public}\n", encoding="ascii")
        settings.operators_pub.chmod(0o600)
    elif key.public not in known:
        raise Unverified(
            f"your key {key.key_id} is not among the operators of {settings.data}",
            hint=f"an operator of this folder lets you in: echo {key.public} >> {settings.operators_pub}",
        )
    return key


async def decode(runtime: Runtime, recorded: Recorded) -> Event:
    """A stored event with its payload."""
    return runtime.codec.decode(recorded.envelope, recorded.value)


async def state_of(runtime: Runtime, task_id: str) -> TaskState:
    """The task as it stands; raises NotFound."""
    row = await runtime.store.task(task_id)
    if row is None:
        raise NotFound(f"there is no task {task_id}", hint="gavotte tasks")
    return row.state


async def open_state_of(runtime: Runtime, task_id: str) -> TaskState:
    """The same for an act that a task which has ended no longer takes; raises Conflict."""
    state = await state_of(runtime, task_id)
    if state.ended:
        raise Conflict(
            f"task {task_id} has ended already: {state.outcome or state.step}", hint=f"gavotte show {task_id}"
        )
    return state


async def asked(runtime: Runtime, task_id: str) -> Asked:
    """What the task asks of a person now; raises Conflict where it asks nothing."""
    state = await state_of(runtime, task_id)
    if state.step != "awaiting_approval" or state.approval is None or state.pause is not None:
        standing = state.outcome or state.step.replace("_", " ")
        raise Conflict(f"task {task_id} waits for no approval: {standing}", hint=f"gavotte why {task_id}")
    recorded = await runtime.store.event(state.approval.request_id)
    if recorded is None:
        raise NotFound(f"the request {state.approval.request_id} is not in the store")
    event = await decode(runtime, recorded)
    request: Any = event.payload
    return Asked(state, state.approval, request, event)


async def approve(runtime: Runtime, what: Asked, *, note: str = "", values: dict[str, str] | None = None) -> Recorded:
    """Let exactly the digest that was shown into production."""
    name = runtime.settings.operator_name
    unknown = sorted(set(values or {}) - set(what.request.values))
    if unknown:
        offered = ", ".join(sorted(what.request.values)) or "none"
        raise Usage(f"what is asked for has no value {unknown[0]!r}", hint=f"values that may be set: {offered}")
    payload = ApprovalGranted(
        request_id=what.approval.request_id,
        digest=what.approval.digest,
        operator=name,
        self_approved=what.state.submitter == name,
        note=note,
        values=values or {},
    )
    return await _act(runtime, what.event, payload, what.state.sequence, what.request.expires_at)


async def deny(runtime: Runtime, what: Asked, *, reason: str = "") -> Recorded:
    """Refuse the digest; the task fails."""
    payload = ApprovalDenied(
        request_id=what.approval.request_id,
        digest=what.approval.digest,
        operator=runtime.settings.operator_name,
        reason=reason,
    )
    return await _act(runtime, what.event, payload, what.state.sequence, what.request.expires_at)


async def cancel(runtime: Runtime, state: TaskState, *, reason: str = "") -> Recorded:
    """Ask the task's owner to end it."""
    payload = TaskCancelRequested(reason=reason, operator=runtime.settings.operator_name)
    return await _act(runtime, await last_event(runtime, state.task_id), payload, state.sequence)


async def resume(
    runtime: Runtime, state: TaskState, *, corrections: dict[str, str] | None = None, note: str = ""
) -> Recorded:
    """Let an escalated task go on, with named values corrected."""
    if state.pause is None or state.pause.kind != "escalated":
        hint = f"gavotte budget raise {state.task_id}" if state.pause else f"gavotte why {state.task_id}"
        raise Conflict(f"task {state.task_id} is not escalated: it is {state.status}", hint=hint)
    check_corrections(corrections or {})
    payload = TaskResumed(operator=runtime.settings.operator_name, note=note, corrections=corrections or {})
    return await _act(runtime, await last_event(runtime, state.task_id), payload, state.sequence)


def check_corrections(corrections: dict[str, str]) -> None:
    """That corrected values exist and can be what they are for, so that a slip is not taken for an act; raises Usage."""
    unknown = sorted(set(corrections) - set(CORRECTABLE))
    if unknown:
        raise Usage(f"a task has no value {unknown[0]!r} to correct", hint=f"--set takes {', '.join(CORRECTABLE)}")
    revisions = corrections.get("revisions_max", "1")
    if not revisions.isdecimal() or not 1 <= int(revisions) <= 1000:
        raise Usage(f"revisions_max={revisions}: a number from 1 to 1000 is needed", hint="--set revisions_max=5")


async def raise_budget(runtime: Runtime, state: TaskState, budget: Budget, *, note: str = "") -> Recorded:
    """Set new caps; a task that paused on one goes on."""
    payload = BudgetRaised(operator=runtime.settings.operator_name, budget=budget, note=note)
    return await _act(runtime, await last_event(runtime, state.task_id), payload, state.sequence)


async def kill(runtime: Runtime, scope: str, target: str, *, reason: str = "") -> Recorded:
    """Stop everything in scope (task, role or all) within seconds, until it is lifted."""
    fields = {"scope": scope, "target": target, "reason": reason, "operator": runtime.settings.operator_name}
    payload = KillRaised.model_validate(fields)
    if scope == "task":
        await open_state_of(runtime, target)
        return await _act(runtime, await last_event(runtime, target), payload, None)
    event = root(payload, task_id=ids.SYSTEM_TASK, source=OPERATOR_SOURCE, trust="operator")
    return await record(runtime, event, None)


async def lift(runtime: Runtime, raised: Kill, *, note: str = "") -> Recorded:
    """Let what a kill stopped go on."""
    recorded = await runtime.store.event(raised.event_id)
    if recorded is None:
        raise NotFound(f"the kill {raised.event_id} is not in the store")
    payload = KillLifted(kill_id=raised.event_id, operator=runtime.settings.operator_name, note=note)
    return await _act(runtime, await decode(runtime, recorded), payload, None)


async def last_event(runtime: Runtime, task_id: str) -> Event:
    """The newest event of a task that this build can read: the cause of what a person does about it."""
    from state_store.fold import moves

    for recorded in reversed(await runtime.store.stream(task_id)):
        if moves(recorded.envelope.type):
            return await decode(runtime, recorded)
    raise NotFound(f"there is no task {task_id}", hint="gavotte tasks")


async def _act(
    runtime: Runtime, cause: Event, payload: Payload, expected: int | None, expires_at: datetime | None = None
) -> Recorded:
    """An event of the operator. Its id is its own, so that two people who decide at once both hear what happened."""
    draft = cause.cause(payload)
    event = draft.sealed(producer=f"operator/{ids.uuid7()}", index=0, time_us=ids.now_us(), source=OPERATOR_SOURCE)
    return await record(runtime, event, expected, expires_at=expires_at)


async def record(
    runtime: Runtime, event: Event, expected: int | None, *, expires_at: datetime | None = None
) -> Recorded:
    """Sign where the type asks for it, append, then announce."""
    from agents.wiring import announce
    from state_store.port import Encoded

    runtime.topology.check_emission(event.type, event.envelope.source)
    await check_speaker(runtime, event)
    event = runtime.traced(event)
    if event.type in SIGNED_TYPES:
        until = expires_at or EPOCH + event.envelope.time_us * MICROSECOND + timedelta(hours=SIGNATURE_HOURS)
        event = enrol(runtime.settings).sign(event, until)
    encoded = Encoded(event, runtime.codec.encode_payload(event.payload))
    recorded = (await runtime.store.append([encoded], expected_sequence=expected))[0]
    await announce(runtime, [recorded])
    return recorded


async def check_speaker(runtime: Runtime, event: Event) -> None:
    """That nobody acts in another's name, nor approves their own task where four eyes are asked for."""
    settings, payload = runtime.settings, event.payload
    name = settings.operator_name
    said = getattr(payload, "operator", "")
    if said not in {"", name}:
        raise NotAllowed(f"you are {name} and do not speak as {said}", hint=f'"operator": "{name}"')
    if not isinstance(payload, ApprovalGranted):
        return
    itself = (await state_of(runtime, event.task_id)).submitter == name
    if itself and settings.operator.four_eyes:
        raise Refused(f"{name} submitted this task and may not approve it", hint="another operator approves it")
    if payload.self_approved != itself:
        raise NotAllowed(f"self_approved is {itself} for {name}".lower(), hint="say so in the payload")


def pairs(given: list[str]) -> dict[str, str]:
    """`name=value` words as a table; raises Usage."""
    found = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise Usage(f"{word!r} is not name=value", hint="--set revisions_max=5")
        found[name] = value
    return found
