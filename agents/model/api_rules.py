"""What the Messages API refuses: a fake that takes more than the real thing would hide mistakes."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from typing import Any, Final

NO_FORCED_TOOLS: Final = ("claude-*-5-5", "claude-fable-5-1", "claude-mythos-5-*", "claude-fable-5-2")
"""Models that refuse a tool_choice which forces a tool."""
GONE: Final = ("temperature", "top_p", "top_k")
"""Parameters that the version of the API no longer has."""
MARKS_MAX: Final = 4
"""Places in a request up to which it may be cached."""


def faults_of(body: Any) -> str:
    """What is wrong with a request, in the API's way of saying it; empty where it is fine."""
    if not isinstance(body, dict):
        return "the body is not a JSON object"
    return next(_faults(body), "")


def _faults(body: dict[str, Any]) -> Iterator[str]:
    for name, kind in (("model", str), ("max_tokens", int), ("messages", list)):
        if not isinstance(body.get(name), kind):
            yield f"{name}: Field required"
    for name in GONE:
        if name in body:
            yield f"{name}: Extra inputs are not permitted"
    if body["max_tokens"] < 1:
        yield "max_tokens: Input should be greater than or equal to 1"
    if not body["messages"]:
        yield "messages: at least one message is required"
    yield from _of_tools(body)
    yield from _of_messages(body["messages"])
    if _marks(body) > MARKS_MAX:
        yield f"A maximum of {MARKS_MAX} blocks with cache_control may be provided. Found {_marks(body)}."


def _of_tools(body: dict[str, Any]) -> Iterator[str]:
    tools = body.get("tools") or []
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict) or not tool.get("name") or not isinstance(tool.get("input_schema"), dict):
            yield f"tools.{index}: name and input_schema are required"
        elif tool["input_schema"].get("type") != "object":
            yield f"tools.{index}.input_schema.type: Input should be 'object'"
    choice = body.get("tool_choice") or {}
    if choice and not tools:
        yield "tool_choice may only be specified while providing tools"
    if choice.get("type") in {"any", "tool"} and any(fnmatch.fnmatch(body["model"], like) for like in NO_FORCED_TOOLS):
        yield "tool_choice: forced tool use is not supported for this model"


def _of_messages(messages: list[Any]) -> Iterator[str]:
    open_calls: set[str] = set()
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in {"user", "assistant"}:
            yield f"messages.{index}.role: Input should be 'user' or 'assistant'"
            return
        content = message.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(blocks, list) or not blocks:
            yield f"messages.{index}.content: at least one block is required"
            return
        for block in blocks:
            if block.get("type") == "text" and not str(block.get("text", "")).strip():
                yield "messages: text content blocks must be non-empty"
        results = {str(block.get("tool_use_id")) for block in blocks if block.get("type") == "tool_result"}
        if open_calls - results:
            yield f"messages.{index}: `tool_use` ids were found without `tool_result` blocks immediately after"
        if results - open_calls:
            yield f"messages.{index}: unexpected `tool_use_id` found in `tool_result` blocks"
        open_calls = {str(block.get("id")) for block in blocks if block.get("type") == "tool_use"}
    if messages[-1].get("role") == "assistant":
        yield "This model does not support assistant message prefill. The conversation must end with a user message."


def _marks(found: Any) -> int:
    """How many places are marked to be cached."""
    if isinstance(found, dict):
        return ("cache_control" in found) + sum(_marks(value) for value in found.values())
    return sum(_marks(value) for value in found) if isinstance(found, list) else 0
