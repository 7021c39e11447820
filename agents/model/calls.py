"""What the journal keeps of a call, and how the exact bytes of its request are made again from that.

The parts that many calls share (prompt, tools, what was said before) are bodies under their digests; a message names the
one before it, so that a conversation of n turns takes n messages and not n times n.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from agents.model import wire
from agents.model.port import Call, Failure, Reply, Said, Usage
from agents.session import Outcome, try_id
from contracts.errors import Corrupt, NotFound
from state_store.port import StateStore, Step

CHAT: Final = "chat"
"""The name of the steps that are calls."""
PART: Final = "$body"
"""Stands in the frame for a value that lies in a body."""
HISTORY: Final = "$history"
"""Stands for the messages up to the one whose body this is."""
MICRO_PER_MILLI: Final = 1000
FAILURE_CHARACTERS_MAX: Final = 2000


async def keep(store: StateStore, call: Call) -> str:
    """The arguments of a call's step, as JSON: everything but what lies in bodies. The bodies are stored first."""
    frame = dict(call.frame)
    named = [name for name in ("system", "tools") if frame.get(name)]
    parts = [json.dumps(frame[name], ensure_ascii=False).encode() for name in named]
    digests = await asyncio.gather(*(store.put_body(part) for part in parts))
    frame |= {name: {PART: digest} for name, digest in zip(named, digests, strict=True)}
    frame["messages"] = {HISTORY: await _keep_history(store, call.question.messages)}
    question, route = call.question, call.route
    return json.dumps(
        {
            "call": call.id,
            "purpose": question.purpose or question.role,
            "turn": question.turn,
            "answer_tool": question.answer_tool,
            "provider": route.provider,
            "place": route.place,
            "bytes": len(call.body),
            "sha256": call.sha256,
            "frame": frame,
        },
        ensure_ascii=False,
    )


async def _keep_history(store: StateStore, messages: Sequence[Said]) -> str | None:
    """Each message as a body that names the one before; the digests follow from the content, so all can go at once."""
    nodes, before = [], None
    for said in messages:
        nodes.append(json.dumps({"before": before, **asdict(said)}, ensure_ascii=False).encode())
        before = "sha256:" + hashlib.sha256(nodes[-1]).hexdigest()
    await asyncio.gather(*(store.put_body(node) for node in nodes))
    return before


async def request_of(store: StateStore, step: Step) -> bytes:
    """The bytes that were sent. Raises NotFound where they were pruned, Corrupt where other bytes come out."""
    kept = arguments_of(step)
    frame: dict[str, Any] = kept.get("frame") or {}
    if not frame:
        raise NotFound("the request of this call was pruned", hint="the digests, tokens and costs are kept for good")
    for name, value in frame.items():
        if isinstance(value, dict) and PART in value:
            frame[name] = json.loads(await _part(store, value[PART]))
    messages = tuple([said async for said in _history(store, frame["messages"][HISTORY])][::-1])
    frame["messages"] = wire.messages_of(messages, frame["model"])
    body = wire.encode(frame)
    if hashlib.sha256(body).hexdigest() != kept["sha256"]:
        raise Corrupt(
            "the request comes out with another digest than it was sent with",
            hint="it was made by another version of gavotte, whose way of writing requests differs",
        )
    return body


async def _history(store: StateStore, head: str | None) -> Any:
    """The messages, the last one first."""
    while head is not None:
        node = json.loads(await _part(store, head))
        head = node.pop("before")
        yield Said(node["role"], tuple(node["content"]), node["model"])


async def _part(store: StateStore, digest: str) -> bytes:
    raw = await store.body(digest)
    if raw is None:
        raise NotFound("the request of this call was pruned", hint="the digests, tokens and costs are kept for good")
    return raw


def arguments_of(step: Step) -> dict[str, Any]:
    """What was kept of the call; {} where it was pruned."""
    found = json.loads(step.arguments) if step.arguments else {}
    return found if isinstance(found, dict) else {}


# -- outcomes ----------------------------------------------------------------------------------------------------------


def answered(reply: Reply) -> Outcome:
    """The outcome of a call that brought a reply."""
    return Outcome(
        json.dumps({"message": reply.message, "request_id": reply.request_id}, ensure_ascii=False),
        tokens_in=reply.usage.tokens_in_all,
        tokens_out=reply.usage.tokens_out,
        cost_microdollars=reply.cost_microdollars,
        model=reply.model,
        estimated=reply.estimated,
    )


