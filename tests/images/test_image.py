"""What is in the image, seen without building it: its entry point, run as it will be run, and the files around it.

`make image` builds the image for real, in a lane of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.settings import load_settings
from contracts.topology import CORE_AGENTS
from deploy.local.serving import free_port
from tests.acceptance.commands import until
from tests.conftest import lacking
from tests.images.dockerfile import COMPOSE, DOCKERFILE, ROOT, image, interpolated, secrets, services

BIN = Path(sys.executable).parent
ROLES = [agent.role for agent in CORE_AGENTS]
NOBODY = "10001"


def linted(*command: str) -> None:
    done = subprocess.run([str(BIN / command[0]), *command[1:]], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile_is_linted() -> None:
    linted("hadolint", str(DOCKERFILE))


def test_the_compose_file_is_linted() -> None:
    linted("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE))


@pytest.mark.parametrize("script", ["entrypoint.sh", "prepare.sh", "secrets.sh", "image-lane.sh"])
def test_the_scripts_parse_and_may_be_run(script: str) -> None:
    path = ROOT / "deploy" / script
    subprocess.run(["sh", "-n", str(path)], check=True)
    assert os.access(path, os.X_OK)


def test_the_image_is_of_one_base_and_not_root() -> None:
    made = image()
    assert len(set(made.stages)) == 1, "the lane makes one stand-in"
    assert made.user == f"{NOBODY}:{NOBODY}", "by number: a cluster cannot look names up"
    assert "--require-hashes" in DOCKERFILE.read_text()


def test_the_context_has_every_package_and_nothing_else() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.partition(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    scripts = {path for path in image().copied.values() if path.startswith("deploy/")}
    files = {"pyproject.toml", "requirements.lock", project["project"]["readme"], "LICENSE"}
    assert allowed == packages | scripts | files


# -- run as it will be run: another user, nothing writable but two places, no capabilities ---------------------------------


class Container:
    """The image's entry point on this machine, under the image's conditions."""

    def __init__(self, folder: Path) -> None:
        self.data, made = folder / "data", image()
        self.data.mkdir(mode=0o700)
        self.port = free_port()
        self.entrypoint = made.entrypoint[made.entrypoint.index("--") + 1 :]
        self.health_check = made.health_check
        scripts = folder / "bin"
        scripts.mkdir()
        for target, source in made.copied.items():
            if target.startswith("/usr/local/bin/"):
                (scripts / Path(target).name).symlink_to(ROOT / source)
        self.environ = {
            name: value.replace("/data", str(self.data)) for name, value in made.environ.items() if name != "PATH"
        } | {
            "PATH": f"{scripts}:{BIN}:/usr/local/bin:/usr/bin:/bin",
            "HOSTNAME": "a1b2-c3",
            "PYTHONPATH": str(ROOT),
            "GAVOTTE_TELEMETRY__PORT": str(self.port),
        }

    def command(self, *words: str) -> list[str]:
        wall = shutil.which("bwrap") or lacking("there is no bwrap: apt-get install bubblewrap")
        found = [wall, "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
        found += ["--ro-bind", str(ROOT), str(ROOT), "--bind", str(self.data), str(self.data)]
        for path in {BIN.parent.resolve(), Path(sys.base_prefix), self.data.parent / "bin"}:
            found += ["--ro-bind", str(path), str(path)]
        found += [
            "--unshare-user",
            "--unshare-pid",
            "--uid",
            NOBODY,
            "--gid",
            NOBODY,
            "--cap-drop",
            "ALL",
            "--clearenv",
        ]
        for name, value in self.environ.items():
            found += ["--setenv", name, value]
        return [*found, "--die-with-parent", "--chdir", str(self.data), "--", *words]

    @contextlib.contextmanager
    def runs(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(
            self.command(*self.entrypoint, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def says(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words), capture_output=True, text=True, check=False, timeout=60)

    def agent_pid(self, wall: int) -> int:
        """The agent behind the wall: the last of its line."""
        children = Path(f"/proc/{wall}/task/{wall}/children").read_text().split()
        return self.agent_pid(int(children[0])) if children else wall


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


def test_an_agent_gets_ready_is_well_and_leaves_on_sigterm(container: Container) -> None:
    with container.runs("review") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert line, process.stderr.read()
        ready = json.loads(line)
        assert ready["message"].startswith("ready review ")
        assert ready["message"].endswith(f"http://0.0.0.0:{container.port}")
        well = container.says(*container.health_check)
        assert (well.returncode, json.loads(well.stdout)["status"]) == (0, "ok")
        until(lambda: container.says(*container.health_check, "/readyz").returncode == 0)
        holders = [path.stem for path in (container.data / "run").glob("*.alive")]
        assert holders == ["review-a1b2_c3-2"], "processes of containers have equal pids: their host names them"
        os.kill(container.agent_pid(process.pid), signal.SIGTERM)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert all(json.loads(line) for line in rest.splitlines())
    assert errors == ""
    assert container.says(*container.health_check).returncode == 1


def test_nothing_but_data_and_tmp_is_written(container: Container) -> None:
    program = "import os, sys; print(os.getuid(), os.access(sys.argv[1], os.W_OK), os.access(sys.argv[2], os.W_OK))"
    done = container.says("python", "-c", program, str(ROOT / "agents"), str(container.data))
    assert done.stdout.split() == [NOBODY, "False", "True"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "usage: "),
        (["nobody"], 2, "there is no agent file nobody"),
        (["gavotte", "version"], 0, "gavotte "),
        (["gavotte", "doctor", "--json"], 0, '"sandbox"'),
    ],
)
def test_the_argument_says_what_is_run(container: Container, arguments: list[str], code: int, words: str) -> None:
    done = container.says(*container.entrypoint, *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


# -- the compose file ------------------------------------------------------------------------------------------------------


def ours() -> list[str]:
    return [name for name, service in services().items() if service["image"].startswith("gavotte:")]


def test_each_agent_is_a_service_of_its_own() -> None:
    assert set(ROLES) <= set(services())
    for role in ROLES:
        assert services()[role]["command"] == [role]
        assert services()[role]["restart"] == "unless-stopped"
        assert services()[role]["depends_on"] == {"prepare": {"condition": "service_completed_successfully"}}


@pytest.mark.parametrize("name", ours())
def test_our_services_may_do_little(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in service, "the image's own"


def secret_names(name: str) -> set[str]:
    return {one["source"] if isinstance(one, dict) else one for one in services()[name].get("secrets", [])}


@pytest.mark.parametrize("role", ROLES)
def test_an_agent_holds_its_own_secrets_alone(role: str) -> None:
    model = {"model_key"} if role != "deploy" else set()
    assert secret_names(role) == {f"{role}_url"} | model
    volumes = {volume.partition(":")[0] for volume in services()[role]["volumes"]}
    assert "operator" not in volumes, "the operator's key is no agent's"
    assert ("outside" in services()[role]["networks"]) is (role != "deploy"), (
        "who holds the repositories has no way out"
    )


@pytest.mark.parametrize("name", ours())
def test_the_settings_of_a_service_are_settings(name: str, tmp_path: Path) -> None:
    environ = {key: interpolated(value, {}) for key, value in services()[name]["environment"].items()}
    for key in environ:
        if key.endswith("_FILE"):
            (tmp_path / key).write_text("postgresql://u:p@postgres/gavotte")
            environ[key] = str(tmp_path / key)
    settings = load_settings(environ=environ | {"GAVOTTE_DATA": str(tmp_path)})
    assert (settings.bus.backend, settings.store.backend) == ("kafka", "postgres")
    assert settings.model.chosen == "none", "without a key nobody asks a model"
    assert "p@" not in str(settings.rows())


def test_secrets_are_made_once_and_are_files(tmp_path: Path) -> None:
    script = tmp_path / "secrets.sh"
    shutil.copy(ROOT / "deploy" / "secrets.sh", script)
    subprocess.run([str(script)], check=True)
    first = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    subprocess.run([str(script)], check=True)
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == first
    assert set(first) == {Path(file).name for file in secrets().values()}
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    passwords = [first[role] for role in (*ROLES, "operator", "owner")]
    assert len(set(passwords)) == len(passwords)
    assert first["planning_url"] == f"postgresql://gavotte_planning:{first['planning'].strip()}@postgres/gavotte\n"


def test_every_secret_is_used_and_every_used_one_is_there() -> None:
    used = set().union(*(secret_names(name) for name in services()))
    assert used == set(secrets())
