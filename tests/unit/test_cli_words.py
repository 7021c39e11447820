"""What people read: harmless text, words for time and money, timeline lines, and the answer to `why`."""

from __future__ import annotations

import json
import unicodedata
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.acts import check_corrections
from console.harmless import clipped, harmless, harmless_lines, to_json
from console.timeline import WORDS, line_of
from console.why import explain
from console.words import dollars, short_digest, short_id, span
from contracts.envelope import Event, root
from contracts.errors import Usage
from contracts.events import (
    EVENTS,
    ApprovalRequested,
    ChangeProposed,
    ChangesRequested,
    Evidence,
    FileChange,
    Finding,
    GateResult,
    PlanProposed,
    ReviewPassed,
    TaskEscalated,
    TaskFailed,
    TaskSubmitted,
)
from contracts.events import Body as Text
from state_store.fold import TaskState, fold
from state_store.port import InboxRow, Kill

HOUR_US = 3600 * 1_000_000
DIGEST = "sha256:" + "4be0" * 16


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, größer, 漢字 🎉", "plain, größer, 漢字 🎉"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("safe\u202ekcatta", "safe\\u202ekcatta"),
        ("a\u200bb\ufeffc\u2066d", "a\\u200bb\\ufeffc\\u2066d"),
        ("\U000e0041tag\U000e0100", "\\U000e0041tag\\U000e0100"),
        ("two\nlines\ttab", "two\\x0alines\\x09tab"),
        ("\x9b31mred\x85", "\\x9b31mred\\x85"),
        ("half\ud800", "half\\ud800"),
        ("blank\u3164\u2800", "blank\\u3164\\u2800"),
    ],
)
def test_what_could_deceive_is_shown(text: str, shown: str) -> None:
    assert harmless(text) == shown


@given(st.text(alphabet=st.characters(codec=None)))
def test_nothing_that_steers_comes_through(text: str) -> None:
    left = {unicodedata.category(character) for character in harmless(text)}
    assert not left & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    lines = {unicodedata.category(c) for c in harmless_lines(text).replace("\n", "").replace("\t", "")}
    assert not lines & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    assert to_json(text).isascii()
    assert json.loads(to_json(text)) == text


