"""The facts: one frozen class per event and version, named in the past tense; their Avro schemas are made from here.

No `from __future__ import annotations` in this file: the schema generator reads the annotations as they run.
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from contracts.envelope import Trust
from contracts.errors import Corrupt, Usage

INLINE_BYTES_MAX = 64 * 1024
"""Bodies above this do not travel: they are stored once and the event carries their digest."""


class Fact(BaseModel):
    """A record inside a payload."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Payload(Fact):
    """What an event states. `TRUST` says who stands behind its text when an agent emits it."""

    VERSION: ClassVar[int] = 1
    TYPE: ClassVar[str] = ""
    TRUST: ClassVar[Trust] = "system"

    @classmethod
    def event_type(cls) -> str:
        """The type without its version, for instance `PlanProposed`."""
        return cls.TYPE or cls.__name__

    @classmethod
    def event_version(cls) -> int:
        """The version of the schema, from 1."""
        return cls.VERSION


class Body(Fact):
    """A text that may be too large to travel: `text` when small, else to be fetched from the store by `digest`."""

    digest: str
    size_bytes: int
    text: str | None = None

    @classmethod
    def of(cls, text: str) -> Self:
        """The body of a text; over 64 KiB, or not UTF-8, it carries the digest alone: the text must go into the store."""
        raw = text.encode("utf-8", "surrogateescape")
        inline = text if len(raw) <= INLINE_BYTES_MAX and is_utf8(text) else None
        return cls(digest="sha256:" + hashlib.sha256(raw).hexdigest(), size_bytes=len(raw), text=inline)


class Budget(Fact):
    """Four independent hard caps. Wall time counts work only, not waiting for people. Money is in micro-dollars."""

    tokens: int = 200_000
    steps: int = 60
    wall_seconds: int = 1800
    cost_microdollars: int = 2_000_000


class Signature(Fact):
    """An operator's Ed25519 signature over event id, task, request, digest and expiry (`contracts.authority`)."""

    key_id: str
    value: str
    expires_at: datetime


class Finding(Fact):
    """One thing a gate or a reviewer found, with what it saw."""

    gate: str
    severity: Literal["blocker", "major", "minor", "info"]
    message: str
    file: str | None = None
    line: int | None = None
    evidence: str = ""


class GateResult(Fact):
    """The verdict of one gate over a change."""

    gate: str
    passed: bool
    summary: str
    findings: tuple[Finding, ...] = ()


class FileChange(Fact):
    """A file that a change adds, edits or removes."""

    path: str
    kind: Literal["added", "changed", "deleted"]
    added: int = 0
    removed: int = 0


class Evidence(Fact):
    """What a run of the tests by the system showed, bound to the digest of the tree it ran on."""

    digest: str
    command: tuple[str, ...]
    green: bool
    passed: int = 0
    failed: tuple[str, ...] = ()
    skipped: int = 0
    duration_ms: int = 0
    summary: str = ""
    sandbox: str = ""
    report_digest: str = ""


class PlanStep(Fact):
    """One step of a plan, in words."""

    title: str
    detail: str = ""


class TaskSubmitted(Payload):
    """Somebody asks for a change to a repository."""

    TRUST: ClassVar[Trust] = "untrusted"

    title: str
    description: str = ""
    task_type: str = "change"
    author: Literal["model", "command", "patch"] = "model"
    repository: str
    project_id: str
    project_digest: str
    base_commit: str
    command: tuple[str, ...] = ()
    patch: Body | None = None
    scope: tuple[str, ...] = ()
    budget: Budget = Field(default_factory=Budget)
    revisions_max: int = 3
    submitter: str = ""
    idempotency_key: str | None = None
    forked_from: str | None = None


class TaskCancelRequested(Payload):
    """A person asks that the task end; its owner answers with TaskCancelled."""

    TRUST: ClassVar[Trust] = "operator"

    reason: str = ""
    operator: str = ""


