"""What a position has made, with slippage and fees."""

from __future__ import annotations

from collections.abc import Sequence

from backtest_kit.rules import Rules
from backtest_kit.signals import Entry, Partial, Pnl


def effective_entry(entries: Sequence[Entry], partials: Sequence[Partial]) -> float:
    """The price at which all that is still in the market would have been bought at once.

    When all of it was closed, what was in the market last counts.
    """
    if len(entries) == 1:
        return entries[0].price
    basis = amount = price = 0.0
    bought = 0
    for partial in partials:
        basis, amount = _with_entries(basis, amount, entries[bought : partial.entry_count])
        bought = partial.entry_count
        price = basis / amount
        basis = partial.cost_basis * (1 - partial.percent / 100)
        amount = basis / price
    basis, amount = _with_entries(basis, amount, entries[bought:])
    return basis / amount if amount else price


def _with_entries(basis: float, amount: float, entries: Sequence[Entry]) -> tuple[float, float]:
    for entry in entries:
        basis, amount = basis + entry.cost, amount + entry.cost / entry.price
    return basis, amount


def invested(entries: Sequence[Entry]) -> float:
    """Sum of the entries' costs."""
    return sum(entry.cost for entry in entries)


def remaining_basis(entries: Sequence[Entry], partials: Sequence[Partial]) -> float:
    """What is still in the market, in the quote currency at entry prices."""
    if not partials:
        return invested(entries)
    last = partials[-1]
    return last.cost_basis * (1 - last.percent / 100) + invested(entries[last.entry_count :])


def closed_percent(entries: Sequence[Entry], partials: Sequence[Partial]) -> float:
    """How much of all that was invested has been closed."""
    if not partials:
        return 0.0
    sold = sum(partial.percent / 100 * partial.cost_basis for partial in partials)
    return sold / invested(entries) * 100


def net_pnl(sign: int, entries: Sequence[Entry], partials: Sequence[Partial], price: float, rules: Rules) -> Pnl:
    """Of a long (sign 1) or short (-1) position that closes now at `price`."""
    slip, fee = rules.slippage_percent / 100, rules.fee_percent
    total = invested(entries)
    entry = effective_entry(entries, partials)
    if not partials:
        gross, ratio = _gross(sign, entry, price, slip)
        percent = gross - fee * (1 + ratio)
    else:
        percent = _with_partials(sign, entries, partials, price, rules, total, entry)
    return Pnl(percent, percent / 100 * total, total, entry, price)


def _with_partials(
    sign: int,
    entries: Sequence[Entry],
    partials: Sequence[Partial],
    price: float,
    rules: Rules,
    total: float,
    entry: float,
) -> float:
    slip, fee = rules.slippage_percent / 100, rules.fee_percent
    result, fees, sold = 0.0, fee, 0.0
    for index, partial in enumerate(partials):
        weight = partial.percent / 100 * partial.cost_basis / total
        gross, ratio = _gross(
            sign, effective_entry(entries[: partial.entry_count], partials[:index]), partial.price, slip
        )
        result += weight * gross
        fees += fee * weight * ratio
        sold += weight
    rest = 1 - sold
    if rest > 0:
        gross, ratio = _gross(sign, entry, price, slip)
        result += rest * gross
        fees += fee * rest * ratio
    return result - fees


def _gross(sign: int, entry: float, price: float, slip: float) -> tuple[float, float]:
    """Percent before fees, and the close in units of the entry, both after slippage."""
    opened = entry * (1 + sign * slip)
    closed = price * (1 - sign * slip)
    return sign * (closed - opened) / opened * 100, closed / opened
