"""`/healthz`, `/readyz` and `/metrics` of one agent process over HTTP; as a program, the health check of a container.

`python -P -m agents.health [PATH]` asks the process that the same settings describe, and exits 0 where it answers 200.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Self

from contracts.errors import GavotteError, Unavailable

if TYPE_CHECKING:
    from agents.settings import Settings
    from agents.telemetry import Metrics
    from bus.port import Bus
    from contracts.topology import Agent
    from state_store.port import StateStore

log = logging.getLogger(__name__)

REQUEST_BYTES_MAX: Final = 8 * 1024
REQUEST_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 2.0
"""A dependency that does not answer within this time counts as down."""
FRESH_SECONDS: Final = 1.0
"""Several readers at once are answered from one look."""
CHECK_SECONDS: Final = 5.0
ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  where a server listens, a check must still name
JSON_TYPE: Final = "application/json"


@dataclass(frozen=True)
class Answer:
    """A response: its status, content type and body."""

    status: HTTPStatus
    content_type: str
    body: bytes

    @classmethod
    def plain(cls, code: HTTPStatus, /, **fields: Any) -> Self:
        return cls(code, JSON_TYPE, json.dumps(fields).encode() + b"\n")


@dataclass
class Health:
    """How one process is. `taking` says that it takes records; once `stop` is set it takes no more."""

    agent: Agent
    topics: tuple[str, ...]
    store: StateStore
    bus: Bus
    metrics: Metrics | None
    stop: asyncio.Event
    taking: bool = False
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _looked: float = -FRESH_SECONDS
    _causes: dict[str, str] = field(default_factory=dict)

    async def answer(self, path: str, accept: str) -> Answer:
        """What a GET of the path gives."""
        match path:
            case "/healthz":
                return Answer.plain(HTTPStatus.OK, status="ok", role=self.agent.role)
            case "/readyz":
                causes = await self._look()
                if not causes:
                    return Answer.plain(HTTPStatus.OK, status="ready", role=self.agent.role)
                return Answer.plain(
                    HTTPStatus.SERVICE_UNAVAILABLE, status="not ready", role=self.agent.role, causes=causes
                )
            case "/metrics" if self.metrics is not None:
                await self._look()
                return Answer(HTTPStatus.OK, *self.metrics.page(accept))
            case _:
                return Answer.plain(HTTPStatus.NOT_FOUND, status="not found", known=["/healthz", "/readyz", "/metrics"])

    async def _look(self) -> dict[str, str]:
        """Ask bus and store; returns what stands in the way, by name."""
        async with self._looking:
            if asyncio.get_running_loop().time() - self._looked > FRESH_SECONDS:
                await self._look_anew()
                self._looked = asyncio.get_running_loop().time()
            return self._own_cause() | self._causes

    def _own_cause(self) -> dict[str, str]:
        if self.stop.is_set():
            return {"process": "it is stopping"}
        return {} if self.taking else {"process": "it is starting"}

    async def _look_anew(self) -> None:
        from agents.telemetry import Reading

        self._causes = {}
        lag, work, kills = await asyncio.gather(
            self._ask("bus", self.bus.lag(self.agent.group, self.topics)),
            self._ask("store", self.store.open_work(self.agent.role)),
            self._ask("store", self.store.kills()),
        )
        if self.metrics is not None:
            ready = not self._own_cause() and not self._causes
            active = None if kills is None else Counter(kill.scope for kill in kills if not kill.lifted)
            self.metrics.read(
                Reading(
                    lag=lag,
                    work=work,
                    kills=None if active is None else {scope: active[scope] for scope in ("all", "role", "task")},
                    ready=ready,
                )
            )

    async def _ask(self, name: str, question: Awaitable[Any]) -> Any:
        """The answer, or None with the cause noted under the name."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                return await question
        except TimeoutError:
            self._causes[name] = f"no answer within {LOOK_SECONDS:g} s"
        except GavotteError as error:
            self._causes[name] = error.message
        return None


class HealthServer:
    """Serves `Health` on a port: `async with HealthServer(health, host, port) as server`; port 0 takes a free one."""

    def __init__(self, answer: Callable[[str, str], Awaitable[Answer]], host: str, port: int) -> None:
        self._answer = answer
        self._host = host
        self._port = port

    async def __aenter__(self) -> Self:
        try:
            self._server = await asyncio.start_server(self._serve, self._host, self._port, limit=REQUEST_BYTES_MAX)
        except OSError as error:
            raise Unavailable(
                f"telemetry.port: {self._host}:{self._port} cannot be listened on: {error.strerror}",
                hint="with telemetry.port 0 each process takes a free one",
            ) from None
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    @property
    def address(self) -> str:
        """`http://HOST:PORT`."""
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(REQUEST_SECONDS):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, answer = await self._answered(head)
            writer.write(_response(answer, with_body=method != "HEAD"))
            async with asyncio.timeout(REQUEST_SECONDS):
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def _answered(self, head: str) -> tuple[str, Answer]:
        first, *rest = head.split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return "GET", Answer.plain(HTTPStatus.BAD_REQUEST, status="this is no HTTP/1 request")
        if words[0] not in {"GET", "HEAD"}:
            return words[0], Answer.plain(HTTPStatus.METHOD_NOT_ALLOWED, status="GET and HEAD alone")
        accept = next((line.partition(":")[2].strip() for line in rest if line.lower().startswith("accept:")), "")
        return words[0], await self._answer(words[1].partition("?")[0], accept)


def _response(answer: Answer, *, with_body: bool) -> bytes:
    head = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\nContent-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (answer.body if with_body else b"")


def check(settings: Settings, path: str) -> tuple[bool, str]:
    """Ask the process that these settings describe: whether it answers 200, and its words."""
    import http.client

    port = settings.telemetry.port
    if not port:
        return False, "telemetry.port names no port to ask at"
    host = ANYWHERE.get(settings.telemetry.host, settings.telemetry.host)
    connection = http.client.HTTPConnection(host, port, timeout=CHECK_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status == HTTPStatus.OK, response.read(REQUEST_BYTES_MAX).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return False, f"{host}:{port} does not answer: {error}"
    finally:
        connection.close()


def main(arguments: list[str]) -> int:
    """The health check of a container: 0 where the process is well, 1 where it is not."""
    from agents.settings import load_settings

    try:
        well, words = check(load_settings(), arguments[0] if arguments else "/healthz")
    except GavotteError as error:
        well, words = False, error.message
    print(words)  # noqa: T201  the container runtime keeps it with the verdict
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
