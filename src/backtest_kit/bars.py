"""Candles of one interval as columns, and views of their closed part. Only NumPy, no I/O."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bars", "Series", "resample", "tail_without_gap"]

Times = NDArray[np.int64]
Values = NDArray[np.float64]


class Table(Protocol):
    """Candles by column, ascending; `timestamp` are open times in epoch ms. `bk.Candles` and a `Series` are some."""

    @property
    def timestamp(self) -> Times: ...
    @property
    def open(self) -> Values: ...
    @property
    def high(self) -> Values: ...
    @property
    def low(self) -> Values: ...
    @property
    def close(self) -> Values: ...
    @property
    def volume(self) -> Values: ...


class Series:
    """Candles without a gap, ascending.

    Attributes:
        first: open time of the first candle (ms), also of an empty series.
        step_ms: length of a candle.
        timestamp: open times, ms.
    """

    __slots__ = ("close", "first", "high", "low", "open", "step_ms", "timestamp", "volume")

    def __init__(
        self,
        first: int,
        step_ms: int,
        timestamp: Times,
        open_: Values,
        high: Values,
        low: Values,
        close: Values,
        volume: Values,
    ) -> None:
        self.first, self.step_ms, self.timestamp = first, step_ms, timestamp
        self.open, self.high, self.low, self.close, self.volume = open_, high, low, close, volume

    @classmethod
    def of(cls, table: Table, step_ms: int, first: int) -> Series:
        times = table.timestamp
        begin = int(times[0]) if len(times) else first
        return cls(begin, step_ms, times, table.open, table.high, table.low, table.close, table.volume)

    def __len__(self) -> int:
        return len(self.timestamp)

    def part(self, start: int, end: int) -> Series:
        """Candles by position, as a view."""
        cut = slice(start, end)
        first = self.first + start * self.step_ms
        columns = (self.timestamp, self.open, self.high, self.low, self.close, self.volume)
        return Series(first, self.step_ms, *(column[cut] for column in columns))  # type: ignore[arg-type]


class Bars:
    """Closed candles that a strategy asked for, oldest first. Columns are read-only NumPy arrays, views without a copy.

    There are fewer than asked for only where history begins; `len` says how many.
    """

    __slots__ = ("_end", "_series", "_start")

    def __init__(self, series: Series, start: int, end: int) -> None:
        self._series, self._start, self._end = series, start, end

    def __len__(self) -> int:
        return self._end - self._start

    @property
    def timestamp(self) -> Times:
        """Open times, epoch ms."""
        return self._series.timestamp[self._start : self._end]

    @property
    def open(self) -> Values:
        return self._series.open[self._start : self._end]

    @property
    def high(self) -> Values:
        return self._series.high[self._start : self._end]

    @property
    def low(self) -> Values:
        return self._series.low[self._start : self._end]

    @property
    def close(self) -> Values:
        return self._series.close[self._start : self._end]

    @property
    def volume(self) -> Values:
        return self._series.volume[self._start : self._end]

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dict a candle, for prompts and logs."""
        names = ("timestamp", "open", "high", "low", "close", "volume")
        columns = [getattr(self, name).tolist() for name in names]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    def __repr__(self) -> str:
        if not len(self):
            return "<no bars>"
        times = self.timestamp
        return f"<{len(self)} bars of {self._series.step_ms // 60_000} minutes, open times {times[0]} to {times[-1]}>"


def resample(minutes: Series, step_ms: int) -> Series:
    """Longer candles, each made of all of its minutes; a part of one at either end is left out."""
    per = step_ms // minutes.step_ms
    skip = -(minutes.first // minutes.step_ms) % per
    count = max(0, (len(minutes) - skip) // per)
    cut = slice(skip, skip + count * per)
    shape = (count, per)
    opens, highs, lows, closes, volumes = (
        column[cut].reshape(shape)
        for column in (minutes.open, minutes.high, minutes.low, minutes.close, minutes.volume)
    )
    first = minutes.first + skip * minutes.step_ms
    if not count:
        nothing = np.empty(0)
        return Series(first, step_ms, np.empty(0, np.int64), nothing, nothing, nothing, nothing, nothing)
    made = (opens[:, 0].copy(), highs.max(1), lows.min(1), closes[:, -1].copy(), volumes.sum(1))
    times = first + np.arange(count, dtype=np.int64) * step_ms
    for column in (times, *made):
        column.flags.writeable = False
    return Series(first, step_ms, times, *made)


def tail_without_gap(times: Times, step_ms: int) -> int:
    """Position from which on candles follow each other without a gap."""
    breaks = np.flatnonzero(np.diff(times) != step_ms)
    return int(breaks[-1]) + 1 if len(breaks) else 0
