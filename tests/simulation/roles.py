"""Four roles without minds: what they emit follows from a script, which stands where the task names its repository.

They use journal and acts, and decide on the state's step as the real ones do, so that they go on after a resume, in the
middle of anything.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

from agents.session import Outcome, Reservation, Session
from contracts.codec import EPOCH, MICROSECOND
from contracts.envelope import Event
from contracts.errors import NeedsPerson, Rejected, Retryable
from contracts.events import (
    ApprovalRequested,
    Body,
    ChangeProposed,
    ChangesRequested,
    DeploymentRolledBack,
    Payload,
    PlanProposed,
    PlanRejected,
    ProductionDeployed,
    ReviewPassed,
    StagingDeployed,
    TaskEscalated,
    TaskFailed,
    TaskSucceeded,
)
from contracts.topology import APPROVAL_SECONDS
from tests.simulation.world import Pause, World

ROLES = ("planning", "coding", "review", "deploy")
NOTHING = Body.of("")
WORST = Reservation(tokens=10, cost_microdollars=3, wall_seconds=300.0)
"""Set apart for each step; its time is cut to what is left of the task's."""


@dataclass(frozen=True)
class Script:
    """What shall happen to one task. `steps` are seconds that each step of a role takes; no steps is the fast path."""

    steps: dict[str, list[float]] = field(default_factory=dict)
    flaky: dict[str, int] = field(default_factory=dict)
    """How often a role fails with a retryable error before it works."""
    stumbles: dict[str, str] = field(default_factory=dict)
    """A role that at first asks for a person (`person`) or finds the message unusable (`rejected`)."""
    reject: bool = False
    revisions: int = 0
    approval: bool = True
    unhealthy: bool = False
    regrets: bool = False
    """Deploy at first asks for a person when production is done and not yet told."""

    def text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def drawn(cls, rng: random.Random) -> Script:
        """A script with something of everything, most of it short."""
        durations = (0.0, 0.01, 0.2, 1.5, 4.0)
        long = rng.random() < 0.06
        return cls(
            steps={
                role: [35.0 if long and rng.random() < 0.3 else rng.choice(durations) for _ in range(rng.randrange(4))]
                for role in ROLES
            },
            flaky={role: 1 for role in ROLES if rng.random() < 0.08},
            stumbles={role: rng.choice(("person", "rejected")) for role in ROLES if rng.random() < 0.05},
            reject=rng.random() < 0.05,
            revisions=rng.choice((0, 0, 0, 1, 1, 2)),
            approval=rng.random() < 0.6,
            unhealthy=rng.random() < 0.07,
            regrets=rng.random() < 0.12,
        )


class ScriptedTools:
    """One delivery's hold on journal and world. `answered` tells whether the journal has an ok step under a key."""

    def __init__(
        self,
        session: Session,
        world: World,
        pause: Pause,
        clock: Callable[[], int],
        answered: Callable[[Session, int], bool],
    ) -> None:
        self.session = session
        self.world = world
        self.pause = pause
        self.clock = clock
        self.answered = answered
        self.ordinal = 0

    async def work(self, seconds: float, turn: str) -> None:
        """One journaled step that takes its time; a step whose outcome is recorded must never run again."""
        ordinal, self.ordinal = self.ordinal, self.ordinal + 1
        known = self.answered(self.session, ordinal)

        async def run() -> Outcome:
            delivery = self.session.delivery
            key = (delivery.task_id, delivery.cause_id, delivery.role, ordinal)
            self.world.ran[key] += 1
            if known:
                self.world.faults.append(f"step {key} ran again although its outcome was recorded")
            await self.pause(seconds)
            return Outcome(json.dumps({"turn": turn}), tokens_in=5, tokens_out=5, cost_microdollars=3)

        arguments = json.dumps([seconds, turn])
        await self.session.step("tool", "work", arguments, run, why="the script says so", reserved=WORST)

    async def release(self, environment: str, digest: str, turn: int) -> str:
        """Make the digest live; returns the effect's key."""
        task_id = self.session.delivery.task_id
        key = f"release:{task_id}:{environment}:{digest}:{turn}"

        async def do(token: int) -> dict[str, Any]:
            await self.pause(0.05)
            receipt = self.world.release(task_id, environment, f"{digest}:{turn}", self.effect_key(key), token)
            await self.pause(0.05)
            return dict(receipt)

        async def asked() -> dict[str, Any] | None:
            return self.world.ledger.get(self.effect_key(key))

        await self.act(key, environment, do, asked)
        return key

    async def push(self, commit: str) -> str:
        """Deliver the branch; returns the ref."""
        task_id = self.session.delivery.task_id
        key = f"push:{task_id}:{commit}"

        async def do(token: int) -> dict[str, Any]:
            del token
            await self.pause(0.02)
            receipt = self.world.push(task_id, commit)
            await self.pause(0.05)
            return dict(receipt)

        async def asked() -> dict[str, Any] | None:
            await self.pause(0.01)
            return self.world.pushed(task_id)

        receipt = await self.act(key, "push", do, asked)
        return str(receipt["ref"])

    async def act(self, key: str, kind: str, do: Any, asked: Any) -> dict[str, Any]:
        return await self.session.act(self.effect_key(key), kind, {"key": key}, do, asked)

    def effect_key(self, key: str) -> str:
        return key


