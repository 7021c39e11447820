"""A client of the REST API that Confluent's schema registry defined and others speak (Apicurio, Karapace, Redpanda).

The only importer of httpx2. Each call has one deadline and is tried once: whoever calls decides about trying again.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from contracts.errors import GavotteError, NotFound, Refused, Unavailable, Usage
from contracts.registry import Schema

if TYPE_CHECKING:
    import httpx2

MEDIA_TYPE: Final = "application/vnd.schemaregistry.v1+json"
COMPATIBILITY: Final = "FULL_TRANSITIVE"
"""Set for each subject: the default of a registry may be weaker, or none at all."""
ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
SUBJECT_NOT_FOUND: Final = 40401
VERSION_NOT_FOUND: Final = 40402
SCHEMA_NOT_FOUND: Final = 40403
ABSENT: Final = frozenset({SUBJECT_NOT_FOUND, VERSION_NOT_FOUND, SCHEMA_NOT_FOUND, 40408, 404})
"""404 alone is how some say it; 40408 says that a subject has no compatibility of its own."""


class SchemaRegistry:
    """One registry. `url` is the base of its API; `token` is sent as a bearer token, `user` and `password` as Basic.

    All methods raise Unavailable where it does not answer in time, Refused where it does not let us in, and Usage where
    something else answers at that address.
    """

    def __init__(
        self,
        url: str,
        *,
        user: str = "",
        password: str = "",
        token: str = "",
        cafile: Path | None = None,
        timeout_seconds: float = 5.0,
    ) -> None:
        self.url = checked_url(url)
        self.timeout_seconds = timeout_seconds
        self._login = (user, password)
        self._token = token
        self._cafile = cafile
        self._client: httpx2.AsyncClient | None = None

    async def lookup(self, subject: str, text: str) -> int | None:
        """The id of a schema under a subject, or None where it is not registered there."""
        found = await self._ask("POST", f"/subjects/{_part(subject)}?normalize=true", {"schema": text})
        return None if found is None else _integer(found, "id", self.url)

    async def register(self, subject: str, text: str) -> int:
        """Register a schema (again) and return its id; raises Refused with the registry's reason."""
        found = await self._ask("POST", f"/subjects/{_part(subject)}/versions", {"schema": text})
        return _integer(found, "id", self.url)

    async def schema(self, schema_id: int) -> str | None:
        """The schema of an id as JSON text, or None where the registry knows none."""
        found = await self._ask("GET", f"/schemas/ids/{schema_id}")
        return None if found is None else str(found.get("schema", ""))

    async def versions(self, subject: str) -> list[tuple[int, str]]:
        """Every version of a subject as (number, JSON text), the oldest first; empty for an unknown subject."""
        path = f"/subjects/{_part(subject)}/versions"
        numbers = await self._ask("GET", path)
        found = []
        for number in numbers or []:
            each = await self._ask("GET", f"{path}/{int(number)}")
            if each is not None:
                found.append((int(number), str(each.get("schema", ""))))
        return found

    async def is_compatible(self, subject: str, text: str) -> bool:
        """Whether the registry would take this schema beside all versions of the subject."""
        path = f"/compatibility/subjects/{_part(subject)}/versions"
        found = await self._ask("POST", path, {"schema": text})
        return found is None or bool(found.get("is_compatible"))

    async def compatibility(self, subject: str) -> str:
        """The level that is set for a subject itself; empty where the registry's default holds."""
        found = await self._ask("GET", f"/config/{_part(subject)}")
        return "" if found is None else str(found.get("compatibilityLevel", ""))

    async def demand_compatibility(self, subject: str, level: str = COMPATIBILITY) -> None:
        """Set the level of a subject."""
        await self._ask("PUT", f"/config/{_part(subject)}", {"compatibility": level})

    async def close(self) -> None:
        """Close the connections; safe to call twice."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of an answer, None for what is not there."""
        import httpx2

        if self._client is None:
            self._client = self._connect()
        try:
            async with asyncio.timeout(self.timeout_seconds):
                async with self._client.stream(method, self.url + path, json=body) as answer:
                    raw = await _bounded(answer, self.url)
                    return self._judged(answer.status_code, raw, path)
        except TimeoutError:
            raise Unavailable(
                f"the schema registry {self.url} did not answer within {self.timeout_seconds:g} s"
            ) from None
        except httpx2.HTTPError as error:
            raise Unavailable(
                f"the schema registry {self.url} cannot be reached: {_cause(error)}", hint="check registry.url"
            ) from None

    def _connect(self) -> httpx2.AsyncClient:
        import httpx2

        headers = {"content-type": MEDIA_TYPE, "accept": f"{MEDIA_TYPE}, application/json"}
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        return httpx2.AsyncClient(
            auth=None if self._token or not any(self._login) else self._login,
            headers=headers,
            timeout=self.timeout_seconds,
            verify=True if self._cafile is None else trusting(self._cafile),
        )

    def _judged(self, status: int, raw: bytes, path: str) -> Any:
        if status in {401, 403}:
            raise Refused(
                f"the schema registry {self.url} does not let us in ({status})",
                hint="set registry.user and registry.password, or registry.token",
            )
        if status == 429 or status >= 500:
            raise Unavailable(f"the schema registry {self.url} says {status} {_said(raw)[0]}".rstrip())
        message, code = _said(raw) if status >= 400 else ("", 0)
        if status in {409, 422} or (status >= 400 and status != 404):
            raise Refused(message or f"the schema registry says {status}", code="schema_refused")
        if status == 404 and code in ABSENT:
            return None
        try:
            if status == 200:
                return json.loads(raw)
        except ValueError:
            pass
        raise Usage(
            f"no schema registry answers at {self.url}{path.partition('?')[0]} ({status})",
            hint="registry.url is the base of the Confluent API, for instance http://host:8081/apis/ccompat/v7",
        )