def test_long_text_becomes_one_line() -> None:
    assert clipped("one\n  two   three", 9) == "one two …"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (4.23, "4.2 s"),
        (60, "1 min"),
        (3540, "59 min"),
        (7800, "2 h 10 min"),
        (3600, "1 h"),
        (3 * 86400 + 7200, "3 d 2 h"),
    ],
)
def test_spans(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_money_and_ids() -> None:
    assert [dollars(0), dollars(1_230_000), dollars(1_500)] == ["$0.00", "$1.23", "$0.0015"]
    assert short_id("0192b3c4-0000-7000-8000-0000deadbeef") == "deadbeef"
    assert short_digest(DIGEST) == "sha256:4be04be0…"


def test_every_event_has_words() -> None:
    assert set(WORDS) == {cls.event_type() for cls in EVENTS}


EVIDENCE = Evidence(digest=DIGEST, command=("pytest",), green=True, passed=9)
RED = Evidence(digest=DIGEST, command=("pytest",), green=False, passed=8, failed=("test_refund",))


def test_the_lines_of_a_timeline() -> None:
    plan = PlanProposed(summary="", files=("a",), tests=("b", "c"), base_commit="0", base_evidence=RED)
    assert line_of("PlanProposed", "planning", plan).detail == (
        "1 file, 2 tests named, risk low, 1 of 9 tests fails at the base"
    )
    for within, said in ((("**",), "any file"), (("src/**", "a"), "within src/**, a"), (("a", "b"), "2 files")):
        scoped = plan.model_copy(update={"files": within, "tests": (), "base_evidence": None})
        assert line_of("PlanProposed", "planning", scoped).detail == f"{said}, risk low"
    files = (FileChange(path="money.py", kind="changed", added=2, removed=1),)
    change = ChangeProposed(
        revision=1, base_commit="0", head_commit="1", branch="b", digest=DIGEST, files=files, diff=Text.of("")
    )
    assert line_of("ChangeProposed", "coding", change).detail == "#1 money.py +2 -1"
    passed = ReviewPassed(
        revision=2,
        head_commit="1",
        digest=DIGEST,
        gates=(GateResult(gate="tests", passed=True, summary=""),) * 7,
        evidence=EVIDENCE,
        base_evidence=RED,
    )
    assert line_of("ReviewPassed", "review", passed).detail == "7 gates, 9 tests; was red, is green"


def test_findings_stand_below_and_are_harmless() -> None:
    finding = Finding(gate="tests", severity="blocker", message="evil\x1b[31m", file="a\u202e.py", line=3)
    payload = ChangesRequested(
        revision=1,
        head_commit="1",
        digest=DIGEST,
        gates=(GateResult(gate="tests", passed=False, summary="1 of 9 fails"),),
        findings=(finding,) * 5,
    )
    line = line_of("ChangesRequested", "review", payload)
    assert line.detail == "tests: 1 of 9 fails"
    assert line.below[0] == "a\\u202e.py:3: evil\\x1b[31m"
    assert line.below[-1] == "and 2 more: gavotte log --json"


def test_people_are_you_or_their_name() -> None:
    payload = TaskSubmitted(
        title="t", repository="/r", project_id="p", project_digest="d", base_commit="c", submitter="ann"
    )
    assert line_of("TaskSubmitted", "client", payload, me="ann").who == "you"
    assert line_of("TaskSubmitted", "client", payload, me="bob").who == "ann"


def test_events_of_further_agents_have_a_line() -> None:
    line = line_of("LicencesScanned\x1b", "scan", None)
    assert (line.who, line.what) == ("scan", "LicencesScanned\\x1b")


def submitted() -> Event:
    payload = TaskSubmitted(title="t", repository="/r", project_id="p", project_digest="d", base_commit="c")
    return root(payload, time_us=HOUR_US)


def then(events: list[Event], *payloads: tuple[str, object]) -> TaskState:
    """The state after a submission and what followed, each event one microsecond after the last."""
    for role, payload in payloads:
        draft = events[-1].cause(payload)  # type: ignore[arg-type]  # payloads of different classes
        time_us = events[-1].envelope.time_us + 1
        events.append(draft.sealed(producer=role, index=0, time_us=time_us))
    return fold(events[0].task_id, enumerate(events, 1))


PLAN = PlanProposed(summary="", base_commit="c")
CHANGE = ChangeProposed(revision=1, base_commit="c", head_commit="h", branch="b", digest=DIGEST, diff=Text.of(""))


def test_why_says_whose_turn_it_is() -> None:
    state = then([submitted()], ("planning", PLAN))
    found = explain(state, [], [], ["coding-1"], HOUR_US + 5_000_001)
    assert (found.turn, found.awaits, found.status) == ("coding", ("ChangeProposed",), "running")
    assert found.sentences[0] == "It is coding's turn: ChangeProposed is awaited from it after step planned."
    assert "(5.0 s ago)" in found.sentences[1]
    assert "No coding agent is running on this machine." in explain(state, [], [], [], HOUR_US).sentences


def test_why_names_kills_and_open_deliveries() -> None:
    state = then([submitted()])
    kill = Kill(seq=1, event_id="k1", scope="role", target="planning", reason="smoke", lifted=False)
    others = Kill(seq=2, event_id="k2", scope="role", target="deploy", reason="", lifted=False)
    row = InboxRow(
        role="planning",
        event_id="e1",
        event_type="TaskSubmitted",
        task_id=state.task_id,
        status="retry",
        attempt=1,
        starts=1,
        due_us=HOUR_US + 30_000_000,
        reason="the disk is full",
        reason_code="unavailable",
        published=False,
    )
    found = explain(state, [row], [kill, others], ["planning-1"], HOUR_US)
    assert "A kill of role planning stops it: smoke." in found.sentences
    assert "planning tries TaskSubmitted again (attempt 2) in 30.0 s: the disk is full." in found.sentences
    assert found.commands == ("gavotte lift k1",)


def test_why_of_what_waits_for_people() -> None:
    escalation = TaskEscalated(role="planning", reason="which one?", reason_code="x", hint="gavotte resume it")
    found = explain(then([submitted()], ("planning", escalation)), [], [], [], HOUR_US)
    assert (found.turn, found.awaits, found.status) == ("a person", ("TaskResumed",), "escalated")
    assert found.commands[0] == "gavotte resume it"
    expires = datetime(2000, 1, 1, tzinfo=UTC)
    request = ApprovalRequested(digest=DIGEST, commit="h", expires_at=expires)
    passed = ReviewPassed(revision=1, head_commit="h", digest=DIGEST)
    from contracts.events import StagingDeployed

    staged = StagingDeployed(digest=DIGEST, commit="h", path="/s", effect_key="k")
    steps = [("planning", PLAN), ("coding", CHANGE), ("review", passed), ("deploy", staged), ("deploy", request)]
    state = then([submitted()], *steps)
    found = explain(state, [], [], [], HOUR_US)
    assert found.until_us == int(expires.timestamp() * 1_000_000)
    assert found.turn == "a person"
    assert found.commands[-1] == f"gavotte deny {state.task_id}"


def test_why_of_what_has_ended() -> None:
    state = then([submitted()], ("planning", TaskFailed(reason="no tests", reason_code="no_tests")))
    found = explain(state, [], [], [], HOUR_US)
    assert found.sentences == ("The task has failed: no tests.",)
    assert (found.turn, found.until_us, found.awaits) == ("", None, ())


@pytest.mark.parametrize("corrections", [{"revision_max": "5"}, {"revisions_max": "many"}, {"revisions_max": "0"}])
def test_what_cannot_be_corrected_is_refused(corrections: dict[str, str]) -> None:
    check_corrections({"revisions_max": "5", "title": "another", "description": ""})
    with pytest.raises(Usage, match="revision"):
        check_corrections(corrections)
