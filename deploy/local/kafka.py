"""A real Kafka broker on this machine without Docker or root: for tests, and to try Gavotte on Kafka.

Needs `java` (17 or newer) and `mvn`, which fetches the broker's jars once into `$XDG_CACHE_HOME/gavotte/kafka-VERSION`.
One node is broker and controller (KRaft). It acknowledges from the page cache: kill it as you like, but a power
cut may lose records; production wants three replicas with `min.insync.replicas=2`.

    python deploy/local/kafka.py               one broker in the foreground; prints the settings that use it

Only the standard library is used, so that this runs outside of any environment.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

if not __package__:  # run as a program: this folder is on the path, and its parents are not
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.local.serving import Failed, Server, fetched, foreground, free_port, if_free, java, maven, program, run

POM: Final = Path(__file__).with_name("kafka-pom.xml")
USUAL_PORT: Final = 9092
ADMIN: Final = "admin"
KEYSTORE_PASSWORD: Final = "local-broker"  # noqa: S105  # of a certificate that lives as long as the folder

SETTINGS: Final = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
inter.broker.listener.name=CLIENT
listeners=CLIENT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller},PROXIED://127.0.0.1:{behind}
advertised.listeners=CLIENT://127.0.0.1:{client},PROXIED://127.0.0.1:{front}
listener.security.protocol.map=CLIENT:{protocol},CONTROLLER:PLAINTEXT,PROXIED:{protocol}
log.dirs={folder}/data
auto.create.topics.enable=false
num.partitions=1
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
log.retention.check.interval.ms=1000
log.initial.task.delay.ms=1000
message.max.bytes={message_bytes_max}
"""
TLS: Final = """
ssl.keystore.type=PKCS12
ssl.keystore.location={folder}/broker.p12
ssl.keystore.password={keystore_password}
ssl.truststore.type=PEM
ssl.truststore.location={folder}/ca.pem
"""
SCRAM: Final = """
sasl.enabled.mechanisms=SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512
listener.name.client.scram-sha-512.sasl.jaas.config={jaas}
listener.name.proxied.scram-sha-512.sasl.jaas.config={jaas}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:{admin};User:ANONYMOUS
allow.everyone.if.no.acl.found=false
"""
JAAS: Final = (
    'org.apache.kafka.common.security.scram.ScramLoginModule required \\\n  username="{admin}" password="{password}";'
)
LOGGING: Final = """
rootLogger.level=WARN
rootLogger.appenderRef.out.ref=out
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{{ISO8601}} %-5p %c{{1}} - %m%n
"""


