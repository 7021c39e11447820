"""A fair split of partitions in a Kafka group, that takes nothing from anybody who has not let it go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.kafka.sharing import Claim, packed_share, share_out, unpacked_share

PARTITIONS = 8


def claims_of(held: dict[str, set[int]], generation: int = 1) -> dict[str, Claim]:
    return {f"id-{name}": Claim(name, ("t",), frozenset(parts), generation) for name, parts in held.items()}


@st.composite
def groups(draw: st.DrawFn) -> dict[str, set[int]]:
    """Members, and who of them holds which partition; some are held by nobody."""
    names = [f"m{number}" for number in range(draw(st.integers(1, 11)))]
    holders = draw(st.lists(st.sampled_from([*names, ""]), min_size=PARTITIONS, max_size=PARTITIONS))
    return {name: {part for part, holder in enumerate(holders) if holder == name} for name in names}


@given(groups())
def test_nobody_is_given_what_another_holds_and_it_settles_in_two_rounds(held: dict[str, set[int]]) -> None:
    first = share_out(claims_of(held), PARTITIONS)
    given_away = [part for parts in first.values() for part in parts]
    assert len(given_away) == len(set(given_away))
    for member, parts in first.items():
        others = set().union(*(mine for name, mine in held.items() if f"id-{name}" != member))
        assert not parts & others
    after = {name: set(first[f"id-{name}"]) for name in held}
    second = share_out(claims_of(after, 2), PARTITIONS)
    assert sorted(part for parts in second.values() for part in parts) == list(range(PARTITIONS))
    counts = [len(parts) for parts in second.values()]
    assert max(counts) - min(counts) <= 1
    again = {name: set(second[f"id-{name}"]) for name in held}
    assert share_out(claims_of(again, 3), PARTITIONS) == second, "what is fair stays as it is"


@given(groups())
def test_no_more_moves_than_must(held: dict[str, set[int]]) -> None:
    kept = share_out(claims_of(held), PARTITIONS)
    share = -(-PARTITIONS // len(held))
    for name, parts in held.items():
        assert len(kept[f"id-{name}"] & parts) >= min(len(parts), PARTITIONS // len(held))
        if len(parts) <= PARTITIONS // len(held):
            assert parts <= kept[f"id-{name}"]
        assert len(kept[f"id-{name}"]) <= share


def test_of_two_that_hold_one_the_later_is_believed() -> None:
    claims = {"old": Claim("a", ("t",), frozenset(range(8)), 3), "new": Claim("b", ("t",), frozenset({0, 1}), 4)}
    assert {0, 1} <= share_out(claims, PARTITIONS)["new"]
    assert not {0, 1} & share_out(claims, PARTITIONS)["old"]


def test_claims_and_shares_come_out_as_they_went_in() -> None:
    claim = Claim("coding-1", ("t", "u"), frozenset({1, 7}), 12)
    assert Claim.unpacked(claim.packed()) == claim
    assert unpacked_share(packed_share(("t", "u"), {3, 1})) == {1, 3}
    assert unpacked_share(b"") == frozenset()
    with pytest.raises((ValueError, KeyError)):
        Claim.unpacked(packed_share(("t",), {1}))
