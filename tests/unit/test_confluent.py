"""The client of a schema registry against a server that says what a test wants, and the ids of topics above it."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import ipaddress
import json
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from contracts.codec import Codec, framed_id, reframed
from contracts.confluent import SchemaRegistry, push, subject_of
from contracts.errors import NotFound, Refused, Skew, Unavailable, Usage
from contracts.events import PlanRejected, TaskSubmitted
from contracts.registry import CommittedIds, Schema, committed_schemas
from contracts.wire_ids import RegistryIds

OFFSET = 40
"""What this registry's ids are above ours."""


class Server:
    """Registry of the committed schemas, under ids of its own; `answers` overrides paths, `asked` is what came."""

    def __init__(self, cert: Path | None = None) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.known = {subject_of(schema): schema for schema in committed_schemas()}
        self.pause = threading.Event()
        self.pause.set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                server.asked.append((self.command, self.path, self.headers.get("authorization", "")))
                server.pause.wait(20)
                status, said = server.answer(self.command, self.path.partition("?")[0], body)
                raw = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = do_PUT = handle_any  # noqa: N815  as the server calls them

            def log_message(self, *_: Any) -> None:
                """Silent."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        scheme = "http"
        if cert is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(cert)
            self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self.http.server_address[1]}/api"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        path = path.removeprefix("/api")
        for known in (f"{method} {path}", path):
            if known in self.answers:
                return self.answers[known]
        kind, _, rest = path.removeprefix("/").partition("/")
        if kind == "config":
            return 200, {"compatibility": "FULL_TRANSITIVE"}
        if kind == "subjects" and rest in self.known:
            return 200, {"id": self.known[rest].id + OFFSET, "subject": rest, "version": 1}
        if kind == "schemas":
            number = int(rest.rpartition("/")[2]) - OFFSET
            for schema in self.known.values():
                if schema.id == number:
                    return 200, {"schema": schema.text}
        return 404, {"error_code": 40403, "message": "not here"}

    def stop(self) -> None:
        self.pause.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.stop()


@pytest.fixture
async def registry(server: Server) -> AsyncIterator[SchemaRegistry]:
    found = SchemaRegistry(server.url)
    yield found
    await found.close()


def value() -> bytes:
    return Codec(CommittedIds()).encode_payload(PlanRejected(reason="no", reason_code="no"))


# -- the client --------------------------------------------------------------------------------------------------------


async def test_basic_login_and_bearer_token_are_sent(server: Server) -> None:
    plain, token = SchemaRegistry(server.url, user="me", password="pw"), SchemaRegistry(server.url, token="abc")
    try:
        await plain.schema(OFFSET + 1)
        await token.schema(OFFSET + 1)
    finally:
        await plain.close()
        await token.close()
    assert [each[2] for each in server.asked] == ["Basic " + base64.b64encode(b"me:pw").decode(), "Bearer abc"]


@pytest.mark.parametrize(
    ("status", "said", "error", "words"),
    [
        (401, {"error_code": 401, "message": "who?"}, Refused, "does not let us in"),
        (403, b"", Refused, "does not let us in"),
        (500, {"error_code": 50001, "message": "store"}, Unavailable, "says 500 store"),
        (503, b"<html>busy</html>", Unavailable, "says 503"),
        (429, b"", Unavailable, "says 429"),
        (404, b"<html>nothing</html>", Usage, "no schema registry answers"),
        (200, b"<html>hello</html>", Usage, "no schema registry answers"),
        (302, b"", Usage, "no schema registry answers"),
        (200, b"[" * (4 * 1024 * 1024 + 1), Usage, "is it a schema registry"),
        (422, {"error_code": 42201, "message": "bad schema"}, Refused, "bad schema"),
    ],
)
async def test_each_answer_has_its_error(
    server: Server, registry: SchemaRegistry, status: int, said: Any, error: type[Exception], words: str
) -> None:
    server.answers["/schemas/ids/7"] = (status, said)
    with pytest.raises(error, match=words):
        await registry.schema(7)


async def test_a_registry_that_is_slow_or_gone_is_unavailable(server: Server) -> None:
    slow = SchemaRegistry(server.url, timeout_seconds=0.2)
    server.pause.clear()
    with pytest.raises(Unavailable, match=r"did not answer within 0\.2 s"):
        await slow.schema(1)
    await slow.close()
    other = Server()
    other.stop()
    gone = SchemaRegistry(other.url)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await gone.schema(1)
    await gone.close()


@pytest.mark.parametrize("url", ["registry:8081", "ftp://x", "http://", "http://me:pw@host/x"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(Usage, match=r"registry\.url") as caught:
        SchemaRegistry(url)
    assert "pw@" not in str(caught.value)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed one for 127.0.0.1: (key and certificate, certificate)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    both, ca = folder / "server.pem", folder / "ca.pem"
    both.write_bytes(private + public)
    ca.write_bytes(public)
    return both, ca


async def test_tls_trusts_the_named_authority_and_no_other(tmp_path: Path) -> None:
    both, ca = certificate(tmp_path)
    server = Server(both)
    trusted, stranger = SchemaRegistry(server.url, cafile=ca), SchemaRegistry(server.url)
    try:
        assert await trusted.schema(OFFSET + 1) is not None
        with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await stranger.schema(OFFSET + 1)
        with pytest.raises(Usage, match="cafile"):
            await SchemaRegistry(server.url, cafile=tmp_path / "none.pem").schema(1)
    finally:
        await trusted.close()
        await stranger.close()
        server.stop()


async def test_a_refused_schema_is_named_with_what_is_incompatible(server: Server, registry: SchemaRegistry) -> None:
    ours = CommittedIds().by_type("PlanRejected", 1)
    fields = json.loads(ours.text)
    fields["fields"].append({"name": "who", "type": "string"})
    subject = subject_of(ours)
    server.answers[f"POST /subjects/{subject}/versions"] = (409, {"error_code": 409, "message": "incompatible"})
    newer = Schema(900, "PlanRejected", 2, json.dumps(fields))
    with pytest.raises(Refused, match=r"refuses PlanRejected v2: incompatible"):
        await push(registry, newer)  # the registry shows nobody its versions
    server.answers[f"GET /subjects/{subject}/versions"] = (200, [1])
    server.answers[f"/subjects/{subject}/versions/1"] = (200, {"schema": ours.text})
    with pytest.raises(Refused, match=r"PlanRejected v2: cannot read v1: /who: is missing and has no default"):
        await push(registry, newer)
    assert ("PUT", f"/api/config/{subject}", "") in server.asked  # held to FULL_TRANSITIVE, whatever the default is


# -- the ids of topics -------------------------------------------------------------------------------------------------


async def test_ids_travel_as_the_registry_has_them_and_are_stored_as_ours(registry: SchemaRegistry) -> None:
    wire, stored = RegistryIds(registry, CommittedIds()), value()
    await wire.prepare()
    travelling = wire.outward(stored)
    ours = framed_id(stored)
    assert ours is not None
    assert framed_id(travelling) == ours + OFFSET
    assert travelling[5:] == stored[5:]
    assert await wire.inward(travelling) == stored


async def test_what_was_learnt_is_never_asked_again(server: Server, registry: SchemaRegistry) -> None:
    wire, stored = RegistryIds(registry, CommittedIds()), value()
    await wire.prepare()
    server.asked.clear()
    await wire.prepare()
    for _ in range(3):
        assert await wire.inward(wire.outward(stored)) == stored
    assert server.asked == []


async def test_an_id_that_others_registered_is_resolved_by_its_schema(server: Server, registry: SchemaRegistry) -> None:
    ours = CommittedIds().by_type("PlanRejected", 1)
    written_otherwise = {"doc": "by another tool", **json.loads(ours.text), "x": 1}
    server.answers["/schemas/ids/977"] = (200, {"schema": json.dumps(written_otherwise, indent=7)})
    wire = RegistryIds(registry, CommittedIds())
    assert await wire.inward(reframed(value(), 977)) == value()


@pytest.mark.parametrize(
    "answer",
    [
        (404, {"error_code": 40403, "message": "no"}),
        (200, {"schema": '"string"'}),
        (200, {"schema": '{"type": "record", "name": "Other", "fields": []}'}),
        (200, {"schema": "nonsense"}),
        (200, {}),
    ],
)
async def test_an_unknown_id_is_skew_and_asked_for_once_in_a_while(
    server: Server, registry: SchemaRegistry, answer: tuple[int, Any]
) -> None:
    server.answers["/schemas/ids/978"] = answer
    wire = RegistryIds(registry, CommittedIds())
    for _ in range(3):
        with pytest.raises(Skew, match="978"):
            await wire.inward(reframed(value(), 978))
    assert len(server.asked) == 1


async def test_bytes_without_a_frame_are_left_to_the_codec(registry: SchemaRegistry) -> None:
    wire = RegistryIds(registry, CommittedIds())
    for raw in (b"", b"\x00\x00", b"\x01abcdef"):
        assert await wire.inward(raw) == raw == wire.outward(raw)


async def test_many_waiting_for_one_id_ask_once(server: Server, registry: SchemaRegistry) -> None:
    wire, travelling = RegistryIds(registry, CommittedIds()), reframed(value(), (framed_id(value()) or 0) + OFFSET)
    found = await asyncio.gather(*(wire.inward(travelling) for _ in range(20)))
    assert set(found) == {value()}
    assert len(server.asked) == 1


async def test_while_the_registry_is_down_the_ids_of_an_earlier_start_serve(server: Server, tmp_path: Path) -> None:
    kept = tmp_path / "registry-ids.json"
    registry = SchemaRegistry(server.url)
    first = RegistryIds(registry, CommittedIds(), memory=kept)
    await first.prepare()
    server.answers = {f"/subjects/{subject}": (503, b"") for subject in server.known}
    server.answers["/schemas/ids/999"] = (503, b"")
    second = RegistryIds(registry, CommittedIds(), memory=kept)
    await second.prepare()
    assert second.outward(value()) == first.outward(value())
    assert await second.inward(first.outward(value())) == value()
    with pytest.raises(Unavailable):  # what was never learnt waits for the registry
        await second.inward(reframed(value(), 999))
    never_there = RegistryIds(registry, CommittedIds(), memory=tmp_path / "none.json")
    with pytest.raises(Unavailable):
        await never_there.prepare()
    with pytest.raises(Unavailable):
        never_there.outward(value())
    elsewhere = json.loads(kept.read_text()) | {"url": "http://another/registry"}
    kept.write_text(json.dumps(elsewhere))
    with pytest.raises(Unavailable):  # the ids of one registry mean nothing to another
        await RegistryIds(registry, CommittedIds(), memory=kept).prepare()
    await registry.close()


async def test_a_memory_that_cannot_be_written_or_read_stops_nothing(
    server: Server, registry: SchemaRegistry, tmp_path: Path
) -> None:
    await RegistryIds(registry, CommittedIds(), memory=tmp_path / "no" / "such" / "folder.json").prepare()
    broken = tmp_path / "broken.json"
    for text in ("", "[]", '{"ids": 3}', "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")):
        broken.write_text(text)
        server.answers = {f"/subjects/{subject}": (503, b"") for subject in server.known}
        with pytest.raises(Unavailable):
            await RegistryIds(registry, CommittedIds(), memory=broken).prepare()


async def test_only_what_is_published_is_looked_up(server: Server, registry: SchemaRegistry) -> None:
    submitted = CommittedIds().by_type(TaskSubmitted.event_type(), 1)
    await RegistryIds(registry, CommittedIds()).prepare({submitted.id})
    assert [path for _, path, _ in server.asked] == [f"/api/subjects/{subject_of(submitted)}?normalize=true"]


async def test_without_leave_to_register_a_missing_schema_is_named(server: Server, registry: SchemaRegistry) -> None:
    submitted = CommittedIds().by_type("TaskSubmitted", 1)
    del server.known[subject_of(submitted)]
    with pytest.raises(NotFound, match=r"TaskSubmitted v1 is not in the schema registry.*gavotte contracts push"):
        await RegistryIds(registry, CommittedIds(), register=False).prepare()
    assert {method for method, _, _ in server.asked} == {"POST"}
    assert not any(path.endswith("/versions") for _, path, _ in server.asked)
