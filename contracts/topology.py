"""Who consumes and emits what, what is awaited in each state, from whom, and by when: one table, everything derived.

Topics, ACLs, diagrams, AsyncAPI, `owner` and `gavotte why` are read off these rows. A further agent brings a row of
its own (`Agent`) and registers it at its start; nobody else is edited.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from contracts.errors import NotAllowed, Usage

TOPIC_PREFIX: Final = "gavotte"
PARTITIONS: Final = 8
MAJOR: Final = 1

HEARD_BY_ALL: Final = ("TaskCancelRequested", "TaskResumed", "BudgetRaised", "KillLifted")
"""Operators' words that every role hears; a worker acts on them only where its role owns the task."""

ENDINGS: Final = ("TaskEscalated", "TaskFailed", "TaskCancelled", "BudgetExhausted")
"""What the owner of a task may always say."""


def topic_of(producer: str) -> str:
    """The topic that this producer alone writes."""
    return f"{TOPIC_PREFIX}.{producer}.events.v{MAJOR}"


def group_of(role: str) -> str:
    """The consumer group of a role."""
    return f"{TOPIC_PREFIX}.{role}"


def dead_letter_topic(topic: str, group: str) -> str:
    """Where this group's letters from this topic go."""
    return f"{topic}.{group}.dlq"


@dataclass(frozen=True, slots=True)
class Agent:
    """A row of the table: one role, the event types it consumes and those it may emit."""

    role: str
    consumes: tuple[str, ...]
    emits: tuple[str, ...]
    core: bool = False
    """Whether it moves the task's state. A further agent's events are annotations and never do."""

    @property
    def topic(self) -> str:
        return topic_of(self.role)

    @property
    def group(self) -> str:
        return group_of(self.role)


CORE_AGENTS: Final = (
    Agent(
        "planning",
        consumes=("TaskSubmitted", *HEARD_BY_ALL),
        emits=("PlanProposed", "PlanRejected", *ENDINGS),
        core=True,
    ),
    Agent(
        "coding",
        consumes=("PlanProposed", "ChangesRequested", *HEARD_BY_ALL),
        emits=("ChangeProposed", *ENDINGS),
        core=True,
    ),
    Agent(
        "review",
        consumes=("ChangeProposed", *HEARD_BY_ALL),
        emits=("ReviewPassed", "ChangesRequested", *ENDINGS),
        core=True,
    ),
    Agent(
        "deploy",
        consumes=("ReviewPassed", "ApprovalGranted", "ApprovalDenied", *HEARD_BY_ALL),
        emits=(
            "StagingDeployed",
            "ApprovalRequested",
            "ApprovalExpired",
            "ProductionDeployed",
            "DeploymentRolledBack",
            "TaskSucceeded",
            *ENDINGS,
        ),
        core=True,
    ),
)

TASKS_PRODUCER: Final = "tasks"
OPERATOR_PRODUCER: Final = "operator"
TASK_EVENTS: Final = ("TaskSubmitted",)
OPERATOR_EVENTS: Final = (
    "TaskCancelRequested",
    "ApprovalGranted",
    "ApprovalDenied",
    "TaskResumed",
    "BudgetRaised",
    "KillRaised",
    "KillLifted",
)
FIRST_ON_THE_BUS: Final = frozenset((*TASK_EVENTS, *OPERATOR_EVENTS))
"""What the bus may have before the store does: words of people and clients. An agent records first."""


@dataclass(frozen=True, slots=True)
class Await:
    """What a state waits for: its owner, what it may say next, and how long it may take."""

    step: str
    owner: str
    awaits: tuple[str, ...]
    within_seconds: int
    person: bool = False
    """Whether a person is awaited; the owner is then the role that asked."""


HOUR: Final = 3600
DAY: Final = 24 * HOUR
APPROVAL_SECONDS: Final = 72 * HOUR
ESCALATED_SECONDS: Final = 7 * DAY
WORK_SECONDS: Final = HOUR

AWAITED: Final = (
    Await("submitted", "planning", ("PlanProposed", "PlanRejected"), WORK_SECONDS),
    Await("plan_rejected", "planning", ("TaskEscalated", "TaskFailed"), WORK_SECONDS),
    Await("planned", "coding", ("ChangeProposed",), WORK_SECONDS),
    Await("proposed", "review", ("ReviewPassed", "ChangesRequested"), WORK_SECONDS),
    Await("revising", "coding", ("ChangeProposed",), WORK_SECONDS),
    Await("reviewed", "deploy", ("StagingDeployed",), WORK_SECONDS),
    Await("staged", "deploy", ("ApprovalRequested", "ProductionDeployed"), WORK_SECONDS),
    Await(
        "awaiting_approval",
        "deploy",
        ("ApprovalGranted", "ApprovalDenied", "ApprovalExpired"),
        APPROVAL_SECONDS,
        person=True,
    ),
    Await("approved", "deploy", ("ProductionDeployed", "ApprovalRequested"), WORK_SECONDS),
    Await("denied", "deploy", ("TaskFailed",), WORK_SECONDS),
    Await("expired", "deploy", ("TaskEscalated", "TaskFailed"), WORK_SECONDS),
    Await("released", "deploy", ("TaskSucceeded", "DeploymentRolledBack"), WORK_SECONDS),
    Await("rolled_back", "deploy", ("TaskEscalated", "TaskFailed"), WORK_SECONDS),
)
"""Every step in which a task can stand and that is not an end. Pauses (escalated, budget) keep the step's owner."""

