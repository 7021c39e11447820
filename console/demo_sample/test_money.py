"""What is expected of amounts and their division."""

import pytest

from money import show, split, total


def test_show() -> None:
    assert show(10000) == "100.00"


def test_show_small_and_negative() -> None:
    assert [show(5), show(0), show(-5), show(-10001)] == ["0.05", "0.00", "-0.05", "-100.01"]


def test_split_evenly() -> None:
    assert split(900, 3) == [300, 300, 300]


def test_one_person_pays_all() -> None:
    assert split(12345, 1) == [12345]


def test_nothing_to_split() -> None:
    assert split(0, 4) == [0, 0, 0, 0]


def test_nobody_to_pay() -> None:
    with pytest.raises(ValueError, match="somebody"):
        split(100, 0)


def test_shares_differ_by_a_cent_at_most() -> None:
    shares = split(10001, 3)
    assert max(shares) - min(shares) <= 1


def test_no_cent_is_lost() -> None:
    assert total(split(10000, 3)) == 10000


def test_a_refund_mirrors_the_payment() -> None:
    assert split(-100, 3) == [-share for share in split(100, 3)]
