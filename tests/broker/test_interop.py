"""Gavotte among other tools: Java's console producer and kcat submit tasks, Java's Avro reads events, Kafka counts the lag."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bus.kafka.bus import KafkaBus
from bus.kafka.cluster import Cluster
from bus.port import Message, Record
from contracts import ids
from contracts.codec import Codec, framed_id, headers_of, reframed
from contracts.confluent import SchemaRegistry
from contracts.envelope import CLIENT_SOURCE, root
from contracts.events import TaskSubmitted
from contracts.registry import CommittedIds
from contracts.wire_ids import RegistryIds
from deploy.local.kafka import Kafka
from deploy.local.registry import Registry
from deploy.local.serving import Lacking, fetched, maven, program
from tests.acceptance.commands import PATIENCE_SECONDS, Person, git, repository, until
from tests.broker import interop_page
from tests.conftest import lacking

GROUPS = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
AVRO_TOOLS_VERSION = "1.12.2"
TASKS = "gavotte.tasks.events.v1"
PLANNING = "gavotte.planning.events.v1"


def needs(*programs: str) -> None:
    """Programs of others, each in a Debian package of its name."""
    absent = [name for name in programs if shutil.which(name) is None]
    if absent:
        lacking(f"not found: {', '.join(absent)} (Debian, Ubuntu: apt-get install {' '.join(absent)})")


class Site:
    """A person with a broker and a registry, who sets nothing but variables, and a project of theirs."""

    def __init__(self, home: Path, kafka: Kafka, registry: Registry) -> None:
        self.kafka = kafka
        self.registry = registry
        self.prefix = f"interop-{ids.uuid7()[-12:]}."
        self.person = Person(home)
        self.person.environ |= kafka.environment() | registry.environment() | {"GAVOTTE_BUS__PREFIX": self.prefix}
        self.repo = repository(
            home / "app", {"pyproject.toml": "", "test_app.py": "def test() -> None:\n    assert True\n"}
        )
        self.project = self.person.told("project", "add", str(self.repo))

    def submission(self, title: str) -> dict[str, Any]:
        """What a plain producer says; docs/interop.md names each field."""
        return {
            "title": title,
            "author": "command",
            "command": ["true"],
            "repository": str(self.repo),
            "project_id": self.project["project_id"],
            "project_digest": self.project["digest"],
            "base_commit": git(self.repo, "rev-parse", "HEAD").strip(),
        }

    @contextlib.contextmanager
    def planning(self) -> Iterator[None]:
        """The planning agent at work."""
        log = self.person.home / "planning.log"
        with log.open("ab") as out:
            before = log.stat().st_size
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "agents", "planning"],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.person.home, env=self.person.environ,
            )  # fmt: skip
        try:
            until(lambda: b"ready planning" in log.read_bytes()[before:] or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)

    def follows_the_page(self, folder: Path, *blocks: str) -> str:
        """Run commands of docs/interop.md."""
        environ = self.person.environ | {"REPO": str(self.repo)}
        return interop_page.run(self.kafka, folder, environ, *blocks, prefix=self.prefix)

    def is_planned(self, task_id: str) -> bool:
        """Whether the task has its plan."""
        with contextlib.closing(self.person.reads()) as connection:
            query = "SELECT count(*) FROM events WHERE task_id = ? AND type = 'PlanProposed'"
            return bool(connection.execute(query, (task_id,)).fetchone()[0])

    def bus(self) -> KafkaBus:
        return KafkaBus(Cluster(self.kafka.servers, prefix=self.prefix))

    def lag(self, group: str) -> dict[str, int]:
        """What Kafka's own tool says: topic -> records behind."""
        said = self.kafka.tool(
            GROUPS, "--bootstrap-server", self.kafka.servers, "--describe", "--group", self.prefix + group
        )
        rows = [line.split() for line in said.splitlines() if line.startswith(self.prefix)]
        found: dict[str, int] = {}
        for row in rows:  # group, topic, partition, offset, end, lag; a dash where nothing was ever read
            found[row[1]] = found.get(row[1], 0) + (0 if row[5] == "-" else int(row[5]))
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, kafka: Kafka, schema_registry: Registry) -> Iterator[Site]:
    found = Site(tmp_path_factory.mktemp("interop") / "ann", kafka, schema_registry)
    with found.planning():
        yield found


def test_the_console_producer_submits_as_the_page_says(site: Site, tmp_path: Path) -> None:
    needs("jq")
    task_id = site.follows_the_page(tmp_path, "submission", "console-producer")
    until(lambda: site.is_planned(task_id))
    first, *_, plan = site.person.lines("log", task_id)
    assert first["payload"]["title"] == "Sort the imports"
    assert plan["causation_id"] == first["event_id"]
    assert plan["correlation_id"] == first["correlation_id"]
    [seen] = site.person.lines("log", "--from-bus", "tasks", "--task", task_id)
    assert (seen["schema_id"], seen["payload"]["title"], seen["problem"]) == (None, "Sort the imports", None)
    assert seen["event_id"] == first["event_id"]


