"""Lines of JSON: each parses, and says which task it is about."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from agents.logs import JsonLines
from agents.observed import AT_WORK
from tests.unit.test_telemetry import delivered

ROOT = Path(__file__).resolve().parents[2]


def test_a_line_names_the_delivery_at_work() -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonLines({"agent": "coding"}))
    log = logging.getLogger("gavotte.test")
    log.setLevel("INFO")
    log.addHandler(handler)
    passage = delivered()
    token = AT_WORK.set(passage)
    log.error("%s went wrong", "something", exc_info=ValueError("two\nlines"))
    AT_WORK.reset(token)
    log.info("idle")
    log.removeHandler(handler)
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    envelope = passage.work.envelope
    assert envelope is not None
    assert (first["level"], first["agent"], first["message"]) == ("error", "coding", "something went wrong")
    assert (first["task_id"], first["correlation_id"]) == (envelope.task_id, envelope.correlation_id)
    assert first["trace_id"] == envelope.correlation_id.replace("-", "")
    assert "ValueError: two\nlines" in first["exception"]
    assert "task_id" not in second


def test_an_agent_in_a_container_writes_json_to_its_standard_output(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "GAVOTTE_"))}
    environ |= {"GAVOTTE_DATA": str(tmp_path / "data"), "GAVOTTE_LOG__FORMAT": "json", "GAVOTTE_LOG__STREAM": "stdout"}
    command = [sys.executable, "-P", "-m", "agents", "review"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ | {"PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stdout is not None
        lines: list[dict[str, Any]] = []
        while not lines or lines[-1]["message"] != f"ready review {process.pid}":
            lines.append(json.loads(process.stdout.readline()))
        process.send_signal(signal.SIGTERM)
        rest, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    lines += [json.loads(line) for line in rest.splitlines()]
    assert {line["agent"] for line in lines} == {"review"}
    assert {line["level"] for line in lines} == {"info"}
    assert errors == ""
