"""How far a position has come: its levels, and where the stop may go to the entry."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Final

from backtest_kit.rules import Rules

LEVELS: Final = (10, 20, 30, 40, 50, 60, 70, 80, 90, 100)


def progress(entry: float, target: float, price: float) -> float:
    """Percent of the way from the entry to `target` (take profit or stop); at most 100, negative on the other side."""
    if target == entry:
        return 100.0
    return min((price - entry) / (target - entry) * 100, 100.0)


def reached(percent: float, reported: Set[int]) -> Iterator[int]:
    """Levels that `percent` has reached and that were not reported yet."""
    for level in LEVELS:
        if level > percent:
            return
        if level not in reported:
            yield level


def breakeven_percent(rules: Rules) -> float:
    """How far the price must be beyond the entry, so that closing at the entry's price is paid for."""
    return (rules.slippage_percent + rules.fee_percent) * 2 + rules.breakeven_margin_percent


def breakeven_price(sign: int, entry: float, rules: Rules) -> float:
    """From here on a long (sign 1) or short (-1) position may have its stop at the entry."""
    return entry * (1 + sign * breakeven_percent(rules) / 100)


def next_price(entry: float, target: float, reported: Set[int]) -> list[float]:
    """Where the next level that was not reported is reached, give or take rounding; empty if all were."""
    return next(([entry + (target - entry) * level / 100] for level in LEVELS if level not in reported), [])