def test_kcat_submits_and_reads_as_the_page_says(site: Site, tmp_path: Path) -> None:
    needs("jq", "kcat")
    task_id = site.follows_the_page(tmp_path, "submission", "kcat")
    until(lambda: site.is_planned(task_id))
    places = [site.person.lines("log", "--from-bus", topic, "--task", task_id) for topic in ("tasks", "planning")]
    assert len({rows[0]["partition"] for rows in places}) == 1, "the task's events meet in one process"
    said = site.follows_the_page(tmp_path, "kcat-read")
    [line] = [line for line in said.splitlines() if task_id in line]
    assert line.startswith(f"{site.prefix}{TASKS}[{places[0][0]['partition']}]@")
    assert "ce_type=gavotte.TaskSubmitted.v1" in line


def test_kcat_submits_avro_under_the_registrys_id(site: Site, tmp_path: Path) -> None:
    needs("kcat")
    task_id = ids.uuid7()
    payload = TaskSubmitted.model_validate(site.submission("in Avro"))
    file = tmp_path / "submission.avro"
    file.write_bytes(reframed(Codec(CommittedIds()).encode_payload(payload), registered(site)))
    headers = {"ce_id": ids.uuid7(), "ce_type": "gavotte.TaskSubmitted.v1", "ce_source": CLIENT_SOURCE}
    spoken = [part for name, value in headers.items() for part in ("-H", f"{name}={value}")]
    where = ("-b", site.kafka.servers, "-t", site.prefix + TASKS, "-k", task_id)
    subprocess.run(["kcat", "-P", *where, *spoken, str(file)], check=True, capture_output=True, timeout=60)
    until(lambda: site.is_planned(task_id))


def registered(site: Site) -> int:
    """The registry's id of the submission's schema, as any client finds it."""
    url = f"{site.registry.url}/subjects/gavotte.events.v1.TaskSubmitted/versions/latest"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return int(json.load(answer)["id"])


@pytest.fixture(scope="session")
def avro_tools() -> Path:
    """Java's Avro, fetched once for all runs."""
    try:
        program("java")
        return next(fetched(f"avro-tools-{AVRO_TOOLS_VERSION}", copy_avro_tools).glob("*.jar"))
    except Lacking as error:
        lacking(error)


def copy_avro_tools(folder: Path) -> None:
    maven(
        "dependency:copy", f"-Dartifact=org.apache.avro:avro-tools:{AVRO_TOOLS_VERSION}", f"-DoutputDirectory={folder}"
    )


async def test_our_events_are_read_by_javas_avro_through_the_registry(
    site: Site, avro_tools: Path, tmp_path: Path
) -> None:
    submitted = site.person.told("submit", "--repo", str(site.repo), "--author", "command", "--command", "true")
    task_id = submitted["task_id"]
    until(lambda: site.is_planned(task_id))
    bus = site.bus()
    try:
        records = [*await bus.read(TASKS), *await bus.read(PLANNING)]
    finally:
        await bus.close()
    said = [read_by_java(site, avro_tools, each, tmp_path) for each in records if each.key.decode() == task_id]
    stored = [row["payload"] for row in site.person.lines("log", task_id)]
    assert len(said) == len(stored) == 2
    assert (said[0]["title"], said[0]["project_id"]) == (stored[0]["title"], stored[0]["project_id"])
    assert said[0]["budget"] == stored[0]["budget"]
    assert (said[1]["summary"], said[1]["base_commit"]) == (stored[1]["summary"], stored[1]["base_commit"])
    assert set(said[1]) == set(stored[1])


