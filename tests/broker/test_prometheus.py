"""Prometheus itself scrapes an agent, and judges the alert rules that are shipped."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.acceptance.commands import until
from tests.conftest import lacking

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus"


def program(name: str) -> str:
    found = shutil.which(name)
    return found or lacking(f"there is no {name}: apt-get install prometheus")


def promtool(*words: str) -> str:
    done = subprocess.run([program("promtool"), *words], cwd=RULES, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_are_rules_and_fire_when_they_should() -> None:
    assert "SUCCESS" in promtool("check", "rules", "alerts.yml")
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")
    promtool("check", "config", "prometheus.yml")


@contextlib.contextmanager
def running(*words: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(words, text=True, **options) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


def test_prometheus_scrapes_an_agent(tmp_path: Path) -> None:
    prometheus = program("prometheus")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "GAVOTTE_"))}
    environ |= {"GAVOTTE_DATA": str(tmp_path / "data"), "GAVOTTE_TELEMETRY__PORT": "0", "PYTHONPATH": str(ROOT)}
    with running(sys.executable, "-P", "-m", "agents", "review", stdout=subprocess.PIPE, env=environ) as agent:
        assert agent.stdout is not None
        target = agent.stdout.readline().split()[3].removeprefix("http://")
        (tmp_path / "prometheus.yml").write_text(
            f"global: {{scrape_interval: 1s}}\nrule_files: [{RULES / 'alerts.yml'}]\n"
            f"scrape_configs: [{{job_name: gavotte, static_configs: [{{targets: ['{target}']}}]}}]\n"
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with running(
            prometheus, f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ):  # fmt: skip
            found = until(lambda: asked(port, 'gavotte_ready{role="review"} == 1'))
            assert found[0]["metric"]["job"] == "gavotte"
            assert asked(port, "up") != []
            assert len(asked(port, "gavotte_consumer_lag_messages")) > 1
            assert asked(port, "gavotte_build_info")[0]["metric"]["role"] == "review"


def asked(port: int, query: str) -> list[dict[str, Any]]:
    """The result of an instant query; empty while nobody answers."""
    url = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(query)}"
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            result: list[dict[str, Any]] = json.load(response)["data"]["result"]
            return result
    except (urllib.error.URLError, OSError):
        return []
