"""A fair split of partitions that moves as few as can be."""

from __future__ import annotations

import itertools

import pytest

from bus.file_groups import shares


@pytest.mark.parametrize(
    ("members", "held", "wanted"),
    [
        ("a", "", {"a": 8}),
        ("ab", "aaaaaaaa", {"a": 4, "b": 4}),
        ("abc", "aaaabbbb", {"a": 3, "b": 3, "c": 2}),
        ("abc", "bbbbcccc", {"a": 2, "b": 3, "c": 3}),
        ("abc", "aaabbb??", {"a": 3, "b": 3, "c": 2}),
        ("", "aaaa", {}),
        ("abcdefghij", "jjjjjjjj", dict.fromkeys("abcdefgj", 1) | {"h": 0, "i": 0}),
    ],
)
def test_those_who_have_most_keep_the_odd_ones(members: str, held: str, wanted: dict[str, int]) -> None:
    assert shares(members, held, 8) == wanted


@pytest.mark.parametrize(("members", "partitions"), list(itertools.product(range(1, 12), (1, 7, 8, 62))))
def test_shares_add_up_differ_by_one_and_stay_as_they_are(members: int, partitions: int) -> None:
    names = [f"m{number}" for number in range(members)]
    found = shares(names, [], partitions)
    assert sum(found.values()) == partitions
    assert max(found.values()) - min(found.values()) <= 1
    owners = [name for name, count in found.items() for _ in range(count)]
    assert shares(reversed(names), owners, partitions) == found