_awaited = {row.step: row for row in AWAITED}


class Topology:
    """The table as this process knows it: the core rows and those of further agents."""

    def __init__(self, further: tuple[Agent, ...] = ()) -> None:
        self._agents: dict[str, Agent] = {agent.role: agent for agent in CORE_AGENTS}
        self._producers: dict[str, tuple[str, ...]] = {}
        """By type, as far as anybody asked: of types that somebody may emit, so that strangers' names are not kept."""
        for agent in further:
            self.add(agent)

    def add(self, agent: Agent) -> None:
        """Take in a further agent's row; a core role or a core event cannot be redefined."""
        if agent.role in {a.role for a in CORE_AGENTS} | {TASKS_PRODUCER, OPERATOR_PRODUCER}:
            if self._agents.get(agent.role) == agent:
                return
            raise Usage(f"the role {agent.role} is taken", hint="name your agent otherwise")
        taken = {type_ for a in CORE_AGENTS for type_ in a.emits} | set(TASK_EVENTS) | set(OPERATOR_EVENTS)
        for type_ in agent.emits:
            if type_ in taken:
                raise Usage(f"agent {agent.role} may not emit {type_}: it moves the task's state and has its owner")
        self._agents[agent.role] = agent
        self._producers.clear()

    @property
    def agents(self) -> tuple[Agent, ...]:
        return tuple(self._agents.values())

    def agent(self, role: str) -> Agent:
        """The row of a role; raises Usage for an unknown one."""
        try:
            return self._agents[role]
        except KeyError:
            raise Usage(f"no agent has the role {role}", hint=f"known: {', '.join(sorted(self._agents))}") from None

    def producers(self, type_: str) -> tuple[str, ...]:
        """Who may emit this type: roles, `tasks` or `operator`."""
        known = self._producers.get(type_)
        if known is not None:
            return known
        found = self._find_producers(type_)
        if found:
            self._producers[type_] = found
        return found

    def _find_producers(self, type_: str) -> tuple[str, ...]:
        found = [agent.role for agent in self._agents.values() if type_ in agent.emits]
        if type_ in TASK_EVENTS:
            found.append(TASKS_PRODUCER)
        if type_ in OPERATOR_EVENTS:
            found.append(OPERATOR_PRODUCER)
        return tuple(found)

    def consumers(self, type_: str) -> tuple[str, ...]:
        """Which roles consume this type."""
        return tuple(agent.role for agent in self._agents.values() if type_ in agent.consumes)

    def topics_for(self, role: str) -> tuple[str, ...]:
        """The topics a role subscribes to: those of all who emit something it consumes."""
        wanted = self.agent(role).consumes
        found = {topic_of(producer) for type_ in wanted for producer in self.producers(type_)}
        return tuple(sorted(found))

    def topics(self) -> tuple[str, ...]:
        """All event topics, without the dead-letter ones."""
        roles = [agent.role for agent in self._agents.values()]
        return tuple(sorted(topic_of(name) for name in (TASKS_PRODUCER, OPERATOR_PRODUCER, *roles)))

    def letter_topics(self) -> tuple[str, ...]:
        """The dead-letter topics of all roles."""
        found = {
            dead_letter_topic(topic, agent.group)
            for agent in self._agents.values()
            for topic in self.topics_for(agent.role)
        }
        return tuple(sorted(found))

    def producer_of_source(self, source: str) -> str:
        """The producer (and so the topic) that a `ce_source` speaks for; raises NotAllowed for a stranger."""
        kind = source.removeprefix("urn:gavotte:")
        if kind == source:
            raise NotAllowed(f"source {source!r} is not one of ours", hint="sources start with urn:gavotte:")
        if kind == "client":
            return TASKS_PRODUCER
        if kind == "operator":
            return OPERATOR_PRODUCER
        role = kind.removeprefix("agent:")
        if role not in self._agents:
            raise NotAllowed(f"source {source!r} names no known agent")
        return role

    def check_emission(self, type_: str, source: str, topic: str | None = None) -> None:
        """That this source may say this, on this topic; raises NotAllowed naming what is off."""
        producer = self.producer_of_source(source)
        if producer not in self.producers(type_) and not (type_ in TASK_EVENTS and producer == OPERATOR_PRODUCER):
            raise NotAllowed(f"{source} may not emit {type_}", hint="see gavotte contracts show " + type_)
        expected = topic_of(TASKS_PRODUCER if type_ in TASK_EVENTS else producer)
        if topic is not None and topic != expected:
            raise NotAllowed(f"{type_} from {source} belongs on {expected}, not on {topic}")


def topic_for(type_: str, source: str, topology: Topology) -> str:
    """The topic on which an event of this type and source travels."""
    if type_ in TASK_EVENTS:
        return topic_of(TASKS_PRODUCER)
    return topic_of(topology.producer_of_source(source))


def awaited(step: str) -> Await | None:
    """What a step waits for, or None where the task has ended."""
    return _awaited.get(step)
