"""Prompts as versioned files: `<role>.v<n>.md`, the newest of each role is in use."""

from __future__ import annotations

from functools import cache
from importlib import resources

from contracts.errors import NotFound
from contracts.prompts import Prompt


@cache
def prompt_for(role: str) -> Prompt:
    """The newest prompt of a role; raises NotFound where there is none."""
    folder = resources.files("agents.prompts")
    names = sorted(
        (entry.name for entry in folder.iterdir() if entry.name.startswith(f"{role}.v") and entry.name.endswith(".md")),
        key=lambda name: int(name.split(".")[1][1:]),
    )
    if not names:
        raise NotFound(f"the role {role} has no prompt")
    return Prompt(names[-1].removesuffix(".md"), folder.joinpath(names[-1]).read_text())