def read_by_java(site: Site, jar: Path, record: Record, folder: Path) -> Any:
    """The record's value as Java prints it, by the schema that the registry has for its id."""
    url = f"{site.registry.url}/schemas/ids/{framed_id(record.value)}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        (folder / "schema.avsc").write_text(json.load(answer)["schema"])
    (folder / "value.bin").write_bytes(record.value[5:])
    command = ["java", "-jar", str(jar), "fragtojson", "--schema-file", "schema.avsc", "value.bin"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def test_an_unknown_schema_id_waits_and_holds_up_nobody(site: Site) -> None:
    odd, sound = ids.uuid7(), ids.uuid7()
    registry, bus = SchemaRegistry(site.registry.url), site.bus()
    codec = Codec(CommittedIds(), RegistryIds(registry, CommittedIds()))
    try:
        await codec.wire.prepare()
        sent = [root(TaskSubmitted.model_validate(site.submission("x")), task_id=task_id) for task_id in (odd, sound)]
        values = [reframed(codec.encode_payload(sent[0].payload), 1_999_999_999)]
        values.append(codec.wire.outward(codec.encode_payload(sent[1].payload)))
        await bus.publish(
            [
                Message(TASKS, event.task_id.encode(), value, headers_of(event.envelope))
                for event, value in zip(sent, values, strict=True)
            ]
        )
    finally:
        await bus.close()
        await registry.close()
    until(lambda: site.is_planned(sound))
    [seen] = site.person.lines("log", "--from-bus", "tasks", "--task", odd)
    assert seen["schema_id"] == 1_999_999_999
    assert "unknown to the schema registry" in seen["problem"]
    assert seen["payload"] is None
    warned = (site.person.home / "planning.log").read_text()
    assert "schema id 1999999999 is unknown to the schema registry" in warned
    assert warned.count("1999999999") < 10, "it is tried again with pauses"


async def test_the_lag_of_a_stopped_agent_shows_in_kafkas_tools(
    tmp_path: Path, kafka: Kafka, schema_registry: Registry
) -> None:
    site = Site(tmp_path / "ann", kafka, schema_registry)
    submit = ("submit", "--repo", str(site.repo), "--author", "command", "--command", "true")
    with site.planning():
        first = site.person.told(*submit)["task_id"]
        until(lambda: site.is_planned(first))
        until(lambda: set(site.lag("gavotte.planning").values()) == {0})
    bus = site.bus()
    try:
        [record] = await bus.read(TASKS)
        await bus.publish([Message(TASKS, record.key, record.value, record.headers)] * 2)
    finally:
        await bus.close()
    assert site.lag("gavotte.planning")[site.prefix + TASKS] == 2
    said = site.follows_the_page(tmp_path, "lag")
    assert f"{site.prefix}gavotte.planning" in said


def test_a_topic_is_read_where_there_is_no_store(site: Site, tmp_path: Path) -> None:
    submitted = site.person.told("submit", "--repo", str(site.repo), "--author", "command", "--command", "true")
    passer_by = Person(tmp_path / "bob")
    passer_by.environ |= site.kafka.environment() | site.registry.environment()
    passer_by.environ |= {"GAVOTTE_BUS__PREFIX": site.prefix}
    [seen] = passer_by.lines("log", "--from-bus", "tasks", "--task", submitted["task_id"])
    assert seen["payload"]["title"] == "Run true"
    assert not passer_by.data.exists()
    away = {"GAVOTTE_STORE__BACKEND": "postgres", "GAVOTTE_STORE__URL": "postgresql://bob@127.0.0.1:9/gavotte"}
    passer_by.environ |= away
    done = passer_by.says("log", "--from-bus", "tasks", "--task", submitted["task_id"])
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1), done.stderr
    assert "the events of further agents may be unknown" in done.stderr
    for name in away:
        del passer_by.environ[name]
    del passer_by.environ["GAVOTTE_REGISTRY__URL"]
    [seen] = passer_by.lines("log", "--from-bus", "tasks", "--task", submitted["task_id"])
    assert seen["problem"], "the ids are not ours"


class Forwarder(socketserver.ThreadingTCPServer):
    """Stands before a server and can be cut off."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection(("127.0.0.1", port)) as behind:
                    answers = threading.Thread(target=self.pass_on, args=(behind, self.request), daemon=True)
                    answers.start()
                    self.pass_on(self.request, behind)
                    answers.join(5)

            def pass_on(self, source: socket.socket, target: socket.socket) -> None:
                with contextlib.suppress(OSError):
                    while piece := source.recv(65536):
                        target.sendall(piece)
                with contextlib.suppress(OSError):
                    target.shutdown(socket.SHUT_WR)

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def cut(self) -> None:
        """Nobody gets through any more."""
        self.shutdown()
        self.server_close()


def test_agents_that_know_their_ids_go_on_without_the_registry(
    tmp_path: Path, kafka: Kafka, schema_registry: Registry
) -> None:
    forwarder = Forwarder(schema_registry.port)
    site = Site(tmp_path / "ann", kafka, schema_registry)
    url = f"http://127.0.0.1:{forwarder.server_address[1]}/apis/ccompat/v7"
    site.person.environ["GAVOTTE_REGISTRY__URL"] = url
    submit = ("submit", "--repo", str(site.repo), "--author", "command", "--command", "true")
    with site.planning():
        forwarder.cut()
        while_down = site.person.told(*submit)["task_id"]
        until(lambda: site.is_planned(while_down))
    with site.planning():  # it starts with the ids of its last start
        restarted = site.person.told(*submit)["task_id"]
        until(lambda: site.is_planned(restarted))
    said = (site.person.home / "planning.log").read_text()
    assert f"{url} cannot be reached" in said
    assert "going on with the ids of an earlier start" in said
    (site.person.data / "registry-ids.json").unlink()
    stranger = subprocess.run(
        [sys.executable, "-P", "-m", "agents", "planning"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=site.person.environ, timeout=60,
    )  # fmt: skip
    assert stranger.returncode == 5
    assert f"{url} cannot be reached" in stranger.stderr
    assert "Traceback" not in stranger.stderr
