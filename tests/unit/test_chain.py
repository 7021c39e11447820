"""The hash chain's bytes: canonical JSON as it was written from the first event on, whatever makes it."""

from __future__ import annotations

import hashlib
import json

from hypothesis import given
from hypothesis import strategies as st

from contracts.envelope import Envelope
from state_store.audit import GENESIS, chained_hash

WORDS = st.text(st.characters(exclude_categories=["Cs"]))
ENVELOPES = st.builds(
    Envelope,
    WORDS,
    WORDS,
    st.integers(1, 9),
    WORDS,
    WORDS,
    WORDS | st.none(),
    st.integers(),
    WORDS,
    WORDS,
    WORDS,
    WORDS,
)


def by_hand(prev_hash: str, e: Envelope, sequence: int, recorded_at_us: int, value: bytes) -> str:
    envelope = [e.id, e.type, e.version, e.task_id, sequence, e.correlation_id, e.causation_id, e.time_us, e.source]
    line = json.dumps(
        [*envelope, e.traceparent, e.tracestate, e.tenant, e.trust, recorded_at_us],
        ensure_ascii=True,
        separators=(",", ":"),
    )
    return hashlib.sha256(b"\n".join((prev_hash.encode(), line.encode(), value))).hexdigest()


@given(ENVELOPES, st.integers(1), st.integers(), st.binary())
def test_a_hash_is_over_canonical_json(envelope: Envelope, sequence: int, recorded_at_us: int, value: bytes) -> None:
    expected = by_hand(GENESIS, envelope, sequence, recorded_at_us, value)
    assert chained_hash(GENESIS, envelope, sequence, recorded_at_us, value) == expected


def test_it_is_so_for_every_character() -> None:
    every = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    envelope = Envelope("i", "T", 1, "t", "c", None, 0, "s", tracestate=every)
    assert chained_hash(GENESIS, envelope, 1, 2, b"v") == by_hand(GENESIS, envelope, 1, 2, b"v")
