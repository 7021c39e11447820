"""A collector of traces for tests: it takes OTLP over HTTP as any back end does, and keeps the spans."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Received
from opentelemetry.proto.trace.v1.trace_pb2 import Status

KINDS = {kind: name.removeprefix("SPAN_KIND_").lower() for name, kind in Received.SpanKind.items()}


@dataclass(frozen=True)
class Told:
    """A span as it came: ids in hex, `parent_id` empty for a root, times in nanoseconds."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    began_ns: int
    ended_ns: int
    attributes: dict[str, Any]
    links: tuple[tuple[str, str], ...]
    failed: bool


class Collector:
    """`with Collector() as collector`; its `url` is an OTEL_EXPORTER_OTLP_ENDPOINT. `status` is what it answers."""

    def __init__(self) -> None:
        self.status = 200
        self.requests = 0
        self.resources: list[dict[str, Any]] = []
        self._told: list[Told] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                status = collector.take(self.path, self.headers["Content-Type"], body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def spans(self) -> list[Told]:
        with self._lock:
            return list(self._told)

    def take(self, path: str, content_type: str, body: bytes) -> int:
        """One request; its status."""
        with self._lock:
            self.requests += 1
            if self.status != 200:
                return self.status
            if path != "/v1/traces" or content_type != "application/x-protobuf":
                return 404
            for batch in ExportTraceServiceRequest.FromString(body).resource_spans:
                resource = plain(batch.resource.attributes)
                self.resources.append(resource)
                self._told += [told(resource, span) for scope in batch.scope_spans for span in scope.spans]
            return 200


def told(resource: dict[str, Any], span: Received) -> Told:
    return Told(
        service=resource["service.name"],
        name=span.name,
        kind=KINDS[span.kind],
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        began_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        attributes=plain(span.attributes),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        failed=span.status.code == Status.STATUS_CODE_ERROR,
    )


def plain(attributes: Any) -> dict[str, Any]:
    """Attributes as a dict."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value") or "string_value") for one in attributes}


def tree(spans: list[Told]) -> str:
    """The spans as an indented tree, for a test that fails and for people."""
    children: dict[str, list[Told]] = {}
    ids = {span.span_id for span in spans}
    for span in sorted(spans, key=lambda span: span.began_ns):
        children.setdefault(span.parent_id if span.parent_id in ids else "", []).append(span)

    def lines(parent: str, depth: int) -> list[str]:
        found = []
        for span in children.get(parent, []):
            orphan = " (its parent is missing)" if span.parent_id and span.parent_id not in ids else ""
            found.append(f"{'  ' * depth}{span.name} [{span.service} {span.kind}]{orphan}")
            found += lines(span.span_id, depth + 1)
        return found

    return "\n".join(lines("", 0))
