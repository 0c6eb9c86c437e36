"""What is a candle, and what is a series of an interval: the one place that says so, for every way in.

A stored candle stays, so what cannot be one is refused before it is stored. A candle opens at a multiple of its
interval, has five finite numbers, open and close within low and high, and a volume that is not negative. Prices may be
negative, as crude oil's were in April 2020. A series of five-minute candles is no series of one-minute candles that has
gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from backtest_kit_mongo.candles.columns import FIELDS, Mask, Times, Values
from backtest_kit_mongo.candles.intervals import INTERVAL_MS, MONTH, MONTH_MAX_MS, Grid, find_grid, with_offset
from backtest_kit_mongo.coherence.moments import COUNTERS_END, FROM_MS, UNTIL_MS, implausible, iso

OFFSET_MS: Final = 15 * 60_000
"""Exchanges' days and hours open at whole quarters of an hour of UTC. What opens elsewhere, as at 23:59:59, is named by
something else than its open time.
"""
HOUR_MS: Final = 3_600_000
ALIKE_MIN: Final = 5
"""So many equal distances, and at least half of all, make a series one of a coarser interval. That every second trade
of a market that rarely trades comes after the same time happens to fewer than one in a thousand such series of six
candles, and practically never to longer ones.
"""


def are_wrong(timestamp: Times, values: Sequence[Values], grid: Grid) -> Mask:
    """Which rows are no candles of the interval."""
    open_, high, low, close, volume = values
    is_moment = (timestamp >= FROM_MS) & (timestamp < UNTIL_MS) | (timestamp >= 0) & (timestamp < COUNTERS_END)
    wrong: Mask = ~(is_moment & (grid.rest(timestamp) == 0))
    for column in values:
        wrong |= ~np.isfinite(column)
    # Written so that NaN, which is not within anything, is wrong too.
    return wrong | ~((low <= np.minimum(open_, close)) & (np.maximum(open_, close) <= high) & (volume >= 0))


def fault(moment: int, values: Sequence[float], grid: Grid) -> tuple[str, str] | None:
    """The column in which a row is no candle, and why; None if it is one."""
    said = implausible(moment)
    if said is None and grid.rest(moment):
        said = f"it opens at {iso(moment)}, not at {grid.said}"
    if said is not None:
        return "timestamp", f"{moment} is not an open time: {said}"
    for name, value in zip(FIELDS, values, strict=True):
        if not np.isfinite(value):
            return name, f"{value} is not a finite number"
    open_, high, low, close, volume = values
    if high < low:
        return "high", f"high {high} is below low {low}"
    for name, value in (("open", open_), ("close", close)):
        if not low <= value <= high:
            return name, f"{name} {value} lies outside low {low} to high {high}"
    return None if volume >= 0 else ("volume", f"volume {volume} is negative")


def coarser_ms(timestamp: Times, grid: Grid) -> int | None:
    """The interval (ms) that a series has instead, if it is evidently another.

    Args:
        timestamp: open times in any order, also several times.
    """
    distances = np.diff(np.unique(timestamp))
    if len(distances) < ALIKE_MIN:
        return None
    # The commonest distance, not the largest common divisor: one true candle among them must not hide the others.
    # Candles without trade that are left out make many distances, and the step is still the commonest.
    lengths, counts = np.unique(distances, return_counts=True)
    commonest = int(counts.argmax())
    found, alike = int(lengths[commonest]), int(counts[commonest])
    return found if found > grid.longest_ms and alike >= max(ALIKE_MIN, len(distances) / 2) else None


def other_interval(timestamp: Times, grid: Grid) -> str | None:
    """Why the candles are evidently of another, coarser interval; None if they may be of this one."""
    if (found := coarser_ms(timestamp, grid)) is None:
        return None
    return (
        f"these look like candles of {name_of(found)}, not of {grid.name}: most distances between "
        f"{len(timestamp):,} open times are {found:,} ms, and what is stored stays"
    )


def offset_grid(timestamp: Times, grid: Grid) -> Grid | None:
    """The grid with an offset that all these open times have, instead of one without; None if they have none."""
    if not len(timestamp) or "+" in grid.name or grid.name == MONTH:
        return None
    rest = grid.rest(timestamp)
    offset_ms = int(rest[0])
    if not offset_ms or offset_ms % OFFSET_MS or (rest != offset_ms).any():
        return None
    return find_grid(with_offset(grid.name, offset_ms))


def clock_change(timestamp: Times, grid: Grid) -> str:
    """What to say of candles that open at two times of day, an hour apart; empty if they do not."""
    rests = np.unique(grid.rest(timestamp))
    if len(rests) != 2 or int(rests[1] - rests[0]) != HOUR_MS or grid.step_ms <= HOUR_MS:
        return ""
    return (
        "; all open at one of two times an hour apart, as in a zone with daylight saving time, and no interval does: "
        "if they are trading days, give their dates without a time"
    )


def name_of(length_ms: int) -> str:
    """An interval by its name, or by its length if it has none."""
    names = {length: name for name, length in INTERVAL_MS.items()} | {MONTH_MAX_MS: MONTH}
    return names.get(length_ms, f"{length_ms / 60_000:g} minutes")
