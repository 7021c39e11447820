"""Amounts of money in whole cents."""


def split(cents: int, people: int) -> list[int]:
    """Divide an amount among people: the shares differ by at most one cent, the larger ones first."""
    if people < 1:
        raise ValueError("somebody has to pay")
    sign = -1 if cents < 0 else 1
    return [sign * (abs(cents) // people)] * people


def show(cents: int) -> str:
    """An amount as people write it: 100.00, -0.05."""
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100}.{abs(cents) % 100:02d}"


def total(shares: list[int]) -> int:
    """What the shares come to."""
    return sum(shares)
