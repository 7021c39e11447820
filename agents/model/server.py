"""A server that speaks the Messages API: answers from a script or a journal, faults by schedule, a log of every call.

For tests of one's own, and for trying things without a key: `gavotte model-server`, or in a program
`async with serving(ModelServer(ScriptAnswers(script))) as url`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TextIO

from agents.model import wire
from agents.model.api_rules import faults_of
from agents.model.faults import STATUS_ERRORS, Fault, error_body, spoiled
from agents.model.script import Answers, Asked, Given
from agents.model.stream import pieces
from contracts import ids
from contracts.errors import Unavailable

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

BYTES_PER_TOKEN: Final = 4
CACHED_TOKENS_MIN: Final = 512
REQUESTS_KEPT_MAX: Final = 2000
DRIPS: Final = 20
STOP_SECONDS: Final = 2


@dataclass
class Seen:
    """One request as it came, and what it was told. Times are microseconds; `fault` is empty on a good day."""

    number: int
    time_us: int
    call: str
    role: str
    task: str
    model: str
    sha256: str
    bytes: int
    stream: bool
    request_id: str
    status: int = 0
    fault: str = ""
    stop_reason: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    finished: bool = False


class ModelServer:
    """The state of one server: whom it asks for answers, which faults are due, what it has seen."""

    def __init__(
        self, answers: Answers, faults: Sequence[Fault] = (), *, key: str = "", calls_file: TextIO | None = None
    ) -> None:
        self.seen: list[Seen] = []
        self._answers = answers
        self._faults = faults
        self._key = key
        self._calls_file = calls_file
        self._struck: Counter[int] = Counter()
        self._answered: Counter[tuple[str, str, bool]] = Counter()
        self._cached: set[str] = set()
        self._requests: OrderedDict[int, bytes] = OrderedDict()

    def app(self) -> Starlette:
        """The ASGI application."""
        from starlette.applications import Starlette
        from starlette.routing import Route

        return Starlette(
            routes=[
                Route("/", self._greet),
                Route("/v1/messages", self._messages, methods=["POST"]),
                Route("/v1/messages/count_tokens", self._count_tokens, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/calls", self._calls),
                Route("/calls/{number:int}/request", self._request),
            ]
        )

    # -- the Messages API

    async def _messages(self, request: Request) -> Response:
        raw = await request.body()
        body = parsed(raw)
        seen = self._note(request, raw, body)
        try:
            return await self._handled(request, body, seen)
        finally:
            if self._calls_file is not None:
                self._calls_file.write(json.dumps(asdict(seen)) + "\n")
                self._calls_file.flush()

    async def _handled(self, request: Request, body: Any, seen: Seen) -> Response:
        refused = self._refused(request, body, seen)
        if refused is not None:
            return refused
        asked = Asked(
            number=seen.number,
            nth=0,
            body=body,
            sha256=seen.sha256,
            role=seen.role,
            task=seen.task,
            call=seen.call,
        )
        asked = replace(asked, nth=self._answered[_row_of(asked)] + 1)
        fault = self._due(asked)
        seen.fault = fault.kind if fault else ""
        if fault is not None and fault.kind in STATUS_ERRORS:
            return self._error(fault.kind, int(fault.kind), seen, fault.retry_after)
        return await self._answer(asked, seen, fault)

    async def _answer(self, asked: Asked, seen: Seen, fault: Fault | None) -> Response:
        """The script's answer, as it comes out under the fault."""
        given = self._answers.answer(asked)
        if given is None:
            said = f"the script has no answer for request {asked.number} (role {asked.role!r}, tools {asked.tools})"
            return self._invalid(said, seen)
        if fault is None:
            self._answered[_row_of(asked)] += 1
        else:
            given = spoiled(fault.kind, given, asked, fault.text)
        await asyncio.sleep(given.delay_seconds)
        message = self._message(asked, given, seen)
        seen.stop_reason = given.stop_reason
        seen.tokens_in, seen.tokens_out = wire.usage_of(message).tokens_in_all, message["usage"]["output_tokens"]
        seen.status = 200
        parts = list(streamed(message)) if seen.stream else [json.dumps(message, ensure_ascii=False).encode()]
        return self._sending(seen, parts, fault)

    def _message(self, asked: Asked, given: Given, seen: Seen) -> dict[str, Any]:
        return {
            "id": f"msg_{seen.request_id.removeprefix('req_')}",
            "type": "message",
            "role": "assistant",
            "model": asked.model,
            "content": given.content,
            "stop_reason": given.stop_reason,
            "stop_sequence": None,
            "usage": {**self._usage(asked, given), **given.usage},
        }

    def _usage(self, asked: Asked, given: Given) -> dict[str, Any]:
        """Tokens by length; what is marked to be cached is written the first time and read from then on."""
        prefix = json.dumps([asked.body.get("tools"), asked.body.get("system")])
        tokens = len(json.dumps(asked.body, ensure_ascii=False).encode()) // BYTES_PER_TOKEN + 1
        cached = min(len(prefix) // BYTES_PER_TOKEN, tokens)
        if '"cache_control"' not in prefix or cached < CACHED_TOKENS_MIN:
            cached = 0
        known = prefix in self._cached
        self._cached.add(prefix)
        return {
            "input_tokens": tokens - cached,
            "cache_creation_input_tokens": 0 if known else cached,
            "cache_read_input_tokens": cached if known else 0,
            "output_tokens": len(json.dumps(given.content)) // BYTES_PER_TOKEN + 1,
        }

    def _sending(self, seen: Seen, parts: list[bytes], fault: Fault | None) -> Response:
        """The bytes, at once or under a fault of the line. A body that ends before its length is a cut connection."""
        from starlette.responses import StreamingResponse

        kind = fault.kind if fault else ""
        headers = {"request-id": seen.request_id}
        media = "text/event-stream" if seen.stream else "application/json"
        if kind == "cut":
            headers["content-length"] = str(sum(len(part) for part in parts))
            parts = [b"".join(parts)[: sum(len(part) for part in parts) // 2]]
        elif kind == "malformed":
            parts = broken(parts, stream=seen.stream)
        seconds = fault.seconds if fault is not None and kind == "drip" else 0.0

        async def sent() -> AsyncIterator[bytes]:
            for part in drops(parts) if seconds else parts:
                yield part
                await asyncio.sleep(seconds / DRIPS)
            seen.finished = kind != "cut"

        return StreamingResponse(sent(), 200, headers, media)

    def _note(self, request: Request, raw: bytes, body: Any) -> Seen:
        """Write the request down before anything is said."""
        told = body if isinstance(body, dict) else {}
        seen = Seen(
            number=len(self.seen) + 1,
            time_us=ids.now_us(),
            call=request.headers.get("gavotte-call", ""),
            role=request.headers.get("gavotte-role", ""),
            task=request.headers.get("gavotte-task", ""),
            model=str(told.get("model", "")),
            sha256=hashlib.sha256(raw).hexdigest(),
            bytes=len(raw),
            stream=told.get("stream") is True,
            request_id=f"req_{ids.uuid7().replace('-', '')}",
        )
        self.seen.append(seen)
        self._requests[seen.number] = raw
        while len(self._requests) > REQUESTS_KEPT_MAX:
            self._requests.popitem(last=False)
        return seen

    def _refused(self, request: Request, body: Any, seen: Seen) -> Response | None:
        """What the API itself would refuse."""
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        key = bearer or request.headers.get("x-api-key", "")
        if not key or (self._key and key != self._key):
            return self._error("401", 401, seen, None)
        wrong = faults_of(body)
        return self._invalid(wrong, seen) if wrong else None

    def _due(self, asked: Asked) -> Fault | None:
        """The first fault of the schedule that strikes this request."""
        for index, fault in enumerate(self._faults):
            if fault.strikes(asked, self._struck[index]):
                self._struck[index] += 1
                return fault
        return None

    def _error(self, kind: str, status: int, seen: Seen, retry_after: float | None) -> Response:
        from starlette.responses import Response

        seen.status, seen.finished = status, True
        headers = {"request-id": seen.request_id}
        if retry_after is not None:
            headers["retry-after"] = f"{retry_after:g}"
        return Response(error_body(kind, seen.request_id), status, headers, "application/json")

    def _invalid(self, message: str, seen: Seen) -> Response:
        from starlette.responses import JSONResponse

        seen.status, seen.finished = 400, True
        error = {"type": "invalid_request_error", "message": message}
        body = {"type": "error", "error": error, "request_id": seen.request_id}
        return JSONResponse(body, 400, {"request-id": seen.request_id})

    # -- around it

    async def _count_tokens(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        return JSONResponse({"input_tokens": len(await request.body()) // BYTES_PER_TOKEN + 1})

    async def _models(self, _request: Request) -> Response:
        from starlette.responses import JSONResponse

        return JSONResponse({"data": [], "has_more": False, "first_id": None, "last_id": None})

    async def _calls(self, _request: Request) -> Response:
        from starlette.responses import JSONResponse

        return JSONResponse([asdict(seen) for seen in self.seen])

    async def _request(self, request: Request) -> Response:
        from starlette.responses import Response

        raw = self._requests.get(request.path_params["number"])
        return Response(raw, 200, media_type="application/json") if raw is not None else Response(status_code=404)

    async def _greet(self, _request: Request) -> Response:
        from starlette.responses import PlainTextResponse

        return PlainTextResponse("gavotte model-server: POST /v1/messages, GET /calls\n")


def _row_of(asked: Asked) -> tuple[str, str, bool]:
    """What a request is the n-th of: its role and task, triage apart."""
    return asked.role, asked.task, asked.is_triage


def parsed(raw: bytes) -> Any:
    """The JSON of a body, None where it is none."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def streamed(message: dict[str, Any]) -> Iterator[bytes]:
    """A message as server-sent events."""
    for name, data in pieces(message):
        yield f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def broken(parts: list[bytes], *, stream: bool) -> list[bytes]:
    """Bytes that arrive whole and make no sense."""
    if not stream:
        return [parts[0][: len(parts[0]) * 2 // 3]]
    return [parts[0], b'event: content_block_start\ndata: {"type": "content_block_start", "index": \n\n', *parts[2:]]


def drops(parts: list[bytes]) -> list[bytes]:
    """The same bytes in small pieces."""
    whole = b"".join(parts)
    size = len(whole) // DRIPS + 1
    return [whole[at : at + size] for at in range(0, len(whole), size)]


# -- on a port ---------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def serving(server: ModelServer, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """The server on a port, 0 for a free one; gives its URL. Raises Unavailable where the port is taken."""
    import uvicorn

    listening = listen(host, port)
    config = uvicorn.Config(
        server.app(), log_config=None, log_level="critical", access_log=False, lifespan="off", ws="none", http="h11",
        timeout_graceful_shutdown=STOP_SECONDS,
    )  # fmt: skip
    up = asyncio.Event()

    class Quiet(uvicorn.Server):
        """Says when it listens, and leaves signals to the program it runs in."""

        def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]  # any will do
            return contextlib.nullcontext()

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            up.set()

    running = Quiet(config)
    served = asyncio.create_task(running.serve(sockets=[listening]))
    try:
        await up.wait()
        bound = listening.getsockname()[1]
        yield f"http://{f'[{host}]' if ':' in host else host}:{bound}"
    finally:
        running.should_exit = True
        await served


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound; raises Unavailable."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise Unavailable(
            f"cannot listen on {host}:{port}: {error.strerror}", hint="--port 0 takes a free one"
        ) from None
    return listening
