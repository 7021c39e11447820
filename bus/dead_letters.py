"""Letters: records that could not be handled, byte for byte as they came, with headers that explain what happened.

They travel on `<topic>.<group>.dlq`. Key, value and the original headers are untouched; what is ours starts with
`gavotte.error.` and is text, numbers in decimal, so that any Kafka tool shows it. A record that was
redriven and failed again keeps `gavotte.error.redrive-*` and gets the rest anew.
"""

from __future__ import annotations

import os
import re
import socket
import traceback
from dataclasses import dataclass
from typing import Final

from bus.port import Headers, Message, Record
from bus.retry import code_of, reason_of
from contracts import ids, redaction
from contracts.errors import GavotteError, Retryable, Undecodable

PREFIX: Final = "gavotte.error."
KEPT: Final = f"{PREFIX}redrive-"
SUFFIX: Final = ".dlq"
STACKTRACE_BYTES_MAX: Final = 8 * 1024
MESSAGE_BYTES_MAX: Final = 2 * 1024

_SECRET: Final = re.compile(
    r"""(?ix) (\b(?:api[_-]?key|authorization|password|passwd|secret|token|credential)s?["']?\s*[=:]\s*["']?(?:bearer\s+|basic\s+)?) [^\s"',;]+
    | (://[^/\s:@]+:) [^/\s@]+ (?=@)
    | \b(sk-|ghp_|github_pat_|xox[abp]-|AKIA) [A-Za-z0-9_-]{8,}"""
)


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter, read: the original record and what is known of its failure. Times are microseconds since the epoch."""

    topic: str
    partition: int
    offset: int
    timestamp_us: int
    key: bytes
    value: bytes
    headers: Headers
    """The original headers, `gavotte.error.redrive-*` included."""
    group: str
    agent: str
    instance: str
    version: str
    stage: str
    error_class: str
    message: str
    stacktrace: str
    code: str
    retryable: bool
    attempt: int
    first_at_us: int
    last_at_us: int
    redrive_count: int


def letter_topic(topic: str, group: str) -> str:
    """Where the letters of a topic go that this group could not handle."""
    return f"{topic}.{group}{SUFFIX}"


def letter(
    record: Record,
    group: str,
    error: BaseException,
    *,
    attempt: int,
    stage: str = "handle",
    code: str = "",
    agent: str = "",
    version: str = "",
    first_at_us: int | None = None,
    now_us: int | None = None,
) -> Message:
    """The letter about a record; `attempt` counts from 1, `stage` is decode, validate, policy, handle or publish."""
    last_at_us = ids.now_us() if now_us is None else now_us
    facts = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp_us,
        "group": group,
        "agent": agent,
        "instance": f"{socket.gethostname()}/{os.getpid()}",
        "version": version,
        "stage": stage,
        "class": f"{type(error).__module__}.{type(error).__qualname__}",
        "message": _bounded(redacted(reason_of(error)), MESSAGE_BYTES_MAX),
        "stacktrace": _stacktrace(error),
        "code": code or code_of(error),
        "retryable": "true" if _is_retryable(error) else "false",
        "attempt": attempt,
        "first-at": last_at_us if first_at_us is None else first_at_us,
        "last-at": last_at_us,
    }
    ours = tuple((PREFIX + name, str(value).encode()) for name, value in facts.items() if value != "")
    return Message(letter_topic(record.topic, group), record.key, record.value, original_headers(record) + ours)


def explain(record: Record) -> Letter:
    """Read a letter; raises Undecodable if the record is none."""
    found = {name.removeprefix(PREFIX): value.decode("utf-8", "replace") for name, value in record.headers}
    try:
        return Letter(
            topic=found["topic"],
            partition=int(found["partition"]),
            offset=int(found["offset"]),
            timestamp_us=int(found["timestamp"]),
            key=record.key,
            value=record.value,
            headers=original_headers(record),
            group=found["group"],
            agent=found.get("agent", ""),
            instance=found.get("instance", ""),
            version=found.get("version", ""),
            stage=found.get("stage", ""),
            error_class=found.get("class", ""),
            message=found.get("message", ""),
            stacktrace=found.get("stacktrace", ""),
            code=found.get("code", ""),
            retryable=found.get("retryable") == "true",
            attempt=int(found["attempt"]),
            first_at_us=int(found["first-at"]),
            last_at_us=int(found["last-at"]),
            redrive_count=int(found.get("redrive-count", "0")),
        )
    except (KeyError, ValueError) as error:
        where = f"{record.topic}/{record.partition}/{record.offset}"
        raise Undecodable(f"{where} is no letter: {error}", hint=f"letters carry headers {PREFIX}*") from error


def original_headers(record: Record) -> Headers:
    """The headers without what a letter added; those of earlier redrives stay."""
    return tuple(
        (name, value) for name, value in record.headers if not name.startswith(PREFIX) or name.startswith(KEPT)
    )


def redacted(text: str) -> str:
    """The text with what looks like a secret replaced by ***; a net below the rule that errors carry none."""
    clean = _SECRET.sub(lambda match: f"{match[1] or match[2] or match[3]}***", text)
    return redaction.redacted(clean)


def _is_retryable(error: BaseException) -> bool:
    """Whether the same record may pass later, unchanged."""
    return isinstance(error, Retryable) or not isinstance(error, GavotteError)


def _stacktrace(error: BaseException) -> str:
    """The end of the trace, where the cause is, without values of variables."""
    if error.__traceback__ is None:
        return ""
    text = redacted("".join(traceback.format_exception(error))).encode("utf-8", "replace")
    return text[-STACKTRACE_BYTES_MAX:].decode("utf-8", "ignore")


def _bounded(text: str, bytes_max: int) -> str:
    return text.encode("utf-8", "replace")[:bytes_max].decode("utf-8", "ignore")
