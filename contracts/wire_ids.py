"""The ids of a schema registry on topics, ours in the store: what travels follows the registry, what is kept does not.

So a log can be read without the registry, moved to another one, and hashed once for all. What was learnt is kept for
as long as the process lives, and beside it in a file for a start while the registry is down.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final

from contracts import confluent
from contracts.codec import canonical_form, framed_id, reframed
from contracts.confluent import SchemaRegistry
from contracts.errors import GavotteError, Skew, Unavailable
from contracts.registry import Schema, SchemaIds

log = logging.getLogger(__name__)

ASK_AGAIN_SECONDS: Final = 5.0
"""So long an id that could not be resolved is not asked for again."""


class RegistryIds:
    """`register` pushes what the registry lacks, else that is an error. `memory` is a file for the ids of the last start."""

    def __init__(
        self, registry: SchemaRegistry, schema_ids: SchemaIds, *, register: bool = True, memory: Path | None = None
    ) -> None:
        self.registry = registry
        self.register = register
        self._schema_ids = schema_ids
        self._memory = memory
        self._outward: dict[int, int] = {}
        self._inward: dict[int, int] = {}
        self._texts: dict[int, str | None] = {}
        self._failed: dict[int, tuple[float, GavotteError]] = {}
        self._asking = asyncio.Lock()

    async def prepare(self, schema_ids: Collection[int] | None = None) -> None:
        known = self._schema_ids.all() if schema_ids is None else [self._schema_ids.by_id(each) for each in schema_ids]
        async with self._asking:
            wanted = [schema for schema in known if schema.id not in self._outward]
            try:
                for schema in wanted:
                    self._learn(schema, await self._registered(schema))
            except Unavailable as error:
                self._recall(wanted, error)
            else:
                if wanted:
                    self._remember()

    def outward(self, value: bytes) -> bytes:
        ours = framed_id(value)
        if ours is None:
            return value
        if ours not in self._outward:
            raise Unavailable(f"the registry's id of our schema {ours} is not known yet", hint="the registry was down")
        return reframed(value, self._outward[ours])

    async def inward(self, value: bytes) -> bytes:
        theirs = framed_id(value)
        if theirs is None:
            return value
        if theirs not in self._inward:
            async with self._asking:
                await self._resolve(theirs)
        return reframed(value, self._inward[theirs])

    def knows(self, value: bytes) -> bool:
        theirs = framed_id(value)
        return theirs is None or theirs in self._inward

    async def text(self, schema_id: int) -> str | None:
        if schema_id not in self._texts:
            self._texts[schema_id] = await self.registry.schema(schema_id)
        return self._texts[schema_id]

    async def close(self) -> None:
        await self.registry.close()

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _registered(self, schema: Schema) -> int:
        if not self.register:
            return await confluent.known_id(self.registry, schema)
        found = await self.registry.lookup(confluent.subject_of(schema), schema.text)
        return await confluent.push(self.registry, schema) if found is None else found

    async def _resolve(self, theirs: int) -> None:
        """Ask what an id stands for: others may have registered our schema under another name, or written otherwise."""
        if theirs in self._inward:
            return
        until, error = self._failed.get(theirs, (0.0, None))
        if error is not None and time.monotonic() < until:
            raise error
        try:
            self._inward[theirs] = self._ours(theirs, await self.registry.schema(theirs))
        except GavotteError as failure:
            self._failed[theirs] = (time.monotonic() + ASK_AGAIN_SECONDS, failure)
            raise
        self._failed.pop(theirs, None)

    def _ours(self, theirs: int, text: str | None) -> int:
        if text is None:
            raise Skew(f"schema id {theirs} is unknown to the schema registry {self.registry.url}")
        try:
            form = canonical_form(text)
        except ValueError as error:
            raise Skew(f"schema id {theirs} of the registry is {error}") from None
        for schema in self._schema_ids.all():
            if canonical_form(schema.text) == form:
                return schema.id
        name = json.loads(form).get("name", "a type without a name") if form.startswith("{") else form
        raise Skew(
            f"schema id {theirs} of the registry, {name}, is none that this build knows", hint="upgrade this agent"
        )

    def _learn(self, schema: Schema, theirs: int) -> None:
        self._outward[schema.id] = theirs
        self._inward[theirs] = schema.id

    def _recall(self, wanted: Collection[Schema], error: Unavailable) -> None:
        """The ids of an earlier start, where the registry is down; raises its error where one is missing."""
        try:
            kept = json.loads(self._memory.read_text()) if self._memory is not None else {}
            ids = kept["ids"] if kept.get("url") == self.registry.url else {}
            found = [(schema, int(ids[schema.fingerprint])) for schema in wanted]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise error from None
        log.warning("%s: going on with the ids of an earlier start", error.message)
        for schema, theirs in found:
            self._learn(schema, theirs)

    def _remember(self) -> None:
        if self._memory is None:
            return
        ids = {self._schema_ids.by_id(ours).fingerprint: theirs for ours, theirs in sorted(self._outward.items())}
        beside = self._memory.with_name(f"{self._memory.name}.{os.getpid()}")
        try:
            beside.write_text(json.dumps({"url": self.registry.url, "ids": ids}, indent=1) + "\n")
            beside.replace(self._memory)
        except OSError as error:  # a folder that cannot be written costs only the start while the registry is down
            log.warning("%s cannot be written: %s", self._memory, error.strerror)
