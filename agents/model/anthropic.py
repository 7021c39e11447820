"""The Messages API through its makers' client: Anthropic itself, a gateway, or any server that speaks the same.

One call is one HTTP request: the client tries nothing twice, sends the bytes it is given, and what comes back is read
here, so that the journal has both. The key goes into the header of the request and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from agents.model import wire
from agents.model.breaker import Breaker
from agents.model.port import Call, Failure, Question, Reply, Route, Said
from agents.model.prices import PriceTable
from agents.model.stream import Assembly
from contracts import ids
from contracts.errors import Refused

if TYPE_CHECKING:
    from anthropic import APIStatusError, AsyncAnthropic, AsyncStream

    from agents.settings import Settings

ANTHROPIC_URL: Final = "https://api.anthropic.com"
PATH: Final = "/v1/messages"
CONNECT_SECONDS: Final = 10.0
STREAMED_ABOVE_TOKENS: Final = 1024
"""A longer answer is streamed: it arrives as it is made, and a server that stalls is noticed at once."""
SAID_CHARACTERS_MAX: Final = 500
PROBE_TOKENS: Final = 16
MARGIN_SECONDS: Final = 1.0
"""Between the end of a call and that of its reservation: who is late hears first that the provider was."""

STATUS_KINDS: Final = {
    401: "authentication",
    402: "billing",
    403: "authentication",
    404: "not_found",
    408: "server_error",
    409: "server_error",
    429: "rate_limit",
    503: "overloaded",
    529: "overloaded",
}
"""What a status means; other 4xx are `request`, other 5xx `server_error`."""
ERROR_KINDS: Final = {
    "authentication_error": "authentication",
    "permission_error": "authentication",
    "billing_error": "billing",
    "not_found_error": "not_found",
    "rate_limit_error": "rate_limit",
    "overloaded_error": "overloaded",
    "api_error": "server_error",
    "timeout_error": "server_error",
    "invalid_request_error": "request",
    "request_too_large": "request",
}
"""What an error says inside a stream that began well."""


@dataclass
class Provider:
    """One server: where it is, what opens it, and how it has been lately."""

    url: str
    api_key: str
    breaker: Breaker
    client: AsyncAnthropic | None = None
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)


class AnthropicModel:
    """Asks over HTTP. Raises Refused at once where there is neither a key nor a server of one's own."""

    name = "anthropic"

    def __init__(
        self,
        settings: Settings,
        prices: PriceTable,
        *,
        clock: Callable[[], int] = ids.now_us,
        breaker: Callable[[str], Breaker] = Breaker,
    ) -> None:
        self._settings = settings
        self._prices = prices
        self._clock = clock
        self._new_breaker = breaker
        self._providers: dict[str, Provider] = {}
        own, other = settings.model.api_key, settings.model.fallback_api_key
        if own is None and not settings.model.url:
            raise Refused("the model's provider is anthropic and there is no key", hint="set ANTHROPIC_API_KEY")
        self._keys = tuple(key.get_secret_value() if key else "" for key in (own, other))

    def routes(self, question: Question) -> Sequence[Route]:
        """The model of the purpose, then the chain of the setting `model.fallback`."""
        chosen = self._settings.model
        names = (chosen.name_for(question.purpose or question.role), *chosen.fallback)
        return tuple(dict.fromkeys(self._route(name) for name in names))

    def call(self, question: Question, route: Route) -> Call:
        """The bytes, and the worst that they may cost. Raises Failure where nobody knows what the model costs."""
        if not self.knows_price(route.model):
            raise Failure("unpriced", f"no price is known for {route.model}, so the budget of money cannot hold")
        tokens_max = question.tokens_max or self._settings.model.output_tokens
        stream = tokens_max > STREAMED_ABOVE_TOKENS
        frame = wire.frame_of(question, route.model, tokens_max=tokens_max, stream=stream)
        body = wire.encode(frame)
        tokens_in = wire.tokens_at_most(body)
        cost = self._prices.most_microdollars(route.model, tokens_in, tokens_max, self._clock())
        seconds = self._settings.model.timeout_seconds + MARGIN_SECONDS
        return Call(question, route, frame, body, tokens_in + tokens_max, cost, seconds_reserved=seconds)

    async def open(self, route: Route) -> None:
        """Load the client; the first time that takes seconds."""
        await self._client(self._providers[route.place])

    async def send(self, call: Call) -> Reply:
        """One request. Raises Failure, with the key taken out of whatever the server said."""
        provider = self._providers[call.route.place]
        client = await self._client(provider)
        seconds = self._settings.model.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                message, request_id = await self._fetched(client, call)
        except TimeoutError:
            raise Failure("timeout", f"no whole answer within {seconds:g} s") from None
        except Failure as failure:
            failure.args = (self.redacted(str(failure)),)
            raise
        return self._reply(call, message, request_id)

    async def probe(self) -> tuple[Route, Reply]:
        """A minimal call of the strong model, to see whether the key and the place are right. Raises Failure."""
        words = Said.by_us("Answer with one word: ready.")
        question = Question("doctor", "", 0, ("", ""), "", (words,), purpose="strong", tokens_max=PROBE_TOKENS)
        route = self.routes(question)[0]
        return route, await self.send(self.call(question, route))

    @property
    def place(self) -> str:
        """Where the first model is asked."""
        return place_of(self._settings.model.url or ANTHROPIC_URL)

    def names(self) -> list[str]:
        """Every model that may be asked."""
        chosen = self._settings.model
        own = [chosen.name_for(purpose) for purpose in ("triage", "planning", "coding", "review", "small", "strong")]
        return sorted({*own, *(name.partition("@http")[0] for name in chosen.fallback)})

    def knows_price(self, model: str) -> bool:
        """Whether the table of prices has this model."""
        return self._prices.knows(model, self._clock())

    async def close(self) -> None:
        """Let go of the connections."""
        for provider in self._providers.values():
            if provider.client is not None:
                await provider.client.close()
                provider.client = None

    def redacted(self, text: str) -> str:
        """The text without any key, and not too long."""
        for key in self._keys:
            if key:
                text = text.replace(key, "********")
        return text[:SAID_CHARACTERS_MAX]

    # -- inside

    def _route(self, name: str) -> Route:
        """`model`, or `model@url` for one at another server; each server has its own breaker, and its own key."""
        model, at, url = name.partition("@http")
        url, key = (f"http{url}", self._keys[1]) if at else (self._settings.model.url or ANTHROPIC_URL, self._keys[0])
        place = place_of(url)
        if place not in self._providers:
            self._providers[place] = Provider(url, key, self._new_breaker(place))
        return Route(model, self.name, place, self._providers[place].breaker)

    async def _client(self, provider: Provider) -> AsyncAnthropic:
        """The client of a server. The package takes seconds to load, so that is done once, beside the event loop."""
        async with provider.opening:
            if provider.client is None:
                provider.client = await asyncio.to_thread(new_client, provider, self._settings)
        return provider.client

    async def _fetched(self, client: AsyncAnthropic, call: Call) -> tuple[dict[str, Any], str]:
        """The answer's JSON and the id that the provider gave the request."""
        import anthropic

        question = call.question
        headers = {
            "Content-Type": "application/json",
            "Gavotte-Call": call.id,
            "Gavotte-Role": question.role,
            "Gavotte-Task": question.task_id,
        }
        try:
            stream: AsyncStream[object] = await client.post(
                PATH,
                cast_to=object,
                content=call.body,
                options={"headers": {name: value for name, value in headers.items() if value}},
                stream=True,
                stream_cls=anthropic.AsyncStream[object],
            )
        except anthropic.APIStatusError as error:
            raise of_status(error) from None
        except anthropic.APIConnectionError as error:
            raise of_connection(error) from None
        async with stream:
            request_id = stream.response.headers.get("request-id", "")
            try:
                if call.frame.get("stream"):
                    return await assembled(anthropic.AsyncStream.raw_events(stream.response)), request_id
                return read_message(await stream.response.aread()), request_id
            except Failure as failure:
                failure.request_id = request_id
                raise
            except Exception as error:
                raise of_transport(error, request_id) from error

    def _reply(self, call: Call, message: dict[str, Any], request_id: str) -> Reply:
        usage = wire.usage_of(message)
        asked = call.route.model
        cost, known = self._prices.cost_microdollars(asked, usage, self._clock())
        return Reply(message, asked, usage, cost, not known, request_id)