class PlanProposed(Payload):
    """The task is in bounds, and this is how it will be done."""

    TRUST: ClassVar[Trust] = "untrusted"

    summary: str
    steps: tuple[PlanStep, ...] = ()
    files: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    test_command: tuple[str, ...] = ()
    risk: Literal["low", "medium", "high"] = "low"
    base_commit: str
    base_evidence: Evidence | None = None


class PlanRejected(Payload):
    """The task is out of bounds: the reason, and what would bring it in."""

    TRUST: ClassVar[Trust] = "untrusted"

    reason: str
    reason_code: str
    hint: str = ""


class ChangeProposed(Payload):
    """A change stands on the task's branch. `digest` is of the whole tree after it."""

    TRUST: ClassVar[Trust] = "untrusted"

    revision: int
    author: Literal["model", "command", "patch"] = "model"
    summary: str = ""
    base_commit: str
    head_commit: str
    branch: str
    digest: str
    files: tuple[FileChange, ...] = ()
    diff: Body
    evidence: Evidence | None = None


class ReviewPassed(Payload):
    """Every gate passed on exactly this digest."""

    TRUST: ClassVar[Trust] = "untrusted"

    revision: int
    head_commit: str
    digest: str
    gates: tuple[GateResult, ...] = ()
    findings: tuple[Finding, ...] = ()
    evidence: Evidence | None = None
    base_evidence: Evidence | None = None
    risk: Literal["low", "medium", "high"] = "low"
    needs_person: tuple[str, ...] = ()
    summary: str = ""


class ChangesRequested(Payload):
    """The change was turned down, with findings that its author can act on."""

    TRUST: ClassVar[Trust] = "untrusted"

    revision: int
    head_commit: str
    digest: str
    gates: tuple[GateResult, ...] = ()
    findings: tuple[Finding, ...] = ()
    evidence: Evidence | None = None
    summary: str = ""


class StagingDeployed(Payload):
    """The reviewed tree is live in staging and its health check held."""

    digest: str
    commit: str
    path: str
    previous_digest: str | None = None
    health: str = ""
    effect_key: str


class ApprovalRequested(Payload):
    """A person is asked to let exactly this digest into production, until `expires_at`."""

    digest: str
    commit: str
    summary: str = ""
    risk: Literal["low", "medium", "high"] = "low"
    reasons: tuple[str, ...] = ()
    expires_at: datetime
    values: dict[str, str] = Field(default_factory=dict)


class ApprovalGranted(Payload):
    """A person allowed the digest; `values` holds what they edited."""

    TRUST: ClassVar[Trust] = "operator"

    request_id: str
    digest: str
    operator: str
    self_approved: bool = False
    note: str = ""
    values: dict[str, str] = Field(default_factory=dict)
    signature: Signature | None = None


class ApprovalDenied(Payload):
    """A person refused the digest."""

    TRUST: ClassVar[Trust] = "operator"

    request_id: str
    digest: str
    operator: str
    reason: str = ""
    signature: Signature | None = None


class ApprovalExpired(Payload):
    """Nobody decided in time."""

    request_id: str
    digest: str
    expired_at: datetime


class ProductionDeployed(Payload):
    """The approved tree is live in production, and its commit was delivered as one new ref."""

    digest: str
    commit: str
    path: str
    branch: str = ""
    previous_digest: str | None = None
    health: str = ""
    approval_id: str | None = None
    effect_key: str


class DeploymentRolledBack(Payload):
    """A release did not hold: the one before it is live again."""

    environment: Literal["staging", "production"]
    digest: str
    restored_digest: str | None = None
    reason: str
    effect_key: str


class TaskSucceeded(Payload):
    """The task is done: what was asked is in production."""

    digest: str
    commit: str
    branch: str = ""
    summary: str = ""


class TaskFailed(Payload):
    """The task ended without its change."""

    reason: str
    reason_code: str


class TaskCancelled(Payload):
    """The owner ended the task because a person asked for it."""

    reason: str = ""
    requested_by: str = ""


class TaskEscalated(Payload):
    """A role cannot go on alone: the task pauses for a person, until its deadline."""

    role: str
    reason: str
    reason_code: str
    hint: str = ""


