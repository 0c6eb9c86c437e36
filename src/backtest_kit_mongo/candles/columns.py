"""Candles as columns: what plans and backends exchange. Only NumPy, no I/O.

Everything here leaves its arguments alone and shares memory with them where it can; the arrays are read-only for that
reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from backtest_kit_mongo.candles.intervals import Grid

Times: TypeAlias = NDArray[np.int64]
Values: TypeAlias = NDArray[np.float64]
_Scalar = TypeVar("_Scalar", bound=np.generic)
Mask: TypeAlias = NDArray[np.bool_]

FIELDS: Final = ("open", "high", "low", "close", "volume")
"""A candle's values, in the order in which columns, blocks and documents keep them."""

EXACT_MAX: Final = 2**53
"""Up to here float64 holds every integer; a column with a larger one is not marked in `Columns.integers`."""


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Candles of one series, ascending by open time, each open time once. False if there are none.

    Attributes:
        timestamp: open times, epoch milliseconds.
        values: one column for each of `FIELDS`, finite.
        integers: bit i is set if every value of FIELDS[i] was stored as an integer of at most `EXACT_MAX`. It
            says how to print a value (1413, not 1413.0) and nothing about how large it is.
    """

    timestamp: Times
    values: tuple[Values, ...]
    integers: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "timestamp", _read_only(self.timestamp))
        object.__setattr__(self, "values", tuple(map(_read_only, self.values)))

    def __len__(self) -> int:
        return len(self.timestamp)

    def __repr__(self) -> str:
        span = f", {self.timestamp[0]} to {self.timestamp[-1]}" if len(self) else ""
        return f"<{len(self)} candles{span}>"


def _read_only(array: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """A view that cannot be written through; the caller's array stays as it is."""
    if not array.flags.writeable:
        return array
    view = array.view()
    view.flags.writeable = False
    return view


def empty() -> Columns:
    """No candles."""
    return Columns(np.empty(0, np.int64), tuple(np.empty(0, np.float64) for _ in FIELDS))


def of_rows(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """Columns of valid rows that are ascending by `timestamp`.

    Raises:
        ValueError: they are not ascending, or an open time comes twice.
    """
    timestamp = np.array([row["timestamp"] for row in rows], np.int64)
    if not (timestamp[1:] > timestamp[:-1]).all():
        raise ValueError("candles must be ascending by timestamp, each open time once")
    integers = 0
    values = []
    for bit, field in enumerate(FIELDS):
        plain = [row[field] for row in rows]
        column = np.array(plain, np.float64)
        if plain and set(map(type, plain)) == {int} and np.abs(column).max() <= EXACT_MAX:
            integers |= 1 << bit
        values.append(column)
    return Columns(timestamp, tuple(values), integers)


def to_rows(columns: Columns) -> list[dict[str, int | float]]:
    """Rows of plain numbers; values are integers where `integers` says so."""
    plain: list[list[int | float]] = [
        (column.astype(np.int64) if columns.integers >> bit & 1 else column).tolist()
        for bit, column in enumerate(columns.values)
    ]
    return [
        {"timestamp": timestamp, "open": open_, "high": high, "low": low, "close": close, "volume": volume}
        for timestamp, open_, high, low, close, volume in zip(columns.timestamp.tolist(), *plain, strict=True)
    ]


def take(columns: Columns, chosen: slice | Mask) -> Columns:
    """Some of the candles: a view for a slice (of positive step), a copy for a mask."""
    return Columns(columns.timestamp[chosen], tuple(column[chosen] for column in columns.values), columns.integers)


def between(columns: Columns, since: int, until: int) -> Columns:
    """Those that open at `since` or later and before `until` (ms), as a view."""
    first, end = np.searchsorted(columns.timestamp, (since, until))
    return columns if end - first == len(columns) else take(columns, slice(int(first), int(end)))


def equal(left: Columns, right: Columns) -> bool:
    """Whether both are the same candles with the same numbers, however those were stored."""
    return np.array_equal(left.timestamp, right.timestamp) and all(map(np.array_equal, left.values, right.values))


def merge(parts: Sequence[Columns]) -> Columns:
    """All candles of the parts. Where parts overlap they must be equal. A value column counts as integers if it does in
    every part.

    Parts that do not overlap are only put one after the other; a single part is returned as it is.
    """
    filled = sorted((part for part in parts if len(part)), key=lambda part: int(part.timestamp[0]))
    if not filled:
        return empty()
    if len(filled) == 1:
        return filled[0]
    joined = _joined(filled)
    apart = all(before.timestamp[-1] < after.timestamp[0] for before, after in pairwise(filled))
    return joined if apart else _sorted(joined)


def _joined(parts: Sequence[Columns]) -> Columns:
    integers = parts[0].integers
    for part in parts:
        integers &= part.integers
    values = tuple(np.concatenate([part.values[i] for part in parts]) for i in range(len(FIELDS)))
    return Columns(np.concatenate([part.timestamp for part in parts]), values, integers)


def _sorted(joined: Columns) -> Columns:
    order = np.argsort(joined.timestamp, kind="stable")
    timestamp = joined.timestamp[order]
    is_new = np.concatenate(((True,), timestamp[1:] != timestamp[:-1]))
    order = order[is_new]
    return Columns(timestamp[is_new], tuple(column[order] for column in joined.values), joined.integers)


def missing(timestamp: Times, grid: Grid, since: int, until: int) -> NDArray[np.int64]:
    """Where there is no candle: runs of open times as rows [first, end), `end` being the next open time after the run.

    Args:
        timestamp: ascending open times, each at least `since` and less than `until` (ms).
    """
    first, end = grid.ceil(since), grid.ceil(until)
    if first >= end:
        return np.empty((0, 2), np.int64)
    starts = np.concatenate(((first,), grid.after(timestamp)))
    ends = np.concatenate((timestamp, (end,)))
    runs = np.flatnonzero(starts < ends)
    return np.column_stack((starts[runs], ends[runs]))
