"""Candles as SVG text; curves are the engine's `drawing.py`. Colours are classes of the style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from backtest_kit.drawing import Plot, thinned
from backtest_kit_mongo.candles.frame import Candles

__all__ = ["BODIES_MAX", "candle_plot"]

BODIES_MAX: Final = 240
"""More candles than this are too thin to have a body; then closes are drawn, with lowest and highest as a band."""
HEIGHT: Final = 340
GAPS_MAX: Final = 400
"""Drawn at most; the table has all."""


def candle_plot(candles: Candles, levels: Sequence[float] = (), height: int = HEIGHT) -> Plot:
    """The candles of a range, with gaps marked. There is at least one.

    Args:
        levels: prices that the picture has to reach.
    """
    low = min(float(candles.low.min()), *levels) if levels else float(candles.low.min())
    high = max(float(candles.high.max()), *levels) if levels else float(candles.high.max())
    span = int(candles.timestamp[0]), int(candles.grid.after(int(candles.timestamp[-1])))
    title = f"{candles.symbol} {candles.interval} at {candles.exchange}, {len(candles):,} candles"
    plot = Plot(title, height, span, low, high)
    _gaps(plot, candles)
    if len(candles) <= BODIES_MAX:
        _bodies(plot, candles)
    else:
        _lines(plot, candles)
    return plot


def _gaps(plot: Plot, candles: Candles) -> None:
    for gap in candles.gaps[:GAPS_MAX]:
        plot.band(max(gap.first, plot.span[0]), min(int(candles.grid.after(gap.last)), plot.span[1]), "gap")


def _bodies(plot: Plot, candles: Candles) -> None:
    ends = candles.grid.after(candles.timestamp)
    columns = (candles.timestamp, ends, candles.open, candles.high, candles.low, candles.close)
    for at, end, opened, high, low, close in zip(*(column.tolist() for column in columns), strict=True):
        plot.candle(at, end, (opened, high, low, close))


def _lines(plot: Plot, candles: Candles) -> None:
    """Pieces between gaps: a line across one would show prices that nobody saw."""
    follows = candles.grid.after(candles.timestamp[:-1])
    cuts = (np.flatnonzero(candles.timestamp[1:] != follows) + 1).tolist()
    for first, end in zip([0, *cuts], [*cuts, len(candles)], strict=True):
        if end - first > 1:
            at, close = thinned(candles.timestamp[first:end], candles.close[first:end])
            plot.line(at, close, "price")
