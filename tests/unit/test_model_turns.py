"""Questions that a model may answer with any of several tools, and how often a role has asked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from agents.model import wire
from agents.model.asking import Asker
from agents.model.cassette import CassetteAnswers
from agents.model.context import Part
from agents.model.port import Question, Said, ToolOffer
from agents.model.script import Asked
from agents.tools.toolbox import MindLimits, Resources, Toolbox
from contracts.authority import Keyring
from contracts.errors import NeedsPerson
from contracts.events import TaskEscalated, TaskResumed
from contracts.prompts import Prompt
from state_store.port import Commit, Recorded
from tests.contract.store.world import World, opened
from tests.unit.test_model_asking import REFUSED, WRONG, Draft, Provider, drafted, message, session_of

TOOLS = tuple(ToolOffer(name, f"To {name}.", {"type": "object"}) for name in ("finish", "read"))
OPEN = Question(
    "coding", "t", 0, ("coding.v2", "h"), "You write.", (Said.by_us("go"),), TOOLS, "finish", open_ended=True
)
READS = message({"type": "tool_use", "id": "x", "name": "read", "input": {"path": "a.py"}})


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened("inline", tmp_path) as made:
        yield made


def test_an_open_question_lets_several_tools_be_called() -> None:
    frame = wire.frame_of(OPEN, "m", tokens_max=100, stream=False)
    assert frame["tool_choice"] == {"type": "auto"}
    assert frame["system"][-1]["text"].endswith("`finish` ends the work.")
    closed = wire.frame_of(replace(OPEN, open_ended=False), "m", tokens_max=100, stream=False)
    assert closed["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert "`finish` once" in closed["system"][-1]["text"]


def test_a_question_with_one_answer_is_known_as_before_there_were_others() -> None:
    asked = asdict(replace(OPEN, open_ended=False))
    del asked["open_ended"]
    assert replace(OPEN, open_ended=False).digest() == sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    assert OPEN.digest() != replace(OPEN, open_ended=False).digest()


async def test_whatever_is_called_is_heard_and_a_refusal_goes_to_the_next_model(world: World) -> None:
    event = await world.submit()
    provider = Provider(REFUSED, READS, models=("one", "two"))
    reply = await Asker(await session_of(world, event), provider).hear(OPEN, why="to know")
    assert (reply.asked, reply.content[0]["name"]) == ("two", "read")
    again = Provider()
    assert (await Asker(await session_of(world, event), again).hear(OPEN, why="to know")).content == reply.content
    assert again.asked == []


async def test_when_all_refuse_a_person_is_asked(world: World) -> None:
    event = await world.submit()
    provider = Provider(REFUSED, REFUSED, models=("one", "two"))
    with pytest.raises(NeedsPerson, match="every model refused to answer: one, two"):
        await Asker(await session_of(world, event), provider).hear(OPEN, why="to know")


async def tools_of(world: World, event: Recorded, provider: Provider) -> Toolbox:
    nowhere: Any = None
    minds = MindLimits(context_tokens=8000)
    resources = Resources(nowhere, world.codec, provider, Path("/nowhere"), Keyring(), minds=minds)
    return Toolbox(await session_of(world, event), resources)


async def asked(tools: Toolbox, name: str, said: str) -> None:
    await tools.ask(Prompt(name, "You plan."), [Part("task", said)], Draft, why="to know")


async def test_questions_are_counted_for_the_task_over_deliveries_and_by_kind(world: World) -> None:
    event = await world.submit()
    provider = Provider(*[drafted()] * 9)
    tools = await tools_of(world, event, provider)
    for name, said in (("triage.v1", "a"), ("planning.v2", "b"), ("planning.v2", "c")):
        await asked(tools, name, said)
    stuck = TaskEscalated(role="planning", reason="no plan holds", reason_code="ungrounded_plan")
    done = Commit(tools.session.delivery, emitted=world.answers(event, "planning", stuck))
    assert (await world.store.commit(done)).status == "recorded"
    (later,) = await world.store.append([world.said(event, TaskResumed(operator="ann"))])
    row = (("planning.v3", "d"), ("triage.v1", "e"))
    tools = await tools_of(world, later, provider)
    for name, said in row:
        await asked(tools, name, said)
    assert [call.question.turn for call in provider.asked] == [0, 0, 1, 2, 1]
    rerun = Provider()
    tools = await tools_of(world, later, rerun)
    for name, said in row:
        await asked(tools, name, said)
    assert rerun.asked == [], "what the delivery asked itself does not count twice"


async def test_also_a_repaired_question_stays_below_the_limit(world: World) -> None:
    wrong = json.loads(json.dumps(WRONG))
    wrong["content"][0]["input"] = {f"\u202e{number}" * 40: "\u200b\U000e0041" * 4000 for number in range(9)}
    provider = Provider(wrong, wrong, drafted())
    tools = await tools_of(world, await world.submit(), provider)
    await asked(tools, "planning.v2", "\x00\u202ex" * 50_000)
    assert len(provider.asked) == 3
    assert all(len(call.body) / wire.BYTES_PER_TOKEN_MIN <= 8000 for call in provider.asked)


async def test_a_cassette_gives_triage_its_own_replies_and_lets_in_where_it_has_none(world: World) -> None:
    event = await world.submit()
    tools = await tools_of(world, event, Provider(drafted("let in"), drafted("the plan")))
    await tools.ask(Prompt("triage.v1", "In?"), [Part("task", "a")], Draft, why="to know", purpose="triage")
    await asked(tools, "planning.v2", "b")
    tape = CassetteAnswers(await world.store.steps(event.envelope.task_id))

    def played(tool: str) -> Any:
        given = tape.answer(Asked(1, 1, {"tools": [{"name": tool}], "messages": []}, "unknown", "planning", "t"))
        return given.content[0]["input"] if given else None

    assert [played("draft"), played("triage_verdict")] == [{"summary": "the plan"}, {"summary": "let in"}]
    assert [played("draft"), played("triage_verdict")] == [None, {}]
