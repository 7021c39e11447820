"""A question as the Messages API takes it, down to the byte, and the API's answer as a reply.

The bytes are made here and not by a library, so that the journal can make the same ones again years later.
"""

from __future__ import annotations

import json
from typing import Any, Final

from agents.model.port import Block, Question, Said, Usage

CACHED: Final[Block] = {"type": "ephemeral"}
THINKING: Final = frozenset({"thinking", "redacted_thinking"})
BYTES_PER_TOKEN_MIN: Final = 2
"""No text of ours has more tokens than its bytes by this; what it underrates shows when the call is settled."""
TOKENS_AROUND: Final = 1024
"""What a provider adds on its own, for instance to explain the tools."""


def frame_of(question: Question, model: str, *, tokens_max: int, stream: bool) -> dict[str, Any]:
    """The body of the request. No tool is ever forced: newer models refuse that, so the words ask for it."""
    frame: dict[str, Any] = {"model": model, "max_tokens": question.tokens_max or tokens_max}
    frame["system"] = system_of(question)
    if question.tools:
        frame["tools"] = tools_of(question)
        frame["tool_choice"] = {"type": "auto", **({"disable_parallel_tool_use": True} if one_call(question) else {})}
    frame["messages"] = messages_of(question.messages, model)
    if stream:
        frame["stream"] = True
    return frame


def system_of(question: Question) -> list[Block]:
    """The prompt, and how to answer; cached together."""
    texts = [readable_instructions(question.instructions)]
    if one_call(question):
        texts.append(f"Give your answer by calling the tool `{question.answer_tool}` once. Nothing else is read.")
    elif question.open_ended:
        texts.append(
            f"Call one tool, or several at once. Nothing else is read. `{question.answer_tool}` ends the work."
        )
    blocks: list[Block] = [{"type": "text", "text": text} for text in texts if text]
    if blocks:
        blocks[-1]["cache_control"] = CACHED
    return blocks


def one_call(question: Question) -> bool:
    """Whether the answer is a single call of one tool."""
    return bool(question.answer_tool) and not question.open_ended


def readable_instructions(text: str) -> str:
    """The prompt's text without blanks at its ends."""
    return text.strip()


def tools_of(question: Question) -> list[Block]:
    """The tools on offer; the last one carries the mark up to which they are cached."""
    tools: list[Block] = [
        {"name": tool.name, "description": tool.description, "input_schema": tool.schema} for tool in question.tools
    ]
    tools[-1]["cache_control"] = CACHED
    return tools


def messages_of(messages: tuple[Said, ...], model: str) -> list[Block]:
    """The conversation for one model: the thinking of others is left out, and where it goes on its end is cached."""
    told: list[Block] = []
    for said in messages:
        foreign = said.role == "assistant" and said.model != model
        blocks = [block for block in said.content if not (foreign and block.get("type") in THINKING)]
        told.append({"role": said.role, "content": blocks})
    if len(told) > 1 and told[-1]["content"]:
        *before, last = told[-1]["content"]
        told[-1]["content"] = [*before, {**last, "cache_control": CACHED}]
    return told


def encode(frame: dict[str, Any]) -> bytes:
    """The bytes of a body."""
    return json.dumps(frame, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def tokens_at_most(body: bytes) -> int:
    """How many tokens the provider may count for these bytes."""
    return len(body) // BYTES_PER_TOKEN_MIN + TOKENS_AROUND


def usage_of(message: dict[str, Any]) -> Usage:
    """The tokens of an answer; what is missing or no number counts as nothing."""
    told = message.get("usage")
    usage: dict[str, Any] = told if isinstance(told, dict) else {}
    split = usage.get("cache_creation")
    written = _count(usage, "cache_creation_input_tokens")
    hour = min(_count(split, "ephemeral_1h_input_tokens"), written) if isinstance(split, dict) else 0
    return Usage(
        tokens_in=_count(usage, "input_tokens"),
        cache_write=written - hour,
        cache_write_1h=hour,
        cache_read=_count(usage, "cache_read_input_tokens"),
        tokens_out=_count(usage, "output_tokens"),
    )


def _count(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name)
    return max(value, 0) if isinstance(value, int) else 0


def is_message(found: object) -> bool:
    """Whether this is an answer of the Messages API, with blocks that can be read."""
    if not isinstance(found, dict) or not isinstance(found.get("content"), list):
        return False
    return all(isinstance(block, dict) and isinstance(block.get("type"), str) for block in found["content"])
