"""Candles of a coarser interval made of finer ones. Pure functions."""

from __future__ import annotations

import numpy as np

from backtest_kit_mongo.candles.columns import EXACT_MAX, Columns, empty
from backtest_kit_mongo.candles.intervals import Grid
from backtest_kit_mongo.errors import CallerError

VOLUME_BIT = 1 << 4


def resampled(columns: Columns, grid: Grid, coarser: Grid, *, partial: bool) -> Columns:
    """One candle for each candle of `coarser` whose finer ones are all there; if `partial`, where any of them is.

    Raises:
        CallerError: a candle of the one does not end where one of the other ends.
    """
    if not len(columns):
        return empty()
    index = coarser.index(columns.timestamp)
    first = np.flatnonzero(np.concatenate(((True,), index[1:] != index[:-1])))
    opens = coarser.open(index[first])
    ends = coarser.after(opens)
    if coarser.longest_ms < grid.longest_ms or grid.rest(opens).any() or grid.rest(ends).any():
        raise CallerError(f"candles of {grid.name} do not make candles of {coarser.name}: not each lies within one.")
    made = _aggregated(columns, first, opens)
    if partial:
        return made
    is_whole = np.diff(first, append=len(columns)) == grid.index(ends) - grid.index(opens)
    return Columns(made.timestamp[is_whole], tuple(column[is_whole] for column in made.values), made.integers)


def _aggregated(columns: Columns, first: np.ndarray, opens: np.ndarray) -> Columns:
    open_, high, low, close, volume = columns.values
    last = np.append(first[1:], len(columns)) - 1
    volumes = np.add.reduceat(volume, first)
    integers = columns.integers if volumes.max() <= EXACT_MAX else columns.integers & ~VOLUME_BIT
    highs, lows = np.maximum.reduceat(high, first), np.minimum.reduceat(low, first)
    return Columns(opens, (open_[first], highs, lows, close[last], volumes), integers)