def failed(call: Call, failure: Failure) -> Outcome:
    """The outcome of a call that brought none; charged at its reservation where the provider may have worked for it."""
    told = {
        "kind": failure.kind,
        "status": failure.status,
        "retry_after_seconds": failure.retry_after_seconds,
        "request_id": failure.request_id,
    }
    charged = failure.means.charged
    return Outcome(
        json.dumps({"failure": told}),
        tokens_in=call.tokens_reserved if charged else 0,
        cost_microdollars=call.cost_reserved_microdollars if charged else 0,
        error=f"{failure.kind}: {failure}"[:FAILURE_CHARACTERS_MAX],
        estimated=charged,
    )


def recorded_reply(step: Step) -> Reply:
    """The reply of a step that went well, as the journal has it."""
    kept = json.loads(step.result)
    asked = (arguments_of(step).get("frame") or {}).get("model", "")
    return Reply(
        kept["message"],
        asked=asked,
        usage=wire.usage_of(kept["message"]),
        cost_microdollars=step.cost_microdollars,
        estimated=step.estimated,
        request_id=kept.get("request_id", ""),
        replayed=True,
    )


# -- the log of calls --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One line of the log. `id` is what `gavotte llm show` takes; `call` what the provider was told to know it by.

    Tokens of caches are part of `tokens_in`. `outcome` is "ok", "error" or "unknown", which is charged as reserved.
    """

    id: str
    call: str
    role: str
    purpose: str
    model: str
    asked_model: str
    provider: str
    place: str
    prompt: str
    prompt_hash: str
    began_at_us: int
    latency_ms: int | None
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    cost_microdollars: int
    estimated: bool
    outcome: str
    stop_reason: str
    failure: str
    error: str
    status: int
    request_id: str
    request_sha256: str
    request_bytes: int
    question_digest: str
    state_digest: str
    why: str
    abandoned: bool


def records(steps: Sequence[Step]) -> list[CallRecord]:
    """The calls among a task's steps, in the order in which they were begun."""
    return [_record(f"{step.task_id}.{number}", step) for number, step in enumerate(calls(steps), 1)]


def calls(steps: Sequence[Step]) -> Iterator[Step]:
    """The steps that are calls of a model."""
    return (step for step in steps if step.kind == "model")


def _record(id_: str, step: Step) -> CallRecord:
    kept = arguments_of(step)
    result: dict[str, Any] = json.loads(step.result) if step.result else {}
    message, failure = result.get("message") or {}, result.get("failure") or {}
    usage: Usage = wire.usage_of(message)
    unknown = not step.outcome
    took = None if step.ended_at_us is None else (step.ended_at_us - step.began_at_us) // MICRO_PER_MILLI
    return CallRecord(
        id=id_,
        call=try_id(step.task_id, step.cause_id, step.role, step.ordinal, step.arguments_digest),
        role=step.role,
        purpose=kept.get("purpose", step.role),
        model=step.model,
        asked_model=(kept.get("frame") or {}).get("model", ""),
        provider=kept.get("provider", ""),
        place=kept.get("place", ""),
        prompt=step.prompt,
        prompt_hash=step.prompt_hash,
        began_at_us=step.began_at_us,
        latency_ms=took,
        tokens_in=step.reserved_tokens if unknown else step.tokens_in,
        tokens_cached=usage.cache_read,
        tokens_out=step.tokens_out,
        cost_microdollars=step.reserved_cost_microdollars if unknown else step.cost_microdollars,
        estimated=step.estimated or unknown,
        outcome=step.outcome or "unknown",
        stop_reason=str(message.get("stop_reason") or ""),
        failure=failure.get("kind", "lost" if step.outcome == "error" and step.estimated and not failure else ""),
        error=step.error,
        status=failure.get("status", 200 if message else 0),
        request_id=result.get("request_id") or failure.get("request_id", ""),
        request_sha256=kept.get("sha256", ""),
        request_bytes=kept.get("bytes", 0),
        question_digest=step.arguments_digest,
        state_digest=step.state_digest,
        why=step.why,
        abandoned=step.abandoned,
    )