def new_client(provider: Provider, settings: Settings) -> AsyncAnthropic:
    """A client that tries once, tells nobody about it, and takes no credential but the one it is given."""
    import anthropic

    for name in ("anthropic", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)  # headers and prompts are nothing for a log
    return anthropic.AsyncAnthropic(
        api_key=provider.api_key or "none",
        base_url=re.sub(r"/v1/?$", "", provider.url),
        max_retries=0,
        timeout=anthropic.Timeout(settings.model.idle_seconds, connect=CONNECT_SECONDS),
        open_telemetry=False,
        # Whoever is sent on elsewhere takes key and prompt along: the one address in the settings is asked, or none.
        http_client=anthropic.DefaultAsyncHttpxClient(follow_redirects=False),
    )


def place_of(url: str) -> str:
    """The address of a server for people: without names and passwords in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path.rstrip('/')}"


# -- what comes back ---------------------------------------------------------------------------------------------------


async def assembled(events: AsyncIterator[Any]) -> dict[str, Any]:
    """The message of a stream of server-sent events. Raises Failure where it breaks off or makes no sense."""
    assembly = Assembly()
    async for event in events:
        if event.event in {None, "ping"} or not event.data:
            continue
        try:
            data = json.loads(event.data)
            if event.event == "error":
                raise of_error(data)
            assembly.take(data)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise Failure("malformed", f"the stream makes no sense: {type(error).__name__}: {error}") from None
    try:
        return checked(assembly.whole())
    except ValueError as error:
        raise Failure("cut", str(error)) from None


def read_message(raw: bytes) -> dict[str, Any]:
    """The message of a body. Raises Failure where it is none."""
    try:
        return checked(json.loads(raw))
    except (ValueError, RecursionError) as error:
        raise Failure("malformed", f"the answer is no JSON: {error}") from None


def checked(found: Any) -> dict[str, Any]:
    """The same, if it is a message."""
    if not wire.is_message(found):
        raise Failure("malformed", "the answer is no message of the Messages API")
    message: dict[str, Any] = found
    return message


def of_status(error: APIStatusError) -> Failure:
    """What an error status means."""
    status = error.status_code
    kind = STATUS_KINDS.get(status) or ("request" if status < 500 else "server_error")
    if kind == "request" and error.type == "billing_error":
        kind = "billing"
    said = error.api_message or " ".join(str(error.body or "").split()) or "no reason given"
    retry_after = seconds_of(error.response.headers.get("retry-after"))
    return Failure(
        kind, f"{status} {said}", status=status, retry_after_seconds=retry_after, request_id=error.request_id or ""
    )


def of_error(data: dict[str, Any]) -> Failure:
    """An error that came in the middle of a stream."""
    error = data.get("error") or {}
    kind = ERROR_KINDS.get(str(error.get("type")), "server_error")
    return Failure(kind, f"{error.get('type')}: {error.get('message')}", request_id=str(data.get("request_id") or ""))


def of_connection(error: Exception) -> Failure:
    """No answer: either nobody was reached, or nobody knows what became of the request."""
    cause = error.__cause__ or error
    name = type(cause).__name__
    if name.startswith(("Connect", "Pool", "Proxy", "UnsupportedProtocol")):
        return Failure("unreachable", str(cause) or name)
    return of_transport(cause, "")


def of_transport(error: BaseException, request_id: str) -> Failure:
    """The connection failed under way."""
    name = type(error).__name__
    kind = "timeout" if "Timeout" in name else "cut"
    return Failure(kind, f"{name}: {error}" if str(error) else name, request_id=request_id)


def seconds_of(header: str | None) -> float | None:
    """A retry-after header as seconds from now; None where it says nothing."""
    if not header:
        return None
    try:
        return max(float(header), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError):
        return None
