"""Made-up candles and a strategy that decides by the minute alone: whoever asks, and when, gets the same answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import numpy as np

from backtest_kit.context import Context
from backtest_kit.declare import Exchange, Frame, Strategy
from backtest_kit.identity import MINUTE_MS, Mode
from backtest_kit.replay import Columns
from backtest_kit.running import Job
from backtest_kit.signals import Proposal, long, short

START_MS: Final = 1_704_067_200_000
SYMBOL: Final = "BTCUSDT"
STRATEGY: Final = "killed"
EXCHANGE: Final = "desk"
PROPOSES: Final = 0.2
"""In this share of the minutes in which it is asked."""
LAST_MINUTES: Final = 160
"""So long before the end nothing is proposed, so that everything ends by itself."""


def walk(seed: str, minutes: int) -> Columns:
    """A random walk with wicks."""
    rng = np.random.default_rng(random.Random(seed).getrandbits(64))
    times = np.arange(-10, minutes + 60, dtype=np.int64) * MINUTE_MS + START_MS
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.002, len(times))))
    opened = np.concatenate(([100.0], close[:-1]))
    high = np.maximum(opened, close) * (1 + np.abs(rng.normal(0, 0.001, len(close))))
    low = np.minimum(opened, close) * (1 - np.abs(rng.normal(0, 0.001, len(close))))
    return Columns(times, opened, high, low, close, rng.uniform(1, 9, len(close)))


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
