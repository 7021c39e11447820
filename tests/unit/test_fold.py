"""The fold and its table: every step has an owner, a deadline and a way out, and no legal story leaves the table."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import ids
from contracts.codec import Codec
from contracts.envelope import Envelope, Event
from contracts.errors import GavotteError, Illegal, Undecodable
from contracts.events import EVENTS, Body, Budget, Payload, register
from contracts.registry import CommittedIds
from contracts.topology import AWAITED, CORE_AGENTS, DAY, OPERATOR_EVENTS, TASK_EVENTS, awaited
from state_store.appliers import READ
from state_store.fold import (
    AFTER_THE_END,
    ANYWHERE,
    ENDED,
    PAUSES,
    START,
    TRANSITIONS,
    Fold,
    TaskState,
    changes,
    deadline_id,
    deadline_seconds,
    due_us,
    evolve,
    fold,
    moves,
    next_step,
    owner,
)

TASK = ids.derived("task", "fold")
DIGEST = "sha256:" + "d" * 64
EXPIRES = datetime(2030, 1, 1, tzinfo=UTC)
TYPES = tuple(cls.event_type() for cls in EVENTS)


@register
class SpellingChecked(Payload):
    """A further agent's event, for tests."""


PAYLOADS: dict[str, dict[str, Any]] = {
    "TaskSubmitted": {
        "title": "t",
        "repository": "/r",
        "project_id": "p",
        "project_digest": DIGEST,
        "base_commit": "b",
    },
    "PlanProposed": {"summary": "s", "base_commit": "b"},
    "PlanRejected": {"reason": "r", "reason_code": "x"},
    "ChangeProposed": {
        "revision": 1,
        "base_commit": "b",
        "head_commit": "c",
        "branch": "g",
        "digest": DIGEST,
        "diff": Body.of("d"),
    },
    "ReviewPassed": {"revision": 1, "head_commit": "c", "digest": DIGEST},
    "ChangesRequested": {"revision": 1, "head_commit": "c", "digest": DIGEST},
    "StagingDeployed": {"digest": DIGEST, "commit": "c", "path": "/s", "effect_key": "k"},
    "ApprovalRequested": {"digest": DIGEST, "commit": "c", "expires_at": EXPIRES},
    "ApprovalGranted": {"digest": DIGEST, "operator": "olga"},
    "ApprovalDenied": {"digest": DIGEST, "operator": "olga"},
    "ApprovalExpired": {"digest": DIGEST, "expired_at": EXPIRES},
    "ProductionDeployed": {"digest": DIGEST, "commit": "c", "path": "/p", "effect_key": "k"},
    "DeploymentRolledBack": {"environment": "production", "digest": DIGEST, "reason": "r", "effect_key": "k"},
    "TaskSucceeded": {"digest": DIGEST, "commit": "c"},
    "TaskFailed": {"reason": "r", "reason_code": "x"},
    "TaskEscalated": {"role": "planning", "reason": "r", "reason_code": "x"},
    "TaskResumed": {"operator": "olga"},
    "BudgetExhausted": {"axis": "steps", "limit": 1, "spent": 1},
    "BudgetRaised": {"operator": "olga", "budget": {"steps": 99}},
    "KillRaised": {"scope": "task"},
    "KillLifted": {"kill_id": ids.derived("kill"), "operator": "olga"},
}
KNOWN: tuple[type[Payload], ...] = (*EVENTS, SpellingChecked)
CLASSES = {cls.event_type(): cls for cls in KNOWN}


def event(type_: str, state: TaskState, **fields: Any) -> Event:
    """An event of this type that answers the state: decisions name the open request."""
    sequence = state.sequence + 1
    given_fields = dict(PAYLOADS.get(type_, {}))
    if type_.startswith("Approval") and type_ != "ApprovalRequested":
        given_fields["request_id"] = state.approval.request_id if state.approval else ids.derived("none")
    cls = CLASSES[type_]
    role = next((agent.role for agent in CORE_AGENTS if type_ in agent.emits), "operator")
    envelope = Envelope(
        id=ids.derived("event", sequence),
        type=type_,
        version=1,
        task_id=TASK,
        correlation_id=TASK,
        causation_id=None,
        time_us=sequence * 1_000_000,
        source=f"urn:gavotte:agent:{role}",
    )
    return Event(envelope, cls.model_validate(given_fields | fields))


