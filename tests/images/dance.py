"""The compose file, danced: its services run as it says, in containers of the built image, on real servers of this machine.

`make image` runs it. The servers' containers are not to be had without a registry of images, so Kafka, PostgreSQL and the
schema registry come from deploy/local; users, rights, secrets, entry points and settings are those of the compose file.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from contracts.topology import CORE_AGENTS  # noqa: E402
from deploy.local.kafka import Kafka  # noqa: E402
from deploy.local.postgres import Postgres  # noqa: E402
from deploy.local.registry import Registry  # noqa: E402
from deploy.local.serving import free_port  # noqa: E402
from tests.acceptance.commands import FIX, git, repository, until  # noqa: E402
from tests.images.dockerfile import interpolated, services  # noqa: E402

IMAGE = "gavotte:lane"
USER = 10001
ROLES = [agent.role for agent in CORE_AGENTS]


class Stage:
    """Folders for volumes and secrets, the servers' addresses, and containers by the names of their services."""

    def __init__(self, folder: Path, addresses: dict[str, str]) -> None:
        self.folder = folder
        self.addresses = addresses
        self.name = f"gavotte-lane-{os.getpid()}"
        self.ports: dict[str, int] = {}
        for volume in ("data", "operator", "repositories"):
            (folder / volume).mkdir(mode=0o700)
            os.chown(folder / volume, USER, USER)

    def arguments(self, service: str, *words: str, **extra: str) -> list[str]:
        """What `podman run` is told for a service, but for the name."""
        wanted: dict[str, Any] = services()[service]
        found = ["--no-healthcheck", "--cap-drop", *wanted["cap_drop"], "--security-opt", "no-new-privileges"]
        found += ["--read-only"] if wanted["read_only"] else []
        for mount in wanted["tmpfs"]:
            found += ["--tmpfs", mount]
        for volume in wanted["volumes"]:
            source, _, target = interpolated(volume, {}).rpartition(":")
            found += ["--volume", f"{self.folder / Path(source).name}:{target}:rw"]
        for secret in wanted["secrets"]:
            source, target = (secret["source"], secret["target"]) if isinstance(secret, dict) else (secret, secret)
            found += ["--volume", f"{self.folder / 'secrets' / source}:/run/secrets/{target}:ro"]
        environ = {key: interpolated(value, {}) for key, value in wanted["environment"].items()}
        for key, value in (environ | self.addresses | extra).items():
            found += ["--env", f"{key}={value}"]
        if "entrypoint" in wanted:
            found += ["--entrypoint", json.dumps(wanted["entrypoint"])]
        return [*found, IMAGE, *(words or wanted["command"])]

    def runs(self, service: str, *words: str, **extra: str) -> str:
        """Run a service to its end; what it said."""
        done = subprocess.run(
            ["podman", "run", "--rm", *self.arguments(service, *words, **extra)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{service} {words}: {done.stdout}{done.stderr}"
        return done.stdout

    def says(self, *words: str) -> Any:
        """The JSON that a command prints."""
        return json.loads(self.runs("cli", *words, "--json"))

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """All agents, until they were asked to leave; each must leave in order."""
        for role in ROLES:
            self.ports[role] = free_port()
            port = {"GAVOTTE_TELEMETRY__PORT": str(self.ports[role])}
            words = ["podman", "run", "--detach", "--name", f"{self.name}-{role}", "--hostname", role]
            subprocess.run([*words, *self.arguments(role, **port)], check=True, capture_output=True)
        try:
            for role in ROLES:
                until(functools.partial(self.is_ready, role), 120)
            yield
        finally:
            codes = {role: self.leaves(role) for role in ROLES}
        assert set(codes.values()) == {"0"}, codes

    def leaves(self, role: str) -> str:
        """Ask one to leave; its exit code."""
        name = f"{self.name}-{role}"
        asked("stop", "--time", "30", name)
        code = asked("inspect", "--format", "{{.State.ExitCode}}", name).strip()
        if code != "0":
            print(f"{role} ended with {code}:\n{asked('logs', name)[-3000:]}", file=sys.stderr)
        asked("rm", "--force", name)
        return code

    def is_ready(self, role: str) -> bool:
        done = subprocess.run(
            ["podman", "exec", f"{self.name}-{role}", "python", "-P", "-m", "agents.health", "/readyz"],
            capture_output=True, check=False,
        )  # fmt: skip
        return done.returncode == 0


def asked(*words: str) -> str:
    done = subprocess.run(["podman", *words], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def write_secrets(folder: Path, postgres: Postgres) -> None:
    """Those of deploy/secrets.sh, with the address of this machine's server and the password of its owner."""
    shutil.copy(ROOT / "deploy" / "secrets.sh", folder / "secrets.sh")
    (folder / "secrets").mkdir()
    (folder / "secrets" / "owner").write_text(postgres.passwords["gavotte"])
    subprocess.run([str(folder / "secrets.sh")], check=True)
    for path in (folder / "secrets").glob("*_url"):
        text = path.read_text().replace("@postgres/", f"@127.0.0.1:{postgres.port}/")
        path.chmod(0o644)
        path.write_text(text)


def dance(stage: Stage) -> None:
    """One task from its submission to its release, by four containers and a person's commands."""
    print(stage.runs("prepare").strip())
    made = repository(stage.folder / "repositories" / "app")
    subprocess.run(["chown", "-R", f"{USER}:{USER}", str(made)], check=True)
    (stage.folder / "repositories" / "fix.patch").write_text(FIX)
    with stage.at_work():
        wish = ("submit", "--repo", "/repositories/app", "--author", "patch", "--patch", "/repositories/fix.patch")
        task = stage.says(*wish)["task_id"]
        until(lambda: stage.says("show", task)["status"] == "waiting", 180)
        stage.says("approve", task, "--yes")
        until(lambda: stage.says("show", task)["status"] == "succeeded", 120)
        print(stage.runs("cli", "log", task).strip())
        branches = git(made, "-c", "safe.directory=*", "branch", "--list", "gavotte/*")
        assert task in branches, branches
        assert stage.says("audit", "verify")["wrong"] == []
        refused(stage)


FORBIDDEN = (
    "UPDATE events SET trust = 'operator'",
    "DELETE FROM events",
    "INSERT INTO kills (event_id, scope, target, reason) VALUES ('x', 'all', '', '')",
)
TRY = """
import asyncio, asyncpg, sys
async def main():
    connection = await asyncpg.connect(open('/run/secrets/database_url').read().strip())
    try:
        await connection.execute(sys.argv[1])
    except asyncpg.InsufficientPrivilegeError as error:
        print('refused:', error)
asyncio.run(main())
"""


def refused(stage: Stage) -> None:
    """The login of the coding agent may neither change what was said nor stop others."""
    for statement in FORBIDDEN:
        said = asked("exec", f"{stage.name}-coding", "python", "-c", TRY, statement)
        assert said.startswith("refused:"), said
        print(" ", said.strip())


def main(folder: Path) -> None:
    with contextlib.ExitStack() as servers:
        for name in ("kafka", "postgres", "registry"):
            (folder / name).mkdir()
        kafka, registry = Kafka(folder / "kafka"), Registry(folder / "registry")
        postgres = servers.enter_context(Postgres(durable=False))
        kafka.start()
        servers.callback(kafka.stop)
        registry.start()
        servers.callback(registry.stop)
        write_secrets(folder, postgres)
        addresses = {"GAVOTTE_BUS__SERVERS": kafka.servers, "GAVOTTE_REGISTRY__URL": registry.url}
        dance(Stage(folder, addresses))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
