"""What becomes of a record that fails, where the store does not know it: only the bus has it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from agents.aside import Aside
from agents.emission import Emission
from agents.work import Work
from bus.port import Message, Record
from contracts import ids
from contracts.codec import Codec, headers_of
from contracts.envelope import CLIENT_SOURCE, root
from contracts.errors import Skew, Unverified
from contracts.events import KillLifted
from contracts.registry import CommittedIds
from contracts.topology import CORE_AGENTS, Topology
from state_store.port import Claim, Commit, Committed

PLANNING = CORE_AGENTS[0]
ENVELOPE = root(KillLifted(kill_id=ids.uuid7(), operator="ann"), task_id=ids.uuid7(), source=CLIENT_SOURCE).envelope


class Ledger:
    """A store and a bus that only write down what is asked of them. `begun` is what the inbox says of the record."""

    def __init__(self, begun: int = 0) -> None:
        self.begun = begun
        self.sent: list[Message] = []
        self.commits: list[Commit] = []

    async def claim(self, *_: Any, **__: Any) -> Claim:
        return Claim("free", known=False, starts=self.begun)

    async def commit(self, request: Commit) -> Committed:
        self.commits.append(request)
        return Committed("recorded")

    async def publish(self, messages: Sequence[Message]) -> None:
        self.sent += messages


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []

    async def sleep(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr("agents.aside.asyncio.sleep", sleep)
    return found


def failing(ledger: Ledger, error: Exception, attempts_max: int = 9) -> Work:
    """The work after it was put aside until that was the end of it."""
    codec, topology = Codec(CommittedIds()), Topology()
    here = Aside(
        PLANNING,
        store=cast(Any, ledger),
        bus=cast(Any, ledger),
        emission=Emission(PLANNING, codec, topology, ids.now_us),
        holder="planning-1",
        clock=ids.now_us,
        record=cast(Any, None),
        again=cast(Any, None),
    )
    record = Record("gavotte.operator.events.v1", 0, 7, b"key", b"\0value", headers_of(ENVELOPE), 0)
    work = Work(record.key, record, envelope=ENVELOPE)

    async def put() -> None:
        for _ in range(attempts_max):
            work.session = None
            if await here.put(work, error) is not None:
                return
        raise AssertionError("it is in line for ever")

    asyncio.run(put())
    return work


@pytest.mark.parametrize("begun", [0, 1])
def test_what_cannot_be_read_is_tried_for_a_minute_and_then_kept_as_a_letter(naps: list[float], begun: int) -> None:
    ledger = Ledger(begun)
    work = failing(ledger, Skew("schema id 999 is unknown to this build"))
    assert naps == [1.0, 30.0, 30.0]
    assert not work.idling
    (sent,) = ledger.sent
    assert (sent.key, sent.value) == (b"key", b"\0value")
    assert "skew" in str(dict(sent.headers))
    assert [(commit.status, commit.emitted) for commit in ledger.commits] == [("dead", ())] * begun


def test_what_nobody_signed_is_a_letter_at_once(naps: list[float]) -> None:
    ledger = Ledger()
    failing(ledger, Unverified("it is not signed"))
    assert naps == []
    assert len(ledger.sent) == 1
    assert ledger.commits == []
