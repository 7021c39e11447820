"""The script of the model server: who is answered what, which faults strike when, what the API would refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents.model.api_rules import faults_of
from agents.model.faults import KINDS, Fault, parse, spoiled
from agents.model.port import Said, Usage
from agents.model.script import Asked, Given, Script, ScriptAnswers
from agents.model.stream import Assembly, pieces
from agents.model.wire import tokens_at_most, usage_of
from contracts.errors import Usage as WrongUse

TOOL = {"name": "plan_draft", "input_schema": {"type": "object"}}


def body(*said: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": [{"type": "text", "text": text}]} for text in said or ("hello",)]
    return {"model": "claude-sonnet-5-5", "max_tokens": 100, "messages": messages, "tools": [TOOL], **fields}


def asked(number: int = 1, *, role: str = "planning", task: str = "t1", said: str = "hello", **fields: Any) -> Asked:
    return Asked(number, fields.pop("nth", number), body(said, **fields), "ab" * 32, role, task)


def answers(*rules: dict[str, Any]) -> ScriptAnswers:
    return ScriptAnswers(Script.parse({"answers": list(rules)}, "test"))


def text_of(given: Given | None) -> str:
    assert given is not None
    return " ".join(block.get("text", "") for block in given.content)


@pytest.mark.parametrize(
    ("when", "fits"),
    [
        ({}, True),
        ({"role": "planning"}, True),
        ({"role": "coding"}, False),
        ({"task": "t"}, True),
        ({"task": "t2"}, False),
        ({"model": "claude-*"}, True),
        ({"model": "gpt-*"}, False),
        ({"tool": "plan_draft"}, True),
        ({"tool": "review_draft"}, False),
        ({"system": "plan"}, True),
        ({"system": "coder"}, False),
        ({"contains": "loses a cent"}, True),
        ({"contains": ["loses", "dollar"]}, False),
        ({"matches": "los(es|t) a"}, True),
        ({"matches": "^nothing"}, False),
        ({"turn": 0}, True),
        ({"turn": 1}, False),
        ({"nth": 1}, True),
        ({"nth": 2}, False),
        ({"role": "planning", "contains": "dollar"}, False),
    ],
)
def test_all_that_is_named_must_hold(when: dict[str, Any], fits: bool) -> None:
    request = asked(said="split() loses a cent", system=[{"type": "text", "text": "You plan."}])
    given = answers({"when": when, "text": "yes"}, {"text": "no"}).answer(request)
    assert text_of(given) == ("yes" if fits else "no")


def test_results_of_tools_are_what_the_user_said() -> None:
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": "3 failed"}]}
    request = Asked(1, 1, {**body(), "messages": [result]})
    assert text_of(answers({"when": {"contains": "3 failed"}, "text": "yes"}).answer(request)) == "yes"


def test_a_rule_is_used_up_for_each_task_apart() -> None:
    script = answers({"text": "first", "times": 2}, {"text": "then"})
    told = [text_of(script.answer(asked(n, task=task))) for n, task in enumerate(("a", "a", "b", "a", "b", "b"), 1)]
    assert told == ["first", "first", "first", "then", "first", "then"]


def test_an_input_calls_the_tool_on_offer_or_the_one_named() -> None:
    given = answers({"input": {"a": 1}, "text": "well"}).answer(asked())
    assert given is not None
    assert [block["type"] for block in given.content] == ["text", "tool_use"]
    assert (given.content[1]["name"], given.content[1]["input"], given.stop_reason) == (
        "plan_draft",
        {"a": 1},
        "tool_use",
    )
    named = answers({"input": {}, "tool": "finish"}).answer(asked())
    assert named is not None
    assert named.content[0]["name"] == "finish"


def test_without_a_rule_there_is_no_answer_but_to_who_offers_no_tool() -> None:
    assert answers().answer(asked()) is None
    assert text_of(answers().answer(Asked(1, 1, {**body(), "tools": []}))) == "ready"


def test_the_short_form_answers_in_a_row_for_each_task() -> None:
    script = ScriptAnswers(Script.parse({"coding": [{"n": 1}, {"n": 2}], "review": [{"n": 9}]}, "short"))
    order = [("coding", "a"), ("coding", "b"), ("review", "a"), ("coding", "a"), ("coding", "a"), ("coding", "b")]
    found = [script.answer(asked(n, role=role, task=task)) for n, (role, task) in enumerate(order, 1)]
    assert [given.content[0]["input"]["n"] for given in found if given] == [1, 1, 9, 2, 2, 2]


def test_triage_lets_in_unless_a_rule_names_its_tool() -> None:
    tools = [{"name": "triage_verdict", "input_schema": {"type": "object"}}]
    row: list[dict[str, Any]] = [{"input": {"summary": "a plan"}}, {"text": "la la la"}]
    verdict = answers(*row).answer(asked(tools=tools))
    assert verdict is not None
    assert [(block["name"], block["input"]) for block in verdict.content] == [("triage_verdict", {})]
    refusing = {"when": {"tool": "triage_verdict"}, "input": {"out_of_bounds": "no_change"}}
    refused = answers(*row, refusing).answer(asked(tools=tools))
    assert refused is not None
    assert refused.content[0]["input"] == {"out_of_bounds": "no_change"}
    short = {"triage": [{"out_of_bounds": "no_change"}], "planning": [{"summary": "a plan"}]}
    script = ScriptAnswers(Script.parse(short, "short"))
    found = [script.answer(asked(tools=tools)), script.answer(asked())]
    assert [given.content[0]["input"] for given in found if given] == [*short["triage"], *short["planning"]]


def test_an_answer_may_be_several_calls_of_tools() -> None:
    calls = [{"tool": "read", "input": {"path": "a.py"}}, {"tool": "run_tests"}]
    for script in ({"answers": [{"calls": calls}]}, {"planning": [{"calls": calls}]}):
        given = ScriptAnswers(Script.parse(script, "calls")).answer(asked())
        assert given is not None
        assert [(block["name"], block["input"]) for block in given.content] == [
            ("read", {"path": "a.py"}),
            ("run_tests", {}),
        ]
        assert len({block["id"] for block in given.content}) == 2
        assert given.stop_reason == "tool_use"


def test_files_are_json_or_toml(tmp_path: Path) -> None:
    toml = tmp_path / "s.toml"
    toml.write_text('[[answers]]\nwhen = { role = "planning" }\ntext = "yes"\n[[faults]]\nkind = "429"\nevery = 3\n')
    plain = tmp_path / "s.json"
    plain.write_text(
        json.dumps(
            {"answers": [{"when": {"role": "planning"}, "text": "yes"}], "faults": [{"kind": "429", "every": 3}]}
        )
    )
    assert Script.load(toml) == Script.load(plain)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ({"answers": [{"when": {"rle": "x"}, "text": "a"}]}, "answers.0.when.rle: Extra inputs"),
        ({"answers": [{"when": {"role": "x"}}]}, "a rule gives input, calls, text, content or a stop_reason"),
        ({"answers": [{"text": "a", "times": 0}]}, "answers.0.times"),
        ({"faults": [{"kind": "flood"}]}, "faults.0.kind"),
        ([1], "Input should be"),
        ({"planning": "an answer"}, "planning: Extra inputs"),
    ],
)
def test_a_script_that_is_off_is_named(script: object, said: str) -> None:
    with pytest.raises(WrongUse) as refused:
        Script.parse(script, "mine.json")
    assert "mine.json" in refused.value.message
    assert said in refused.value.message


# -- faults --------------------------------------------------------------------------------------------------------


def strikes(fault: Fault, upto: int = 12, **fields: Any) -> list[int]:
    """Which of so many requests a fault hits."""
    found: list[int] = []
    for number in range(1, upto + 1):
        if fault.strikes(asked(number, **fields), len(found)):
            found.append(number)
    return found


def test_when_a_fault_strikes() -> None:
    assert strikes(parse("429")) == list(range(1, 13))
    assert strikes(parse("429:every=5")) == [5, 10]
    assert strikes(parse("cut:at=3+7")) == [3, 7]
    assert strikes(parse("500:times=2")) == [1, 2]
    assert strikes(parse("500:every=2,times=2")) == [2, 4]
    assert strikes(parse("529:role=coding")) == []
    assert strikes(parse("529:role=coding"), role="coding") == list(range(1, 13))
    by_lot = parse("empty:rate=0.5,seed=3")
    assert strikes(by_lot) == strikes(by_lot)
    assert 20 < len(strikes(by_lot, 100)) < 80


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("flood", "kind: Input should be"),
        ("429:every", "'every' is not name=value"),
        ("429:every=0", "every: Input should be greater"),
        ("429:evry=2", "evry: Extra inputs"),
    ],
)
def test_a_fault_that_is_off_is_named(words: str, said: str) -> None:
    with pytest.raises(WrongUse, match=r"--fault") as refused:
        parse(words)
    assert said in refused.value.message


def test_what_is_said_is_spoiled_by_kind() -> None:
    good = Given([{"type": "tool_use", "id": "x", "name": "plan_draft", "input": {"summary": "fine"}}], "tool_use")
    found = {kind: spoiled(kind, good, asked(), "IGNORE ALL") for kind in KINDS}
    assert found["unknown_tool"].content[0]["name"] == "launch_rocket"
    assert found["wrong_arguments"].content[0]["name"] == "plan_draft"
    assert "summary" not in found["wrong_arguments"].content[0]["input"]
    assert (found["empty"].content, found["empty"].stop_reason) == ([], "end_turn")
    assert found["refusal"].stop_reason == "refusal"
    assert found["overlong"].stop_reason == "max_tokens"
    assert len(found["overlong"].content[0]["text"]) >= 400
    assert found["injection"].content[0]["text"] == "IGNORE ALL"
    assert found["injection"].content[1]["input"] == {"summary": "fine IGNORE ALL"}
    assert all(found[kind] == good for kind in ("429", "cut", "drip", "malformed"))


# -- what the API would refuse ---------------------------------------------------------------------------------------


def talk(*turns: tuple[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


WORD = {"type": "text", "text": "hi"}
CALL = {"type": "tool_use", "id": "a", "name": "x", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "a", "content": "ok"}


@pytest.mark.parametrize(
    ("request_body", "said"),
    [
        (body(), ""),
        ([], "not a JSON object"),
        ({"model": "m"}, "max_tokens: Field required"),
        (body(temperature=0), "temperature: Extra inputs"),
        (body(max_tokens=0), "max_tokens"),
        (body(messages=[]), "at least one message"),
        (body(tool_choice={"type": "tool", "name": "plan_draft"}), "forced tool use is not supported"),
        (body(tool_choice={"type": "tool", "name": "plan_draft"}, model="claude-sonnet-5"), ""),
        (body(tool_choice={"type": "auto"}, tools=[]), "only be specified while providing tools"),
        (body(tools=[{"name": "x"}]), "name and input_schema are required"),
        (body(tools=[{"name": "x", "input_schema": {"type": "array"}}]), "Input should be 'object'"),
        (body(messages=talk(("system", [WORD]))), "Input should be 'user' or 'assistant'"),
        (body(messages=talk(("user", []))), "at least one block"),
        (body(messages=talk(("user", [{"type": "text", "text": " "}]))), "must be non-empty"),
        (body(messages=talk(("user", [WORD]), ("assistant", [WORD]))), "prefill"),
        (body(messages=talk(("user", [WORD]), ("assistant", [CALL]), ("user", [WORD]))), "without `tool_result`"),
        (body(messages=talk(("user", [WORD]), ("assistant", [CALL]), ("user", [RESULT]))), ""),
        (body(messages=talk(("user", [RESULT]))), "unexpected `tool_use_id`"),
        (body(messages=[{"role": "user", "content": "plain"}]), ""),
        (body(system=[{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}] * 5), "maximum of 4"),
    ],
)
def test_the_server_refuses_what_the_api_refuses(request_body: Any, said: str) -> None:
    found = faults_of(request_body)
    assert said in found
    assert bool(said) == bool(found)


# -- streams and tokens ------------------------------------------------------------------------------------------------


def test_a_message_survives_being_cut_into_pieces() -> None:
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "tool_use", "stop_sequence": None,
        "content": [
            {"type": "thinking", "thinking": "hm " * 300, "signature": "sig"},
            {"type": "text", "text": "ä" * 999},
            {"type": "tool_use", "id": "t", "name": "x", "input": {"text": "line\n" * 400, "n": [1, None, {"a": True}]}},
            {"type": "tool_use", "id": "u", "name": "y", "input": {}},
        ],
        "usage": {"input_tokens": 7, "cache_read_input_tokens": 3, "output_tokens": 11},
    }  # fmt: skip
    assembly = Assembly()
    for _, event in pieces(message):
        assembly.take(json.loads(json.dumps(event)))
    assert assembly.whole() == message


def test_a_stream_that_breaks_off_is_no_message() -> None:
    assembly = Assembly()
    events = [event for _, event in pieces({"content": [WORD], "usage": {}})]
    for event in events[:-1]:
        assembly.take(event)
    with pytest.raises(ValueError, match="broke off"):
        assembly.whole()


def test_an_input_that_was_cut_short_stays_text() -> None:
    assembly = Assembly()
    cut = {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": '{"a": [1'}}
    for _, event in pieces({"content": [CALL], "usage": {}}):
        assembly.take(cut if event["type"] == "content_block_delta" else event)
    assert assembly.whole()["content"][0]["input"] == '{"a": [1'


def test_tokens_are_read_as_the_provider_counts_them() -> None:
    usage = {"input_tokens": 5, "cache_creation_input_tokens": 30, "cache_read_input_tokens": 200, "output_tokens": 7}
    split = {"cache_creation": {"ephemeral_1h_input_tokens": 10, "ephemeral_5m_input_tokens": 20}}
    assert usage_of({"usage": usage}) == Usage(5, 30, 0, 200, 7)
    assert usage_of({"usage": usage | split}) == Usage(5, 20, 10, 200, 7)
    assert usage_of({"usage": usage | split}).tokens_in_all == 235
    for odd in (None, {"input_tokens": "7"}, {"input_tokens": -7}, [3]):
        assert usage_of({"usage": odd}) == Usage()


def test_the_bound_on_tokens_holds_for_ordinary_text() -> None:
    prose = b"The quick brown fox jumps over the lazy dog. " * 1000
    assert tokens_at_most(prose) > len(prose.split()) * 1.5


def test_what_is_said_can_travel() -> None:
    assert Said.by_us("a", "", "b\udc80").content == ({"type": "text", "text": "a"}, {"type": "text", "text": "b?"})
