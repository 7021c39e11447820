"""Schemas that others registered: whether bytes may be decoded by them at all.

A recursive schema lets a short message overrun the decoder's stack, and a list of things without bytes lets five bytes
become millions of items: neither is among ours, and neither is trusted from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

DEPTH_MAX: Final = 64
NAMED: Final = frozenset({"record", "error", "enum", "fixed"})


def hazard(text: str) -> str:
    """What makes an Avro schema (JSON text) dangerous to decode by; empty where nothing does."""
    try:
        _Walk().visit(json.loads(text), (), 0)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return str(error) or type(error).__name__
    return ""


class _Walk:
    """One pass over a schema; raises ValueError with what it found."""

    def __init__(self) -> None:
        self._sizes: dict[str, bool] = {}

    def visit(self, schema: Any, inside: tuple[str, ...], depth: int) -> bool:
        """Whether a value of it takes at least one byte. `inside` are the named types around it."""
        if depth > DEPTH_MAX:
            raise ValueError(f"it is deeper than {DEPTH_MAX} levels")
        if isinstance(schema, list):
            for branch in schema:
                self.visit(branch, inside, depth + 1)
            return True
        if isinstance(schema, str):
            return self._named(schema, inside)
        if not isinstance(schema, Mapping):
            raise TypeError(f"{schema!r} is no schema")
        return self._complex(schema, inside, depth)

    def _named(self, name: str, inside: tuple[str, ...]) -> bool:
        short = name.rpartition(".")[2]
        if short in inside:
            raise ValueError(f"it is recursive: {short} holds itself")
        return self._sizes.get(short, name != "null")

    def _complex(self, schema: Mapping[str, Any], inside: tuple[str, ...], depth: int) -> bool:
        kind = schema["type"]
        if not isinstance(kind, str):
            return self.visit(kind, inside, depth + 1)
        if kind in {"array", "map"}:
            inner = schema["items" if kind == "array" else "values"]
            if not self.visit(inner, inside, depth + 1) and kind == "array":
                raise ValueError("it has a list of items that take no bytes")
            return True
        if kind not in NAMED:
            return self._named(kind, inside)
        short = str(schema["name"]).rpartition(".")[2]
        sized = kind == "enum" or (kind == "fixed" and int(schema["size"]) > 0)
        for field in schema.get("fields", ()):
            sized = self.visit(field["type"], (*inside, short), depth + 1) or sized
        # two names that differ in their namespace alone are one here: the more dangerous counts
        self._sizes[short] = sized and self._sizes.get(short, True)
        return sized
