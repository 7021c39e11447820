"""The record of one run of a task in the words that the field uses: what it took, what it called, how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from contracts.codec import iso

if TYPE_CHECKING:
    from state_store.port import Step, TaskRow

MICRO_PER_MILLI = 1000


def run_record(row: TaskRow, steps: Sequence[Step]) -> dict[str, Any]:
    """Stable names. Times are ISO 8601 in UTC, latencies milliseconds; a call under way has neither latency nor success.

    Tokens of calls whose end nobody knows are counted as reserved, with what went in.
    """
    state = row.state
    failed = state.outcome if state.status in {"failed", "cancelled"} else None
    return {
        "task_id": state.task_id,
        "task_type": state.task_type,
        "start": iso(state.submitted_at_us) if state.submitted_at_us else None,
        "end": iso(state.ended_at_us) if state.ended_at_us else None,
        "steps": row.spent.steps,
        "input_tokens": sum(step.tokens_in if step.outcome else step.reserved_tokens for step in steps),
        "output_tokens": sum(step.tokens_out for step in steps),
        "tool_calls": [called(step) for step in steps if step.kind == "tool"],
        "outcome": state.outcome,
        "error": state.pause.reason if state.pause else failed,
    }


def called(step: Step) -> dict[str, Any]:
    """One call of a tool."""
    latency = None if step.ended_at_us is None else (step.ended_at_us - step.began_at_us) // MICRO_PER_MILLI
    return {
        "tool": step.name,
        "role": step.role,
        "start": iso(step.began_at_us),
        "latency_ms": latency,
        "success": None if not step.outcome else step.outcome == "ok",
        "error": step.error or None,
    }
