"""Made-up candles and a strategy that decides by the minute alone: whoever asks, and when, gets the same answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from backtest_kit.context import Context
from backtest_kit.declare import Exchange, Frame, Strategy
from backtest_kit.identity import MINUTE_MS, Mode
from backtest_kit.replay import Columns
from backtest_kit.running import Job
from backtest_kit.signals import Proposal, long, short
from backtest_kit_verify.made_up import START_MS, random_walk

SYMBOL: Final = "BTCUSDT"
STRATEGY: Final = "killed"
EXCHANGE: Final = "desk"
PROPOSES: Final = 0.2
"""In this share of the minutes in which it is asked."""
LAST_MINUTES: Final = 160
"""So long before the end nothing is proposed, so that everything ends by itself."""


def walk(seed: str, minutes: int) -> Columns:
    """Candles of a run, and an hour more."""
    return random_walk(seed, minutes + 60)


def strategy(seed: str, minutes: int, note: Callable[[int], None] = lambda minute: None) -> Strategy:
    """Args:
    minutes: how long the run is.
    note: called with each minute that it is asked for.
    """

    def get_signal(ctx: Context) -> Proposal | None:
        note(ctx.now)
        if not proposes(seed, minutes, ctx.now):
            return None
        draw = random.Random(f"how/{seed}/{ctx.now}")
        opens = None if draw.random() < 0.6 else ctx.price * draw.choice([0.998, 1.002])
        base = opens or ctx.price
        if draw.random() < 0.5:
            return long(take_profit=base * 1.006, stop_loss=base * 0.992, price_open=opens, minutes=30)
        return short(take_profit=base * 0.994, stop_loss=base * 1.008, price_open=opens, minutes=30)

    return Strategy(STRATEGY, get_signal, "1m")


def proposes(seed: str, minutes: int, minute_ms: int) -> bool:
    """Whether the strategy has an answer in a minute, if it is asked then."""
    if minute_ms > START_MS + (minutes - LAST_MINUTES) * MINUTE_MS:
        return False
    return random.Random(f"whether/{seed}/{minute_ms}").random() < PROPOSES


def job(mode: Mode, chosen: Strategy, exchange: Exchange, minutes: int) -> Job:
    frame = Frame("undisturbed", START_MS, START_MS + minutes * MINUTE_MS) if mode == "backtest" else None
    return Job(chosen, exchange, (), SYMBOL, mode, frame)
