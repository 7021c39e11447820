"""Answers from a journal: the calls of a task that was done once, given again without a model and at no cost."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Sequence

from agents.model.calls import arguments_of, calls
from agents.model.script import Asked, Given, unscripted
from agents.model.scripted import TRIAGE
from contracts.errors import NotFound
from state_store.port import Step


class CassetteAnswers:
    """The replies of one task's journal. The very same request gets its own reply, another one the next of its role, triage apart."""

    def __init__(self, steps: Sequence[Step]) -> None:
        """Raises NotFound where the journal has no reply."""
        self._same: dict[str, deque[Given]] = defaultdict(deque)
        self._next: dict[tuple[str, bool], deque[Given]] = defaultdict(deque)
        for step in calls(steps):
            if step.outcome == "ok" and step.result and not step.abandoned:
                given, kept = _given(step), arguments_of(step)
                self._same[kept.get("sha256", "")].append(given)
                self._next[step.role, kept.get("purpose") == TRIAGE].append(given)
        if not self._next:
            raise NotFound("the journal of this task has no reply of a model", hint="gavotte llm TASK lists its calls")

    def answer(self, asked: Asked) -> Given | None:
        """The recorded reply; None where the journal has no more of them."""
        same = self._same.get(asked.sha256)
        if same:
            given = same.popleft()
            self._next[asked.role, asked.is_triage].remove(given)
            return given
        row = self._next.get((asked.role, asked.is_triage))
        if not row:
            return unscripted(asked)
        given = row.popleft()
        for kept in self._same.values():
            if given in kept:
                kept.remove(given)
                break
        return given


def _given(step: Step) -> Given:
    message = json.loads(step.result)["message"]
    return Given(list(message.get("content") or []), str(message.get("stop_reason") or ""), message.get("usage") or {})