def story(*types: str) -> TaskState:
    state = TaskState(task_id=TASK)
    for type_ in types:
        state = evolve(state, event(type_, state), state.sequence + 1)
    return state


TO_APPROVAL = (
    "TaskSubmitted",
    "PlanProposed",
    "ChangeProposed",
    "ReviewPassed",
    "StagingDeployed",
    "ApprovalRequested",
)


BEFORE: dict[str, tuple[str, ...]] = {
    "TaskSubmitted": (),
    "ChangeProposed": TO_APPROVAL[:2],
    "ReviewPassed": TO_APPROVAL[:3],
    "ChangesRequested": TO_APPROVAL[:3],
    "StagingDeployed": TO_APPROVAL[:4],
    "ApprovalRequested": TO_APPROVAL[:5],
    "ApprovalGranted": TO_APPROVAL,
    "ApprovalDenied": TO_APPROVAL,
    "ApprovalExpired": TO_APPROVAL,
    "ProductionDeployed": (*TO_APPROVAL, "ApprovalGranted"),
    "DeploymentRolledBack": TO_APPROVAL[:5],
    "TaskSucceeded": (*TO_APPROVAL, "ApprovalGranted", "ProductionDeployed"),
    "TaskResumed": ("TaskSubmitted", "TaskEscalated"),
    "BudgetRaised": ("TaskSubmitted", "BudgetExhausted"),
}
"""After which events each may come; the others after a submission."""
WORDY: dict[str, dict[str, Any]] = {
    "TaskSubmitted": {"scope": ("a", "b"), "budget": Budget(tokens=7), "submitter": "ann", "revisions_max": 5},
    "TaskResumed": {"corrections": {"title": "u", "revisions_max": "4"}},
    "BudgetRaised": {"budget": Budget(steps=9)},
    "ApprovalGranted": {"operator": "ann", "self_approved": True},
    "ApprovalDenied": {"operator": "ann"},
    "TaskSucceeded": {"summary": "well"},
    "TaskCancelled": {"reason": "late"},
    "TaskEscalated": {"hint": "h"},
    "BudgetExhausted": {"role": "coding", "reserved": 3, "wanted": 4},
}
"""What stands in fields that have defaults."""


# -- the table ------------------------------------------------------------------------------------------------------


def test_every_step_that_is_not_an_end_has_an_owner_a_deadline_and_a_way_out() -> None:
    steps = {step for row in TRANSITIONS.values() for step in row.values()} | set(TRANSITIONS)
    core = {agent.role for agent in CORE_AGENTS}
    for step in steps - ENDED - {START}:
        state = TaskState(task_id=TASK, step=step)
        row = awaited(step)
        assert row is not None, step
        assert owner(state) in core
        assert (deadline_seconds(state) or 0) > 0
        assert due_us(state) is not None
        assert reachable(step) & ENDED, step
        for type_ in row.awaits:
            assert next_step(state, type_) is not None, f"{step} awaits {type_}, which is not legal there"
    assert set(TRANSITIONS) - {START} == {row.step for row in AWAITED}
    assert steps - set(TRANSITIONS) <= ENDED


def reachable(step: str) -> set[str]:
    """The steps that follow from a step by what the roles of the dance and operators may say."""
    seen, queue = {step}, deque([step])
    while queue:
        state = TaskState(task_id=TASK, step=queue.popleft())
        for type_ in TYPES:
            to = next_step(state, type_)
            if to is not None and to not in seen:
                seen.add(to)
                queue.append(to)
    return seen


def test_every_step_can_be_reached() -> None:
    assert reachable(START) == set(TRANSITIONS) | ENDED


def test_who_moves_a_step_is_its_owner_or_an_operator() -> None:
    """A move that only another role could make would leave the owner waiting."""
    for step, row in TRANSITIONS.items():
        if step == START:
            continue
        whose = owner(TaskState(task_id=TASK, step=step))
        emits = next(agent.emits for agent in CORE_AGENTS if agent.role == whose)
        for type_ in row:
            assert type_ in emits or type_ in OPERATOR_EVENTS or type_ in TASK_EVENTS, f"{step}: {type_}"


