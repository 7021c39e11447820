"""An answer that arrives in pieces, put together again; and a whole one cut into pieces, as a server streams it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from agents.model.port import Block

Piece = tuple[str, dict[str, Any]]
"""The name of a server-sent event and its data."""

TEXT_PER_PIECE = 400


class Assembly:
    """Takes the events of one streamed answer. `whole` is the message once the stream said that it is over."""

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._inputs: dict[int, list[str]] = {}
        self.over = False

    def take(self, event: dict[str, Any]) -> None:
        """One event. Raises ValueError, KeyError, IndexError or TypeError where it fits nothing."""
        match event["type"]:
            case "message_start":
                self._message = {**event["message"], "content": list(event["message"].get("content") or [])}
            case "content_block_start":
                self._message["content"].append(dict(event["content_block"]))
            case "content_block_delta":
                self._add(int(event["index"]), event["delta"])
            case "content_block_stop":
                self._finish(int(event["index"]))
            case "message_delta":
                self._message.update(event["delta"])
                usage = {key: value for key, value in (event.get("usage") or {}).items() if value is not None}
                self._message["usage"] = {**(self._message.get("usage") or {}), **usage}
            case "message_stop":
                self.over = True

    def whole(self) -> dict[str, Any]:
        """The message. Raises ValueError where the stream broke off."""
        if not self.over or not self._message:
            raise ValueError("the stream broke off before its end")
        return self._message

    def _add(self, index: int, delta: dict[str, Any]) -> None:
        block: Block = self._message["content"][index]
        match delta["type"]:
            case "text_delta":
                block["text"] = block.get("text", "") + delta["text"]
            case "input_json_delta":
                self._inputs.setdefault(index, []).append(delta["partial_json"])
            case "thinking_delta":
                block["thinking"] = block.get("thinking", "") + delta["thinking"]
            case "signature_delta":
                block["signature"] = delta["signature"]

    def _finish(self, index: int) -> None:
        """A tool's input arrives as the text of a JSON object; one that was cut short stays text, for whoever reads it."""
        text = "".join(self._inputs.pop(index, []))
        if not text:
            return
        try:
            self._message["content"][index]["input"] = json.loads(text)
        except ValueError:
            self._message["content"][index]["input"] = text


def pieces(message: dict[str, Any]) -> Iterator[Piece]:
    """The events of a message, as the Messages API streams it."""
    usage = message.get("usage") or {}
    first = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    yield _piece("message_start", message=first)
    for index, block in enumerate(message.get("content") or []):
        yield from _block(index, block)
    ending = {"stop_reason": message.get("stop_reason"), "stop_sequence": message.get("stop_sequence")}
    yield _piece("message_delta", delta=ending, usage={"output_tokens": usage.get("output_tokens", 0)})
    yield _piece("message_stop")


def _block(index: int, block: Block) -> Iterator[Piece]:
    kind = block["type"]
    if kind == "tool_use":
        yield _piece("content_block_start", index=index, content_block={**block, "input": {}})
        deltas = [{"type": "input_json_delta", "partial_json": part} for part in _cut(json.dumps(block["input"]))]
    elif kind == "text":
        yield _piece("content_block_start", index=index, content_block={**block, "text": ""})
        deltas = [{"type": "text_delta", "text": part} for part in _cut(block["text"])]
    elif kind == "thinking":
        yield _piece("content_block_start", index=index, content_block={**block, "thinking": "", "signature": ""})
        deltas = [{"type": "thinking_delta", "thinking": part} for part in _cut(block.get("thinking", ""))]
        deltas.append({"type": "signature_delta", "signature": block.get("signature", "")})
    else:
        yield _piece("content_block_start", index=index, content_block=block)
        deltas = []
    for delta in deltas:
        yield _piece("content_block_delta", index=index, delta=delta)
    yield _piece("content_block_stop", index=index)


def _piece(kind: str, **fields: Any) -> Piece:
    return kind, {"type": kind, **fields}


def _cut(text: str) -> list[str]:
    return [text[at : at + TEXT_PER_PIECE] for at in range(0, len(text), TEXT_PER_PIECE)]