def checked_url(url: str) -> str:
    """The base without a slash at its end; raises Usage for what is no http address or carries a password."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise Usage(f"registry.url {url!r} is no http or https address", hint="for instance http://localhost:8081")
    if "@" in parts.netloc:
        raise Usage("registry.url carries a user name", hint="set registry.user and registry.password instead")
    return url.rstrip("/")


def trusting(cafile: Path) -> ssl.SSLContext:
    """A context that trusts the authorities of this file alone; raises Usage where it cannot be used."""
    try:
        return ssl.create_default_context(cafile=str(cafile))
    except (OSError, ssl.SSLError) as error:
        raise Usage(f"registry.cafile {cafile} cannot be used: {error.strerror or error}") from None


def subject_of(schema: Schema) -> str:
    """The full name of the record (RecordNameStrategy): several events share a topic, one event several topics."""
    parsed = json.loads(schema.text)
    return f"{parsed['namespace']}.{parsed['name']}"


async def push(registry: SchemaRegistry, schema: Schema) -> int:
    """Register a schema under its subject, which is held to FULL_TRANSITIVE; returns the registry's id.

    Raises Refused naming the event and what is incompatible with which version.
    """
    subject = subject_of(schema)
    await registry.demand_compatibility(subject)
    try:
        return await registry.register(subject, schema.text)
    except Refused as error:
        if error.code != "schema_refused":
            raise
        reasons = await breaks(registry, schema) or [error.message]
        raise Refused(
            f"the registry refuses {schema.type} v{schema.version}: {'; '.join(reasons)}",
            hint="gavotte contracts check",
            code="schema_refused",
        ) from None


async def breaks(registry: SchemaRegistry, schema: Schema) -> list[str]:
    """What is incompatible between a schema and the versions of its subject in the registry, and whom it hits."""
    from contracts.evolution import between
    from contracts.topology import Topology

    found = []
    for number, text in await registry.versions(subject_of(schema)):
        try:
            there = Schema(0, schema.type, number, text)
            found += [str(each).partition(": ")[2] for each in between(there, schema, Topology())]
        except (ValueError, KeyError, TypeError) as error:
            raise GavotteError(f"version {number} of {subject_of(schema)} in the registry is no schema") from error
    return list(dict.fromkeys(found))


async def standing(registry: SchemaRegistry, schema: Schema) -> tuple[int | None, list[str]]:
    """How a schema stands in the registry: its id, None where it was not pushed, and what is wrong with it there."""
    subject = subject_of(schema)
    found, wrong = await registry.lookup(subject, schema.text), []
    if found is None:
        wrong = await breaks(registry, schema)
        if not wrong and not await registry.is_compatible(subject, schema.text):
            wrong = ["the registry finds it incompatible, and does not say why"]
        return None, wrong
    level = await registry.compatibility(subject)
    if level != COMPATIBILITY:
        wrong = [f"its compatibility there is {level or 'the default'}, not {COMPATIBILITY}: gavotte contracts push"]
    return found, wrong


async def known_id(registry: SchemaRegistry, schema: Schema) -> int:
    """The registry's id of a schema; raises NotFound where it was never pushed."""
    found = await registry.lookup(subject_of(schema), schema.text)
    if found is None:
        raise NotFound(
            f"{schema.type} v{schema.version} is not in the schema registry {registry.url}",
            hint="gavotte contracts push, or let agents do it: registry.register = true",
        )
    return found


async def _bounded(answer: httpx2.Response, url: str) -> bytes:
    raw = b""
    async for piece in answer.aiter_bytes():
        raw += piece
        if len(raw) > ANSWER_BYTES_MAX:
            raise Usage(f"{url} answers with more than {ANSWER_BYTES_MAX} bytes: is it a schema registry?")
    return raw


def _part(subject: str) -> str:
    return quote(subject, safe="")


def _integer(found: Any, name: str, url: str) -> int:
    value = found.get(name) if isinstance(found, dict) else None
    if not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise Usage(f"the schema registry {url} answers without an {name}")
    return value


def _said(raw: bytes) -> tuple[str, int]:
    """Message and code of an error."""
    try:
        found = json.loads(raw)
        return str(found["message"])[:1000], int(found.get("error_code", 0))
    except (ValueError, KeyError, TypeError, AttributeError):
        return raw[:200].decode("utf-8", "replace"), 0


def _cause(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