def test_every_event_of_the_release_is_in_the_table() -> None:
    assert [type_ for type_ in TYPES if not moves(type_)] == []


# -- stories --------------------------------------------------------------------------------------------------------


def test_the_shortest_story() -> None:
    state = story(*TO_APPROVAL, "ApprovalGranted", "ProductionDeployed", "TaskSucceeded")
    assert (state.step, state.status, state.ended) == ("succeeded", "succeeded", True)
    assert state.approval is not None
    assert (state.approval.decision, state.approval.operator) == ("granted", "olga")
    assert state.releases["production"].path == "/p"
    assert (owner(state), due_us(state)) == (None, None)
    assert state.ended_at_us == state.sequence * 1_000_000


def test_a_person_is_awaited() -> None:
    state = story(*TO_APPROVAL)
    assert (state.status, owner(state)) == ("waiting", "deploy")
    assert due_us(state) == int(EXPIRES.timestamp() * 1_000_000)  # exactly when the request says
    assert state.since_sequence == 6


@pytest.mark.parametrize(("pause", "resume"), list(PAUSES.items()))
def test_a_pause_keeps_the_step_and_holds_everything_back(pause: str, resume: str) -> None:
    paused = story("TaskSubmitted", pause)
    assert paused.step == "submitted"
    assert paused.pause is not None
    assert paused.status == ("escalated" if pause == "TaskEscalated" else "waiting")
    assert owner(paused) == "planning"
    assert due_us(paused) == paused.since_us + 7 * DAY * 1_000_000
    for type_ in ("PlanProposed", "TaskEscalated", "BudgetExhausted"):
        assert next_step(paused, type_) is None
    goes_on = evolve(paused, event(resume, paused), 3)
    assert (goes_on.pause, goes_on.step, goes_on.since_sequence) == (None, "submitted", 3)
    assert next_step(goes_on, "PlanProposed") == "planned"


def test_a_budget_raised_while_escalated_leaves_the_pause_and_its_deadline() -> None:
    paused = story("TaskSubmitted", "TaskEscalated")
    raised = evolve(paused, event("BudgetRaised", paused), 3)
    assert (raised.pause, raised.budget.steps) == (paused.pause, 99)
    assert (raised.since_us, deadline_id(raised)) == (paused.since_us, deadline_id(paused))


def test_a_deadline_is_named_after_what_began_the_state() -> None:
    first = story("TaskSubmitted")
    marked = evolve(first, event("TaskCancelRequested", first), 2)
    moved = evolve(marked, event("PlanProposed", marked), 3)
    assert deadline_id(first) == deadline_id(marked) != deadline_id(moved)


def test_acts_that_were_done_are_recorded_until_the_end() -> None:
    cancelled = story(*TO_APPROVAL, "ApprovalGranted", "TaskEscalated")
    done = evolve(cancelled, event("ProductionDeployed", cancelled), cancelled.sequence + 1)
    assert (done.step, done.pause) == ("released", cancelled.pause)
    early = story("TaskSubmitted")
    assert evolve(early, event("DeploymentRolledBack", early), 2).step == "submitted"
    ended = story("TaskSubmitted", "TaskFailed")
    with pytest.raises(Illegal):
        evolve(ended, event("ProductionDeployed", ended), 3)


def test_a_decision_is_bound_to_its_request_and_digest() -> None:
    asked = story(*TO_APPROVAL)
    for wrong in ({"digest": "sha256:other"}, {"request_id": ids.derived("other")}):
        with pytest.raises(Illegal):
            evolve(asked, event("ApprovalGranted", asked, **wrong), asked.sequence + 1)


def test_corrections_are_kept_and_some_take_effect() -> None:
    paused = story("TaskSubmitted", "TaskEscalated")
    word = event("TaskResumed", paused, corrections={"revisions_max": "5", "title": "u", "file": "a.py"})
    state = evolve(paused, word, 3)
    assert (state.revisions_max, state.title, state.corrections["file"]) == (5, "u", "a.py")
    for wrong in ("many", "-1", "½", ""):
        with pytest.raises(Illegal, match="whole number"):
            evolve(paused, event("TaskResumed", paused, corrections={"revisions_max": wrong}), 3)