class Kafka(Server):
    """One broker in a folder of its own. Ports and data are kept over a restart; the folder stays the caller's.

    `users` (name -> password) makes every client log in with SCRAM-SHA-512 over TLS, as one of them, and switches
    authorization on: without a grant only the user `admin` may do anything. `tls` alone encrypts without a login.
    Clients that come through a proxy of the caller's use `front_port`: the proxy listens there and connects to
    `behind_port`.
    """

    name = "broker"
    start_seconds = 90.0
    stop_seconds = 30.0

    def __init__(
        self,
        folder: Path,
        *,
        users: Mapping[str, str] | None = None,
        tls: bool = False,
        message_bytes_max: int = 1_048_588,
        heap_mib: int = 384,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.users = dict(users or {})
        if self.users and ADMIN not in self.users:
            raise Failed(f"among the users there must be one named {ADMIN}, for the broker itself")
        self.tls = tls or bool(self.users)
        self.cluster_id = ""
        self.port = port or 0
        self.front_port = self.behind_port = self.controller_port = 0
        self._fixed_port = port
        self._message_bytes_max = message_bytes_max
        self._heap_mib = heap_mib
        self._settings = dict(settings or {})
        self._jars = Path()

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def servers(self) -> str:
        """What clients connect to, as `bootstrap.servers` wants it."""
        return f"127.0.0.1:{self.port}"

    @property
    def proxied_servers(self) -> str:
        """The same for clients that come through the caller's proxy."""
        return f"127.0.0.1:{self.front_port}"

    @property
    def cafile(self) -> Path | None:
        """The certificate to trust, where the broker speaks TLS."""
        return self.folder / "ca.pem" if self.tls else None

    def environment(self, user: str = ADMIN) -> dict[str, str]:
        """The GAVOTTE_* variables with which Gavotte uses this broker, as one of its users."""
        found = {"GAVOTTE_BUS__BACKEND": "kafka", "GAVOTTE_BUS__SERVERS": self.servers}
        if self.tls:
            found |= {"GAVOTTE_BUS__SECURITY": "sasl" if self.users else "tls", "GAVOTTE_BUS__CAFILE": str(self.cafile)}
        if self.users:
            found |= {"GAVOTTE_BUS__USER": user, "GAVOTTE_BUS__PASSWORD": self.users[user]}
        return found

    # -- its life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start, and return when the broker answers. The first start formats the folder and picks the ports."""
        self._jars = jars()
        if not self.cluster_id:
            self._prepare()
        for attempt in range(3):
            settings = str(self.folder / "server.properties")
            self._launch(self._java("kafka.Kafka", settings, heap_mib=self._heap_mib))
            try:
                self._wait_until_ready()
            except Failed:
                taken = "Address already in use" in self._last_words()
                if attempt == 2 or not taken or self._fixed_port is not None:
                    raise
                self._write_settings()
            else:
                return

    # -- Kafka's own tools --------------------------------------------------------------------------------------------

    def tool(self, name: str, *arguments: str, send: str | None = None, timeout_seconds: float = 60.0) -> str:
        """Run one of Kafka's command-line tools by its class and return what it prints; Failed if it fails.

        For instance `tool("org.apache.kafka.tools.TopicCommand", "--bootstrap-server", servers, "--list")`.
        """
        done = subprocess.run(
            self._java(name, *arguments, heap_mib=256),
            input=send,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        if done.returncode != 0:
            raise Failed(f"{name} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
        return done.stdout

    def client_settings(self, user: str = ADMIN) -> Path:
        """A file for `--command-config` of Kafka's own tools, to log in as one of the users."""
        path = self.folder / f"client-{user}.properties"
        lines = [f"security.protocol={self._protocol}"]
        if self.tls:
            lines += ["ssl.truststore.type=PEM", f"ssl.truststore.location={self.cafile}"]
        if self.users:
            jaas = JAAS.format(admin=user, password=self.users[user])
            lines += ["sasl.mechanism=SCRAM-SHA-512", f"sasl.jaas.config={jaas}"]
        path.write_text("\n".join(lines) + "\n")
        return path

    # -- inside -------------------------------------------------------------------------------------------------------

    @property
    def _protocol(self) -> str:
        if self.users:
            return "SASL_SSL"
        return "SSL" if self.tls else "PLAINTEXT"

    def _prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)  # it holds passwords
        (self.folder / "log4j2.properties").write_text(LOGGING.format())
        kept = self.folder / "cluster-id"
        if self.tls and not (self.folder / "ca.pem").exists():
            self._make_certificate()
        self._write_settings()
        if not kept.exists():
            cluster_id = _new_cluster_id()
            scram = [
                part
                for name, password in self.users.items()
                for part in ("-S", f"SCRAM-SHA-512=[name={name},password={password}]")
            ]
            settings = str(self.folder / "server.properties")
            self.tool("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", settings, *scram)
            kept.write_text(cluster_id)
        self.cluster_id = kept.read_text()

    def _write_settings(self) -> None:
        self.port = self._fixed_port or free_port()
        self.controller_port, self.behind_port, self.front_port = (free_port() for _ in range(3))
        template = SETTINGS + (TLS if self.tls else "") + (SCRAM if self.users else "")
        text = template.format(
            client=self.port,
            controller=self.controller_port,
            behind=self.behind_port,
            front=self.front_port,
            protocol=self._protocol,
            folder=self.folder,
            message_bytes_max=self._message_bytes_max,
            keystore_password=KEYSTORE_PASSWORD,
            admin=ADMIN,
            jaas=JAAS.format(admin=ADMIN, password=self.users.get(ADMIN, "")),
        )
        text += "".join(f"{name}={value}\n" for name, value in self._settings.items())
        (self.folder / "server.properties").write_text(text)

    def _make_certificate(self) -> None:
        """A self-signed certificate for 127.0.0.1 in the broker's key store, and as ca.pem for its clients."""
        store = ("-keystore", str(self.folder / "broker.p12"), "-storetype", "PKCS12")
        secret = ("-storepass", KEYSTORE_PASSWORD, "-alias", "broker")
        made = ("-keyalg", "EC", "-groupname", "secp256r1", "-validity", "3650", "-dname", "CN=localhost")
        extensions = ("-ext", "san=ip:127.0.0.1,dns:localhost", "-ext", "bc:c=ca:true")
        run("keytool", "-genkeypair", *store, *secret, *made, *extensions)
        run("keytool", "-exportcert", "-rfc", *store, *secret, "-file", str(self.folder / "ca.pem"))

    def _java(self, name: str, *arguments: str, heap_mib: int) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"
        return [*java(heap_mib), logging, "-cp", f"{self._jars}/*", name, *arguments]

    def _is_ready(self) -> bool:
        """Ask the broker itself: a port that answers may be another's."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as plain:
                if not self.tls:
                    return _cluster_id(plain) == self.cluster_id
                context = ssl.create_default_context(cafile=str(self.cafile))
                with context.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted:
                    return _knows_versions(encrypted)  # the certificate proves whose broker it is
        except (OSError, struct.error):
            return False


# -- its jars -------------------------------------------------------------------------------------------------------------


def version() -> str:
    """The version of Kafka that is run."""
    found = ET.parse(POM).findtext("{*}properties/{*}kafka.version")  # noqa: S314  # our own file
    if found is None:
        raise Failed(f"{POM} names no kafka.version")
    return found


def jars() -> Path:
    """The folder of the broker's jars; Maven fetches them if it is not there yet, once for all processes."""
    program("java")

    def fetch(folder: Path) -> None:
        maven("-f", str(POM), "dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}")

    return fetched(f"kafka-{version()}", fetch)


def _new_cluster_id() -> str:
    """A UUID as Kafka writes it; never one that starts like an option."""
    while (made := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return made


# -- the protocol, as far as readiness takes it ----------------------------------------------------------------------------


def _cluster_id(connection: socket.socket) -> str:
    """The id of the cluster, by a Metadata request (version 2) for no topics."""
    answer = _ask(connection, 3, 2, struct.pack(">i", 0))
    (brokers,) = struct.unpack_from(">i", answer)
    at = 4
    for _ in range(brokers):
        at += 4  # its id
        at += 2 + max(0, struct.unpack_from(">h", answer, at)[0])  # its host
        at += 4  # its port
        at += 2 + max(0, struct.unpack_from(">h", answer, at)[0])  # its rack
    (length,) = struct.unpack_from(">h", answer, at)
    return answer[at + 2 : at + 2 + length].decode() if brokers else ""


def _knows_versions(connection: socket.socket) -> bool:
    """Whether an ApiVersions request is answered without an error."""
    (error,) = struct.unpack_from(">h", _ask(connection, 18, 0, b""))
    return bool(error == 0)


def _ask(connection: socket.socket, api: int, api_version: int, body: bytes) -> bytes:
    name = b"local"
    request = struct.pack(">hhih", api, api_version, 7, len(name)) + name + body
    connection.sendall(struct.pack(">i", len(request)) + request)
    (length,) = struct.unpack(">i", _receive(connection, 4))
    return _receive(connection, length)[4:]


def _receive(connection: socket.socket, length: int) -> bytes:
    found = b""
    while len(found) < length:
        more = connection.recv(length - len(found))
        if not more:
            raise ConnectionResetError("the broker hung up")
        found += more
    return found


# -- in the foreground -----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one broker until SIGINT or SIGTERM, and print the settings that use it."""
    parser = argparse.ArgumentParser(description="Run a Kafka broker for Gavotte in the foreground.")
    parser.add_argument("--folder", type=Path, help="where its data is kept (default: nowhere, removed at the end)")
    parser.add_argument("--port", type=int, help="where it listens on 127.0.0.1 (default: 9092 if free, else any)")
    asked = parser.parse_args(arguments)

    def start(stack: contextlib.ExitStack) -> Kafka:
        folder = asked.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gavotte-kafka-")))
        return stack.enter_context(Kafka(folder.resolve(), port=asked.port or if_free(USUAL_PORT)))

    return foreground("kafka", start, lambda broker: f"{version()} on {broker.servers}")


if __name__ == "__main__":
    sys.exit(main())
