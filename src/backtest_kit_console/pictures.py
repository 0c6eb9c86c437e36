"""Candles as SVG text; curves are the engine's `drawing.py`. Colours are classes of the style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from backtest_kit.drawing import Plot, thinned
from backtest_kit_mongo.audit.tracing import Mark
from backtest_kit_mongo.candles.frame import Candles

__all__ = ["BODIES_MAX", "candle_plot", "signal_plot"]

BODIES_MAX: Final = 240
"""More candles than this are too thin to have a body; then closes are drawn, with lowest and highest as a band."""
HEIGHT: Final = 340
SIGNAL_HEIGHT: Final = 420
NAMES_SHARE: Final = 0.06
"""Of the height, what names of moments have above all prices."""
NAME_WIDTH: Final = 200
"""Names of moments that are nearer to each other stand on different sides."""
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


def signal_plot(candles: Candles, marks: Sequence[Mark]) -> Plot:
    """The candles around a signal, with its entry and exit, levels that were reached, and how stop and target moved."""
    first, end = int(candles.timestamp[0]), int(candles.grid.after(int(candles.timestamp[-1])))
    shown = [mark for mark in marks if first <= mark.at <= end]
    highest = max([float(candles.high.max()), *(mark.price for mark in shown)])
    lowest = min([float(candles.low.min()), *(mark.price for mark in shown)])
    room = highest + (highest - lowest) * NAMES_SHARE
    plot = candle_plot(candles, [lowest, room], SIGNAL_HEIGHT)
    until = min((mark.at for mark in shown if mark.kind == "exit"), default=end)
    for kind in ("stop", "take"):
        moves = [mark for mark in shown if mark.kind == kind]
        if moves:
            at = np.array([*(mark.at for mark in moves), max(until, moves[-1].at)], float)
            price = np.array([*(mark.price for mark in moves), moves[-1].price], float)
            plot.line(at, price, kind, is_stepped=True)
    ends = [plot.x(mark.at) for mark in shown if mark.kind in ("entry", "exit")]
    is_short = len(ends) > 1 and max(ends) - min(ends) < NAME_WIDTH
    for mark in shown:
        if mark.kind in ("entry", "exit"):
            is_left = mark.kind == "entry" if is_short else None
            plot.moment(mark.at, mark.kind, f"{mark.kind} {mark.price:,.10g}", is_left=is_left)
        if mark.kind not in ("stop", "take"):
            plot.point(mark.at, mark.price, mark.kind, f"{mark.kind} {mark.price:,.10g} {mark.text}")
    return plot


def _gaps(plot: Plot, candles: Candles) -> None:
    for gap in candles.gaps[:GAPS_MAX]:
        if plot.span[0] <= gap.first < plot.span[1]:  # Before the first candle and after the last there is no picture.
            plot.band(gap.first, int(candles.grid.after(gap.last)), "gap")


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
