"""The market's price: the volume-weighted average of a few one-minute candles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def average_prices(high: Values, low: Values, close: Values, volume: Values, count: int) -> Values:
    """At i: the average price of the candles i - count + 1 .. i, NaN where there are not as many.

    Sums run from the oldest candle on, so that they are equal bit for bit however many candles are given.
    """
    averages = np.full(len(close), np.nan)
    if len(close) < count:
        return averages
    turnover = (high + low + close) / 3 * volume
    volumes = _moving_sum(volume, count)
    with np.errstate(divide="ignore", invalid="ignore"):
        weighted = _moving_sum(turnover, count) / volumes
    averages[count - 1 :] = np.where(volumes == 0, _moving_sum(close, count) / count, weighted)
    return averages


def _moving_sum(values: Values, count: int) -> Values:
    last = len(values) - count + 1
    total = values[:last].copy()
    for offset in range(1, count):
        total += values[offset : offset + last]
    return total
