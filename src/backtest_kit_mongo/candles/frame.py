"""The candles that a user gets from a read."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import import_module
from typing import Any, SupportsIndex, TypeAlias, overload

from backtest_kit_mongo.candles.columns import FIELDS, Columns, Times, Values, between, missing, take, to_rows
from backtest_kit_mongo.candles.intervals import Grid, grid_of
from backtest_kit_mongo.coherence.moments import iso, moment_ms

When: TypeAlias = int | datetime
"""Epoch milliseconds, or a datetime with a zone."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Neighbouring open times without a candle.

    Attributes:
        first: the first of them (ms).
        last: the last of them (ms); equal to `first` if one candle is missing.
        count: how many candles are missing.
    """

    first: int
    last: int
    count: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Candles:
    """Candles of one series that open in [since, until), ascending, column by column. False if there are none.

    The arrays are read-only, and parts of a series (`candles[10:20]`, `between`, `before`) share them.

    Attributes:
        since, until: what was asked for (ms), for a part: what it was cut to; `gaps` are reported within it.
        grid: where candles of the interval open.
        columns: the candles.
    """

    symbol: str
    interval: str
    exchange: str
    since: int
    until: int
    grid: Grid
    columns: Columns

    @property
    def step_ms(self) -> int:
        """Length of the interval; a month's mean length."""
        return self.grid.step_ms

    @property
    def timestamp(self) -> Times:
        """Open times, epoch milliseconds."""
        return self.columns.timestamp

    @property
    def open(self) -> Values:
        return self.columns.values[0]

    @property
    def high(self) -> Values:
        return self.columns.values[1]

    @property
    def low(self) -> Values:
        return self.columns.values[2]

    @property
    def close(self) -> Values:
        return self.columns.values[3]

    @property
    def volume(self) -> Values:
        return self.columns.values[4]

    @property
    def integers(self) -> int:
        """Bit i is set if every value of the i-th column (open, high, low, close, volume) was stored as an integer."""
        return self.columns.integers

    def __len__(self) -> int:
        return len(self.columns)

    def __iter__(self) -> Iterator[dict[str, int | float]]:
        return iter(self.to_dicts())

    @overload
    def __getitem__(self, index: SupportsIndex) -> dict[str, int | float]: ...
    @overload
    def __getitem__(self, index: slice) -> Candles: ...

    def __getitem__(self, index: SupportsIndex | slice) -> dict[str, int | float] | Candles:
        """One candle as a dict, or some as a view.

        Raises:
            IndexError: there are not so many candles.
            ValueError: a slice with a step other than 1, which would be no series; slice the arrays instead.
        """
        if isinstance(index, slice):
            return self._slice(index)
        position = range(len(self))[operator.index(index)]
        return to_rows(take(self.columns, slice(position, position + 1)))[0]

    def _slice(self, index: slice) -> Candles:
        first, end, step = index.indices(len(self))
        if step != 1:
            raise ValueError(
                f"candles[::{step}] would be no series of candles; slice an array instead: close[::{step}]"
            )
        if first >= end:
            since = self.until if first >= len(self) else int(self.timestamp[first])
            return replace(self, since=since, until=since, columns=take(self.columns, slice(first, first)))
        since = int(self.timestamp[first]) if first else self.since
        until = self.grid.after(int(self.timestamp[end - 1])) if end < len(self) else self.until
        return replace(self, since=since, until=until, columns=take(self.columns, slice(first, end)))

    def between(self, since: When, until: When) -> Candles:
        """Candles that open at `since` or later and before `until`, as a view. Never more than this series has."""
        first = min(max(moment_ms(since, "since"), self.since), self.until)
        end = min(max(moment_ms(until, "until"), first), self.until)
        return replace(self, since=first, until=end, columns=between(self.columns, first, end))

    def before(self, when: When) -> Candles:
        """Candles that are closed at `when`, as a view: what a strategy may know at that time."""
        moment = moment_ms(when, "when")
        return self.between(self.since, self.grid.floor(moment))

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """Where candles are missing in [since, until), ascending."""
        runs = missing(self.timestamp, self.grid, self.since, self.until).tolist()
        return tuple(
            Gap(first, self.grid.floor(end - 1), self.grid.index(end) - self.grid.index(first)) for first, end in runs
        )

    @property
    def is_complete(self) -> bool:
        """Whether no candle is missing in [since, until); of a range without an open time, none is."""
        return not self._missing_count()

    def _missing_count(self) -> int:
        return self._open_times() - len(self)

    def _open_times(self) -> int:
        return self.grid.count(self.since, self.until)

    def resample(self, interval: str, *, partial: bool = False) -> Candles:
        """Candles of a coarser interval: `minutes.resample("1h")`, `hours.resample("1d+16h")`.

        One whose finer candles are not all there is left out, and so a gap: its high, low and volume would be those of
        a part.

        Args:
            partial: make those too, of what is there.

        Raises:
            InvalidKey: there is no such interval.
            CallerError: it is finer, or a candle would lie in two of its candles.
        """
        from backtest_kit_mongo.candles.resampling import resampled

        grid = grid_of(interval)
        made = resampled(self.columns, self.grid, grid, partial=partial)
        since, until = grid.floor(self.since), grid.ceil(self.until)
        return replace(self, interval=interval, since=since, until=until, grid=grid, columns=made)

    def plot(self, axes: Any = None) -> Any:
        """Draw the candles with matplotlib; over 500 the closing prices only.

        Args:
            axes: where to draw (`matplotlib.axes.Axes`). Default: a new figure, as wide as 12 inches.

        Returns:
            The axes; `.figure.savefig("candles.png")` keeps the picture.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from backtest_kit_mongo.candles.plotting import plot

        return plot(self, axes)

    def to_dicts(self) -> list[dict[str, int | float]]:
        """One dict a candle, as `read_candles_data` gives; values that were stored as integers are int."""
        return to_rows(self.columns)

    def to_arrow(self) -> Any:
        """A `pyarrow.Table` that shares memory: `timestamp` (int64, epoch ms) and five float64 columns.

        Raises:
            ImportError: pyarrow is not installed.
        """
        return _library("pyarrow", "parquet").table(self._by_name())

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` of its own memory: five float64 columns by `timestamp`, a `DatetimeIndex` in UTC.
        `write_candles` takes it back.

        Raises:
            ImportError: pandas is not installed.
        """
        pandas = _library("pandas", "pandas")
        index = pandas.DatetimeIndex(self.timestamp.astype("M8[ms]"), name="timestamp").tz_localize("UTC")
        return pandas.DataFrame(dict(zip(FIELDS, self.columns.values, strict=True)), index=index)

    def to_polars(self) -> Any:
        """A `polars.DataFrame`: `timestamp` (Int64, epoch ms) and five Float64 columns.

        Raises:
            ImportError: polars is not installed.
        """
        return _library("polars", "polars").DataFrame(self._by_name())

    def _by_name(self) -> dict[str, Times | Values]:
        return {"timestamp": self.timestamp, **dict(zip(FIELDS, self.columns.values, strict=True))}

    def __repr__(self) -> str:
        asked = f"{iso(self.since)} to {iso(self.until)}"
        lacking = self._missing_count()
        reported = f"{lacking:,} missing" if lacking else "no gaps" if self._open_times() > 0 else "no open time in it"
        kept = f"{len(self):,} candle{'' if len(self) == 1 else 's'}, {reported}"
        return f"<{self.symbol} {self.interval} {self.exchange}, {asked}: {kept}>"


def _library(name: str, extra: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as cause:
        raise ImportError(f"This needs {name}: pip install 'backtest-kit-mongo[{extra}]'.", name=name) from cause