async def handle(event: Event, state: Any, tools: ScriptedTools) -> list[Event]:
    """Any of the four roles: the script says what its turn brings."""
    script = Script(**json.loads(state.repository))
    role = tools.session.delivery.role
    entry = (state.task_id, role, state.step)
    tools.world.attempts[entry] += 1
    for seconds in script.steps.get(role, ()):
        await tools.work(seconds, f"{state.step} {state.revisions}")
    if tools.world.attempts[entry] <= script.flaky.get(role, 0):
        raise Retryable("the script says: try again")
    if script.stumbles.get(role) and state.escalations == 0:
        raise (
            Rejected("unusable") if script.stumbles[role] == "rejected" else NeedsPerson("the script asks for a person")
        )
    return [event.cause(payload) for payload in await TURNS[role](state, script, tools)]


async def plan(state: Any, script: Script, tools: ScriptedTools) -> list[Payload]:
    del state, tools
    if script.reject:
        return [
            PlanRejected(reason="out of bounds", reason_code="bounds"),
            TaskFailed(reason="no", reason_code="bounds"),
        ]
    return [PlanProposed(summary="a plan", base_commit="base")]


async def code(state: Any, script: Script, tools: ScriptedTools) -> list[Payload]:
    del script, tools
    revision = state.revisions + 1
    return [
        ChangeProposed(
            revision=revision,
            base_commit="base",
            head_commit=f"commit{revision}",
            branch=f"gavotte/{state.task_id}",
            digest=f"sha256:{revision}",
            diff=NOTHING,
        )
    ]


async def review(state: Any, script: Script, tools: ScriptedTools) -> list[Payload]:
    del tools
    facts = {"revision": state.revisions, "head_commit": state.head_commit, "digest": state.digest}
    if state.revisions <= script.revisions:
        return [ChangesRequested.model_validate(facts)]
    return [ReviewPassed.model_validate(facts)]


async def deploy(state: Any, script: Script, tools: ScriptedTools) -> list[Payload]:
    match state.step:
        case "reviewed" | "rolled_back":
            return await stage(state, script, tools)
        case "staged" | "expired":
            return [question(state, tools)]
        case "approved":
            return await production(state, script, tools)
        case "denied":
            return [TaskFailed(reason="denied", reason_code="denied")]
        case _:
            return []


async def stage(state: Any, script: Script, tools: ScriptedTools) -> list[Payload]:
    key = await tools.release("staging", state.digest, state.rollbacks)
    if script.unhealthy and state.step == "reviewed":
        facts = {"environment": "staging", "digest": state.digest, "reason": "unhealthy", "effect_key": key}
        asked = TaskEscalated(role="deploy", reason="rolled back", reason_code="rolled_back")
        return [DeploymentRolledBack.model_validate(facts), asked]
    staged = StagingDeployed(digest=state.digest, commit=state.head_commit, path="staging", effect_key=key)
    if script.approval:
        return [staged, question(state, tools)]
    return [staged, *await production(state, script, tools)]


def question(state: Any, tools: ScriptedTools) -> ApprovalRequested:
    expires = EPOCH + tools.clock() * MICROSECOND + timedelta(seconds=APPROVAL_SECONDS)
    return ApprovalRequested(digest=state.digest, commit=state.head_commit, expires_at=expires)


async def production(state: Any, script: Script, tools: ScriptedTools) -> list[Payload]:
    key = await tools.release("production", state.digest, state.rollbacks)
    if script.regrets and state.escalations == 0:
        raise NeedsPerson("the script asks for a person after the act")
    ref = await tools.push(state.head_commit)
    deployed = ProductionDeployed(
        digest=state.digest, commit=state.head_commit, path="production", branch=ref, effect_key=key
    )
    return [deployed, TaskSucceeded(digest=state.digest, commit=state.head_commit)]


TURNS = {"planning": plan, "coding": code, "review": review, "deploy": deploy}
