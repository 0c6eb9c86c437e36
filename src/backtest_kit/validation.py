"""Whether a proposal can be held. Every fault is reported, each as a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

from backtest_kit.rules import Rules
from backtest_kit.signals import Proposal


def price_faults(proposal: Proposal, price_open: float, market: float | None, rules: Rules) -> list[str]:
    """What is wrong with the prices of a proposal that would open at `price_open`.

    Args:
        market: the price now if it opens now; None: it waits.
    """
    return [*_order(proposal, price_open, market), *_distances(proposal, price_open, rules)]


def shape_faults(proposal: Proposal, price_open: float, rules: Rules) -> list[str]:
    """What cannot be a proposal at all: no position, no numbers."""
    return list(_shape(proposal, price_open, rules))


def is_due(proposal: Proposal, price: float) -> bool:
    """Whether it would open at once at this market price: it waits for none, or for one that is reached."""
    if proposal.price_open is None:
        return True
    return price <= proposal.price_open if proposal.position == "long" else price >= proposal.price_open


def _shape(proposal: Proposal, price_open: float, rules: Rules) -> Iterator[str]:
    if proposal.position not in ("long", "short"):
        yield f"position must be long or short, not {proposal.position!r}"
    prices = {"price_open": price_open, "take_profit": proposal.take_profit, "stop_loss": proposal.stop_loss}
    for name, price in prices.items():
        if not _is_number(price) or price <= 0:
            yield f"{name} must be a positive number, not {price!r}"
    minutes = rules.default_minutes if proposal.minutes is None else proposal.minutes
    if not _is_number(minutes) or minutes != int(minutes) or not 0 < minutes <= rules.max_minutes:
        yield f"minutes must be a whole number from 1 to {rules.max_minutes}, not {minutes!r}"
    cost = rules.default_cost if proposal.cost is None else proposal.cost
    if not _is_number(cost) or cost <= 0:
        yield f"cost must be a positive number, not {cost!r}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _order(proposal: Proposal, price_open: float, market: float | None) -> Iterator[str]:
    low, high = proposal.stop_loss, proposal.take_profit
    if proposal.position == "short":
        low, high = high, low
    names = "stop_loss < price < take_profit" if proposal.position == "long" else "take_profit < price < stop_loss"
    if not low < price_open < high:
        yield f"a {proposal.position} needs {names}: price_open {price_open} is not between {low} and {high}"
    elif market is not None and not low < market < high:
        yield f"a {proposal.position} that opens now needs {names}: the market is at {market}, not between them"


def _distances(proposal: Proposal, price_open: float, rules: Rules) -> Iterator[str]:
    sign = 1 if proposal.position == "long" else -1
    profit = sign * (proposal.take_profit - price_open) / price_open * 100
    loss = sign * (price_open - proposal.stop_loss) / price_open * 100
    if profit < rules.take_profit_min_percent:
        yield f"take_profit is {_text(profit)} % from price_open, at least {rules.take_profit_min_percent} % are needed"
    if loss < rules.stop_loss_min_percent:
        yield f"stop_loss is {_text(loss)} % from price_open, at least {rules.stop_loss_min_percent} % are needed"
    if loss > rules.stop_loss_max_percent:
        yield f"stop_loss is {_text(loss)} % from price_open, at most {rules.stop_loss_max_percent} % are allowed"


def _text(percent: float) -> str:
    """Four digits, or all of them where four would hide which side of a round number it is on."""
    rounded = f"{percent:.4f}"
    return rounded if round(percent, 4) == percent or not rounded.endswith("00") else repr(percent)
