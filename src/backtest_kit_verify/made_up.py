"""Made-up candles: one random walk for everything that needs prices and not a market."""

from __future__ import annotations

import random
from typing import Final

import numpy as np

from backtest_kit.identity import MINUTE_MS
from backtest_kit.replay import Columns

__all__ = ["START_MS", "random_walk"]

START_MS: Final = 1_704_067_200_000
"""2024-01-01T00:00Z."""


def random_walk(
    seed: object,
    minutes: int,
    *,
    before: int = 10,
    price: float = 100.0,
    volatility: float = 0.002,
    wick: float = 0.001,
) -> Columns:
    """One-minute candles from `before` minutes before `START_MS` on.

    Args:
        volatility: standard deviation of a minute's change, as a share.
        wick: the same of what stands out above and below the body.
    """
    draw = np.random.default_rng(random.Random(str(seed)).getrandbits(64))
    times = np.arange(-before, minutes, dtype=np.int64) * MINUTE_MS + START_MS
    close = price * np.exp(np.cumsum(draw.normal(0, volatility, len(times))))
    opened = np.concatenate(([price], close[:-1]))
    high = np.maximum(opened, close) * (1 + np.abs(draw.normal(0, wick, len(close))))
    low = np.minimum(opened, close) * (1 - np.abs(draw.normal(0, wick, len(close))))
    return Columns(times, opened, high, low, close, draw.uniform(1, 9, len(close)))
