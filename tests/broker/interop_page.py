"""The commands of docs/interop.md as the tests run them: the page and what works are the same."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from deploy.local.kafka import Kafka, jars
from tests.acceptance.commands import GAVOTTE, ROOT

PAGE = ROOT / "docs" / "interop.md"
TOOLS = {
    "kafka-console-producer.sh": "org.apache.kafka.tools.ConsoleProducer",
    "kafka-consumer-groups.sh": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
}


def block(name: str) -> str:
    """The commands that the page marks as tested under this name."""
    found = re.search(rf"<!-- tested: {re.escape(name)} -->\n\n```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None, f"docs/interop.md has no block {name}"
    return found[1]


def programs(folder: Path) -> Path:
    """A folder with `gavotte` and Kafka's scripts, as they are called on the page."""
    folder.mkdir(exist_ok=True)
    wanted = {"gavotte": " ".join(GAVOTTE)}
    wanted |= {name: f"java -Xmx256m -cp '{jars()}/*' {main}" for name, main in TOOLS.items()}
    for name, command in wanted.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


def run(kafka: Kafka, folder: Path, environ: dict[str, str], *names: str, prefix: str = "") -> str:
    """Run blocks in one shell; what they print, and then the task id if one was made."""
    path = f"{programs(folder / 'bin')}:{environ['PATH']}"
    given = environ | {"PATH": path, "BROKERS": kafka.servers, "PREFIX": prefix}
    given |= {"TOPIC": f"{prefix}gavotte.tasks.events.v1"}
    script = "set -euo pipefail\n" + "\n".join(map(block, names)) + '\necho "${task:-}"\n'
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=given, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()
