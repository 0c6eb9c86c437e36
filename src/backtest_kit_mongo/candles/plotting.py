"""Candles as a picture, by matplotlib, which who wants pictures installs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from backtest_kit_mongo.candles.frame import Candles

BODIES_MAX: Final = 500
"""More candles than this are thinner than a pixel."""
RISING: Final = "#2a8c5a"
FALLING: Final = "#c23b3b"
MS_PER_DAY: Final = 86_400_000


def plot(candles: Candles, axes: Any) -> Any:
    """See `Candles.plot`."""
    try:
        pyplot = import_module("matplotlib.pyplot")
    except ModuleNotFoundError as cause:
        raise ImportError(
            "Pictures need matplotlib: pip install 'backtest-kit-mongo[plot]'.", name="matplotlib"
        ) from cause
    if axes is None:
        _, axes = pyplot.subplots(figsize=(12, 5), layout="constrained")
    at = candles.timestamp / MS_PER_DAY  # matplotlib counts days since the epoch.
    if len(candles) > BODIES_MAX:
        # A line across a gap would show prices that nobody saw.
        breaks = np.flatnonzero(candles.timestamp[1:] != candles.grid.after(candles.timestamp[:-1])) + 1
        axes.plot(np.insert(at, breaks, np.nan), np.insert(candles.close, breaks, np.nan), linewidth=0.8)
    elif len(candles):
        _bodies(candles, at, axes)
    axes.xaxis_date()
    axes.set_title(f"{candles.symbol} {candles.interval} {candles.exchange}", loc="left")
    axes.set_xlabel("UTC")
    axes.grid(alpha=0.25)
    return axes


def _bodies(candles: Candles, at: Any, axes: Any) -> None:
    ends = candles.grid.after(candles.timestamp) / MS_PER_DAY
    is_up = candles.close >= candles.open
    for chosen, colour in ((is_up, RISING), (~is_up, FALLING)):
        middle, width = (at[chosen] + ends[chosen]) / 2, (ends[chosen] - at[chosen]) * 0.7
        axes.vlines(middle, candles.low[chosen], candles.high[chosen], color=colour, linewidth=0.8)
        low, high = np.minimum(candles.open, candles.close), np.maximum(candles.open, candles.close)
        axes.bar(middle, (high - low)[chosen], width, low[chosen], color=colour)