def test_annotations_move_nothing_and_are_legal_everywhere() -> None:
    for types in (("TaskSubmitted",), ("TaskSubmitted", "TaskEscalated"), ("TaskSubmitted", "TaskFailed")):
        before = story(*types)
        after = evolve(before, event("SpellingChecked", before), before.sequence + 1)
        assert after == before.model_copy(update={"sequence": before.sequence + 1})


def test_fold_steps_over_what_it_is_not_given() -> None:
    first = event("TaskSubmitted", TaskState(task_id=TASK))
    state = fold(TASK, [(1, first), (2, None)])
    assert (state.step, state.sequence) == ("submitted", 2)
    assert fold(TASK, [(3, event("PlanProposed", state))], start=state).step == "planned"


@pytest.mark.parametrize("type_", TYPES)
def test_what_is_read_of_a_payload_is_enough(type_: str) -> None:
    codec = Codec(CommittedIds())
    before = BEFORE.get(type_, ("TaskSubmitted",))
    state = story(*before) if before else TaskState(task_id=TASK)
    word = event(type_, state, **WORDY.get(type_, {}))
    last = READ.get(type_)
    read = last and codec.decode_first(type_, 1, codec.encode_payload(word.payload), last)
    assert changes(state, word.envelope, read, 9) == changes(state, word.envelope, word.payload, 9)
    again = Fold(TASK)
    for sequence, type_before in enumerate(before, 1):
        told = event(type_before, again.state())
        again.add(told.envelope, told.payload, sequence)
    again.add(word.envelope, read, 9)
    assert again.state() == evolve(state, word, 9)


def test_what_is_not_the_payload_of_its_envelope_is_refused() -> None:
    codec = Codec(CommittedIds())
    value = codec.encode_payload(event("TaskFailed", TaskState(task_id=TASK)).payload)
    assert codec.decode_first("TaskFailed", 1, value, "reason").reason
    for wrong in (b"", b"\x00", b"\x00\x00\x00\x00\x00", value[:6]):
        with pytest.raises(GavotteError):
            codec.decode_first("TaskFailed", 1, wrong, "reason")
    with pytest.raises(Undecodable, match="the headers say"):
        codec.decode_first("TaskCancelled", 1, value, "reason")
    with pytest.raises(Undecodable, match="the headers say"):
        codec.decode_first("TaskFailed", 2, value, "reason")


def test_a_state_survives_json() -> None:
    state = story(*TO_APPROVAL, "TaskEscalated")
    assert TaskState.model_validate_json(state.model_dump_json()) == state


# -- any story ------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*TYPES, "SpellingChecked"]), max_size=40))
def test_no_legal_story_leaves_the_table(types: list[str]) -> None:
    state = TaskState(task_id=TASK)
    ends = 0
    for type_ in ["TaskSubmitted", *types]:
        legal = next_step(state, type_)
        word = event(type_, state)
        if legal is None:
            with pytest.raises(Illegal):
                evolve(state, word, state.sequence + 1)
            continue
        try:
            after = evolve(state, word, state.sequence + 1)
        except Illegal:
            assert type_.startswith("Approval")  # the table allows it, the open request does not
            continue
        assert after.sequence == state.sequence + 1
        if type_ not in READ:
            assert changes(state, word.envelope, None, after.sequence).items() <= vars(after).items()
        ends += after.ended and not state.ended
        if state.ended:
            assert type_ in AFTER_THE_END or not moves(type_)
            assert after.step == state.step
        else:
            holds(after)
        state = after
    assert ends <= 1


def holds(state: TaskState) -> None:
    """What is true of every state that a story can reach."""
    assert state.step in set(TRANSITIONS) | ENDED
    if state.ended:
        assert (owner(state), state.pause, due_us(state)) == (None, None, None)
        return
    assert owner(state) in {agent.role for agent in CORE_AGENTS}
    assert due_us(state) is not None
    assert 1 <= state.since_sequence <= state.sequence
    for type_ in ANYWHERE:
        assert evolve(state, event(type_, state), state.sequence + 1).ended
