"""Our store by itself: appends that share their commits, reading with and without payloads, views rebuilt."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from bench import roles
from bench.dance import Dance

APPENDS_AT_ONCE = 200


def measure(tasks: int, environ: Mapping[str, str] | None = None) -> dict[str, float]:
    """Events per second of appends, reads and rebuilding, over tasks of five events; `environ` names another store."""
    return asyncio.run(_measure(tasks, {**os.environ, **(environ or {})}))


async def _measure(tasks: int, environ: Mapping[str, str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="gavotte-store-") as name:
        from agents.settings import load_settings
        from agents.wiring import open_runtime

        runtime = await open_runtime(load_settings(data=Path(name), environ=environ))
        try:
            return await _figures(runtime, tasks)
        finally:
            await runtime.close()


async def _figures(runtime: Any, tasks: int) -> dict[str, float]:
    store = runtime.store
    ready = [Dance(runtime).submission() for _ in range(tasks)]

    async def append() -> int:
        for index in range(0, tasks, APPENDS_AT_ONCE):
            await asyncio.gather(*(store.append([each]) for each in ready[index : index + APPENDS_AT_ONCE]))
        return tasks

    figures = await _rate("append", append)
    await _finish(runtime, ready)
    return figures | await reading(runtime)


async def reading(runtime: Any) -> dict[str, float]:
    """Events per second of a whole log: envelopes alone, decoded, and folded into views."""
    store = runtime.store

    async def envelopes() -> int:
        count = position = 0
        while found := await store.envelopes(position, 1000):
            position, count = found[-1][0], count + sum(bool(envelope.type) for _, envelope in found)
        return count

    async def decoded() -> int:
        count = position = 0
        while found := await store.tail(position, 1000):
            position, count = found[-1].position, count + len(found)
            for event in found:
                runtime.codec.decode(event.envelope, event.value)
        return count

    async def rebuild() -> int:
        await store.rebuild_views()
        events: int = (await store.statistics())["events"]
        return events

    figures = await _rate("envelopes", envelopes)
    figures |= await _rate("decoded", decoded)
    return figures | await _rate("rebuild", rebuild)


async def _rate(name: str, work: Callable[[], Awaitable[int]]) -> dict[str, float]:
    began, cpu = time.perf_counter(), time.process_time()
    count = await work()
    seconds, used = time.perf_counter() - began, time.process_time() - cpu
    return {f"{name}_per_second": count / seconds, f"{name}_cpu_us": used / count * 1e6}


async def _finish(runtime: Any, submitted: list[Any]) -> None:
    """The four answers of each task, by the inbox."""
    from agents.emission import Emission
    from contracts.topology import Topology
    from state_store.port import Commit, Delivery, Encoded

    events = [encoded.event for encoded in submitted]
    for role in ("planning", "coding", "review", "deploy"):
        emission = Emission(Topology().agent(role), runtime.codec, Topology(), lambda: time.time_ns() // 1000)
        handle = roles.HANDLES[role]
        following = []
        for event in events:
            envelope = event.envelope
            claim = await runtime.store.claim(role, Encoded(event, b""), envelope, holder="bench")
            delivery = Delivery(role, event.id, event.task_id, event.id, claim.basis, seen=claim.seen, holder="bench")
            sealed = emission.sealed(delivery, await handle(event, claim.state, None))
            following.append((delivery, sealed))
        for index in range(0, len(following), APPENDS_AT_ONCE):
            part = following[index : index + APPENDS_AT_ONCE]
            await asyncio.gather(*(runtime.store.commit(Commit(one, emitted=sealed)) for one, sealed in part))
        events = [sealed[0].event for _, sealed in following]