class TaskResumed(Payload):
    """A person lets an escalated task go on, with named values corrected."""

    TRUST: ClassVar[Trust] = "operator"

    operator: str
    note: str = ""
    corrections: dict[str, str] = Field(default_factory=dict)
    signature: Signature | None = None


class BudgetExhausted(Payload):
    """The worst case of the next step does not fit a cap: the task pauses and asks.

    Of `limit`, `spent` is used, `reserved` held for calls whose outcome is not known, and the step may need `wanted`.
    """

    axis: Literal["tokens", "steps", "wall_seconds", "cost_microdollars"]
    limit: int
    spent: int
    role: str = ""
    reserved: int = 0
    wanted: int = 0


class BudgetRaised(Payload):
    """A person set new caps."""

    TRUST: ClassVar[Trust] = "operator"

    operator: str
    budget: Budget
    note: str = ""
    signature: Signature | None = None


class KillRaised(Payload):
    """Everything in scope stops within seconds and stays stopped until lifted."""

    TRUST: ClassVar[Trust] = "operator"

    scope: Literal["task", "role", "all"]
    target: str = ""
    reason: str = ""
    operator: str = ""


class KillLifted(Payload):
    """A kill no longer holds: what it parked goes on."""

    TRUST: ClassVar[Trust] = "operator"

    kill_id: str
    operator: str
    note: str = ""
    signature: Signature | None = None


EVENTS: tuple[type[Payload], ...] = (
    TaskSubmitted,
    TaskCancelRequested,
    PlanProposed,
    PlanRejected,
    ChangeProposed,
    ReviewPassed,
    ChangesRequested,
    StagingDeployed,
    ApprovalRequested,
    ApprovalGranted,
    ApprovalDenied,
    ApprovalExpired,
    ProductionDeployed,
    DeploymentRolledBack,
    TaskSucceeded,
    TaskFailed,
    TaskCancelled,
    TaskEscalated,
    TaskResumed,
    BudgetExhausted,
    BudgetRaised,
    KillRaised,
    KillLifted,
)
"""The events of this release, in the order in which a reader meets them."""

TERMINAL_TYPES = frozenset({"TaskSucceeded", "TaskFailed", "TaskCancelled"})
SIGNED_TYPES = frozenset({"ApprovalGranted", "ApprovalDenied", "BudgetRaised", "KillLifted", "TaskResumed"})

_classes: dict[tuple[str, int], type[Payload]] = {(cls.event_type(), cls.event_version()): cls for cls in EVENTS}


def register(cls: type[Payload]) -> type[Payload]:
    """Make a further agent's event known to this process; its name must be free."""
    key = (cls.event_type(), cls.event_version())
    known = _classes.get(key)
    if known is not None and known.model_json_schema() != cls.model_json_schema():
        raise Usage(f"event {key[0]} v{key[1]} is already defined otherwise", hint="choose another class name")
    _classes[key] = cls
    latest_version.cache_clear()
    return cls


def payload_class(type_: str, version: int) -> type[Payload] | None:
    """The class of a type and version, or None where this build does not know it."""
    return _classes.get((type_, version))


@cache
def latest_version(type_: str) -> int | None:
    """The highest version of a type that this build knows, or None."""
    return max((version for name, version in _classes if name == type_), default=None)


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8; one that was read from other bytes with `surrogateescape` cannot."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def body_text(body: Body, stored: str | None) -> str:
    """The text of a body, from the event or from the store; raises Corrupt where the bytes do not match the digest."""
    text = body.text if body.text is not None else stored
    if text is None:
        raise Corrupt(f"body {body.digest} is not in the store", hint="restore the bodies folder from the backup")
    if Body.of(text).digest != body.digest:
        raise Corrupt(f"body {body.digest} does not match its digest")
    return text


def from_plain(type_: str, version: int, fields: Mapping[str, Any]) -> Payload:
    """A payload from plain values (JSON or Avro), validated; raises pydantic's ValidationError or Usage."""
    cls = payload_class(type_, version)
    if cls is None:
        raise Usage(f"no event is called {type_} v{version}", hint="gavotte contracts list")
    return cls.model_validate(fields)
