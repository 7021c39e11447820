"""The context of one call, built anew from parts within a limit of tokens: what matters least gives way first.

Nothing is carried along from call to call. Whoever asks says what there is to know now, each part with its place in the
order of giving way; what does not fit is first cut in the middle, then left out, and the text says so.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agents.model.port import ToolOffer
from agents.model.wire import BYTES_PER_TOKEN_MIN
from contracts.harmless import marked
from contracts.redaction import redacted

FRAME_BYTES: Final = 1024
"""What a request has around prompt, tools and content: names, the model, how to answer."""
NOTE_BYTES: Final = 240
"""Set apart for the line that says what was left out."""
BYTES_MIN: Final = 1024
"""Less room than this is no context: the settings are off."""


@dataclass(frozen=True)
class Part:
    """Something that a model should know. Without `kind` the words are ours: neither marked nor cut.

    `gives_way` orders what is cut and left out where there is too much: the highest number first, and of equals the one
    that comes first. A part with 0 is cut at last, and never left out. `least_bytes` are kept when it is cut.
    """

    kind: str
    text: str
    about: Mapping[str, str | int] = field(default_factory=dict)
    gives_way: int = 0
    least_bytes: int = 600

    def shown(self, text: str) -> str:
        """The text as the prompt carries it."""
        return marked(self.kind, text, **self.about) if self.kind else text


def size_of(text: str) -> int:
    """The bytes that a text takes in a request."""
    return len(json.dumps(text, ensure_ascii=False).encode("utf-8", "replace")) - 2


def bytes_for(tokens_max: int, instructions: str, tools: Sequence[ToolOffer]) -> int:
    """The room for content where a request may have so many tokens; counted as the budget counts, which is too many."""
    offers = [{"name": tool.name, "description": tool.description, "input_schema": tool.schema} for tool in tools]
    around = size_of(instructions) + len(json.dumps(offers, ensure_ascii=False).encode()) + FRAME_BYTES
    return max(tokens_max * BYTES_PER_TOKEN_MIN - around, BYTES_MIN)


def compose(parts: Sequence[Part], bytes_max: int) -> str:
    """The parts as one text of `bytes_max` at most, in their order."""
    parts = [Part(p.kind, redacted(p.text), p.about, p.gives_way, p.least_bytes) for p in parts if p.text]
    shown = [fit(part, bytes_max) for part in parts]
    order = sorted((i for i, part in enumerate(parts) if part.kind), key=lambda i: -parts[i].gives_way)
    if _total(shown) > bytes_max:
        bytes_max -= NOTE_BYTES
    for i in order:
        if (over := _total(shown) - bytes_max) <= 0:
            break
        size = size_of(shown[i])
        shown[i] = fit(parts[i], max(size - over, min(parts[i].least_bytes, size)))
    missing = []
    for i in order:
        if _total(shown) <= bytes_max or not parts[i].gives_way:
            break
        shown[i] = ""
        missing.append(parts[i].kind)
    while (over := _total(shown) - bytes_max) > 0:
        largest = max(order, key=lambda i: size_of(shown[i]), default=None)
        if largest is None or not shown[largest]:
            raise ValueError(f"{bytes_max} bytes have no room for a prompt")
        size = size_of(shown[largest])
        shown[largest] = fit(parts[largest], max(size - over, size // 2) if size > BYTES_MIN // 4 else 0)
    if missing:
        shown.append(_note(missing))
    return "\n".join(text for text in shown if text)


def fits(parts: Sequence[Part], bytes_max: int) -> bool:
    """Whether `compose` has nothing to cut."""
    return sum(len(part.text) for part in parts) <= bytes_max and (
        _total([part.shown(redacted(part.text)) for part in parts if part.text]) <= bytes_max
    )


def fit(part: Part, bytes_max: int) -> str:
    """The part as the prompt carries it, cut in the middle until it takes `bytes_max` at most; empty if that is nothing."""
    characters = min(len(part.text), bytes_max)
    while characters >= 0:
        shown = part.shown(cut(part.text, characters))
        size = size_of(shown)
        if size <= bytes_max or not part.kind:
            return shown
        if not characters:
            break
        wanted = characters * bytes_max // size if size > 2 * bytes_max else characters - (size - bytes_max)
        characters = max(min(wanted, characters - 1), 0)
    return ""


def cut(text: str, characters: int) -> str:
    """A text of so many characters and a note at most: its beginning and its end, where it has more."""
    if len(text) <= characters:
        return text
    head = characters - characters // 2
    begin, end = text[:head], text[len(text) - characters // 2 :]
    return f"{begin}\n[... {len(text) - characters:,} characters are left out here ...]\n{end}"


def _total(shown: Sequence[str]) -> int:
    return sum(size_of(text) + 2 for text in shown if text)


def _note(missing: Sequence[str]) -> str:
    """Which kinds of parts are not there, in our own words."""
    counted = Counter(missing)
    return f"Left out for want of room: {', '.join(f'{n} x {kind}' for kind, n in counted.items())}."[:NOTE_BYTES]
