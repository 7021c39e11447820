"""A prompt as its versioned file gives it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prompt:
    """`name` is role and version, for instance `coding.v1`; `text` the instructions."""

    name: str
    text: str
