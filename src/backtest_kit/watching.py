"""What the next minute is waited for.

A price here is a product of rounded steps, so a minute is reported a hair too early rather than not at all.
"""

from __future__ import annotations

from math import inf
from typing import Final

from backtest_kit.effects import Watch
from backtest_kit.held import Held
from backtest_kit.identity import MINUTE_MS
from backtest_kit.levels import breakeven_price, next_price
from backtest_kit.rules import Rules
from backtest_kit.state import State

EVERY_MINUTE: Final = Watch(until=0)
HAIR: Final = 1e-9


def watch(state: State, rules: Rules, wants: frozenset[str]) -> Watch:
    """Everything that can happen next in this state, of what is wanted.

    Levels that nobody wants are noted when a minute is reported for another reason: nothing depends on them.
    """
    if state.signal is not None:
        return _of_open(state.signal, state, rules, wants)
    if state.schedule is not None:
        return _of_scheduled(state.schedule, state, rules, wants)
    if "idle" in wants or state.created is not None or state.accepted is not None:
        return EVERY_MINUTE
    return Watch(served_slot=state.served_slot, may_ask=not state.is_paused and not state.context.is_durable)


def _of_scheduled(held: Held, state: State, rules: Rules, wants: frozenset[str]) -> Watch:
    if "schedule_ping" in wants or state.cancelling or state.activating:
        return EVERY_MINUTE
    until = held.scheduled_at + rules.schedule_timeout_minutes * MINUTE_MS
    if held.sign > 0:
        return Watch(until, touch_low=held.price_open)
    return Watch(until, touch_high=held.price_open)


def _of_open(held: Held, state: State, rules: Rules, wants: frozenset[str]) -> Watch:
    if "active_ping" in wants or state.closing:
        return EVERY_MINUTE
    gains, losses = [held.take], list[float]()
    if "breakeven" in wants and not held.has_broken_even:
        gains.append(breakeven_price(held.sign, held.entry, rules))
    if "partial_profit" in wants and held.gain(held.take, held.entry) >= 0:
        gains += next_price(held.entry, held.take, held.profit_levels)
    if "partial_loss" in wants and held.gain(held.stop, held.entry) <= 0:
        losses += next_price(held.entry, held.stop, held.loss_levels)
    if rules.stop_rule == "vwap":
        losses.append(held.stop)
    if "highest_profit" in wants:
        gains.append(held.peak.price)
    if "max_drawdown" in wants:
        losses.append(held.fall.price)
    hair = held.entry * HAIR
    until = held.pending_at + held.minutes * MINUTE_MS
    if held.sign > 0:
        return Watch(until, max(losses, default=-inf) + hair, min(gains) - hair, touch_low=held.stop)
    return Watch(until, max(gains) + hair, min(losses, default=inf) - hair, touch_high=held.stop)
