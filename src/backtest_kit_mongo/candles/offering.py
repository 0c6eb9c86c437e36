"""Candles as callers offer them: checked, and brought into the form in which they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backtest_kit_mongo.candles.columns import EXACT_MAX, FIELDS, Columns, Mask, Times, Values
from backtest_kit_mongo.candles.frame import Candles
from backtest_kit_mongo.candles.intervals import Grid
from backtest_kit_mongo.candles.plausible import are_wrong, fault
from backtest_kit_mongo.candles.tables import by_name
from backtest_kit_mongo.coherence.codec import is_masked
from backtest_kit_mongo.errors import InvalidPayload

NOTHING_WRITTEN = "No candle was written."
_FLOAT_BYTES: Final = 8


class Offer(NamedTuple):
    """Candles in any order, perhaps several of one open time. `integers` as in `Columns`."""

    timestamp: Times
    values: tuple[Values, ...]
    integers: int

    def take(self, chosen: Mask | NDArray[np.intp]) -> Offer:
        return Offer(self.timestamp[chosen], tuple(column[chosen] for column in self.values), self.integers)


def of_table(series: object, table: Any, grid: Grid) -> Offer:
    """Candles of a table: `Candles`, `Columns`, or what `tables.by_name` understands.

    Raises:
        InvalidPayload: a column is missing or has another length, a candle is wrong (the message names it by its place
            and open time), or `Candles` are of another interval.
    """
    if isinstance(table, Candles) and table.grid != grid:
        raise InvalidPayload(
            f"{series}: these are candles of {table.interval}; stored as others they would stay so. {NOTHING_WRITTEN}"
        )
    columns = table.columns if isinstance(table, Candles) else table
    if isinstance(columns, Columns):
        offer = Offer(columns.timestamp, columns.values, columns.integers)
    else:
        columns = by_name(series, columns)
        try:
            offer = _of_arrays(
                *(
                    _array(series, columns, name, "iu" if name == "timestamp" else "iuf")
                    for name in ("timestamp", *FIELDS)
                )
            )
        except OverflowError as cause:
            raise InvalidPayload(f"{series}: {cause}. {NOTHING_WRITTEN}") from cause
    lengths = [len(offer.timestamp), *map(len, offer.values)]
    if len(set(lengths)) > 1:
        raise InvalidPayload(f"{series}: the columns have different lengths {lengths}. {NOTHING_WRITTEN}")
    if (fault := find_fault(offer, grid)) is not None:
        raise InvalidPayload(f"{series}: {fault}. {NOTHING_WRITTEN}")
    return offer


def _array(series: object, table: Any, name: str, kinds: str) -> NDArray[Any]:
    try:
        given = table[name]
        array = np.asarray(given)
    except (KeyError, IndexError, TypeError, ValueError) as cause:
        raise InvalidPayload(f"{series}: no column {name!r}: {cause!r}. {NOTHING_WRITTEN}") from cause
    if is_masked(given):
        raise InvalidPayload(f"{series}: {name} has masked values, which are missing. {NOTHING_WRITTEN}")
    if array.ndim != 1 or (array.dtype.kind not in kinds and len(array)):
        wanted = "epoch milliseconds as integers" if name == "timestamp" else "numbers"
        raise InvalidPayload(
            f"{series}: {name} must be a one-dimensional array of {wanted}, not {array.dtype} of shape {array.shape}. "
            f"{NOTHING_WRITTEN}"
        )
    return array


def of_rows(rows: Sequence[Mapping[str, Any]]) -> Offer:
    """Rows whose columns are all there, and numbers.

    Raises:
        OverflowError: a number is too large for a float, or is none of those that floats can be.
    """
    columns: list[NDArray[Any]] = []
    for field in FIELDS:
        plain = [row[field] for row in rows]
        is_exact = set(map(type, plain)) == {int} and min(plain) >= -EXACT_MAX and max(plain) <= EXACT_MAX
        column = np.array(plain, np.int64 if is_exact else np.float64)
        if not is_exact and (np.abs(column) >= EXACT_MAX).any():
            _require_exact(field, plain, column)
        columns.append(column)
    return _of_arrays(np.array([row["timestamp"] for row in rows], np.int64), *columns)


def _require_exact(name: str, given: Sequence[Any] | NDArray[Any], column: NDArray[Any]) -> None:
    """Refuse what would be stored as another number than it is.

    Raises:
        OverflowError: it would be.
    """
    for place, (number, stored) in enumerate(zip(given, column.tolist(), strict=True)):
        if np.isfinite(stored) and number != stored:
            raise OverflowError(
                f"candle {place}, {name}: {number!s:.60} would be stored as {stored:.17g}, because it is no 64-bit "
                "float; convert it with float() if that is what you mean"
            )


def _of_arrays(timestamp: NDArray[Any], *columns: NDArray[Any]) -> Offer:
    integers = 0
    for bit, column in enumerate(columns):
        if column.dtype.kind in "iu" and (
            not len(column) or (column.min() >= -EXACT_MAX and column.max() <= EXACT_MAX)
        ):
            integers |= 1 << bit
        elif column.dtype.kind in "iu" or column.dtype.itemsize > _FLOAT_BYTES:
            _require_exact(FIELDS[bit], column.astype(object), column.astype(np.float64))
    values = tuple(column.astype(np.float64, copy=False) for column in columns)
    return Offer(timestamp.astype(np.int64, copy=False), values, integers)


def find_fault(offer: Offer, grid: Grid) -> str | None:
    """What is wrong with the first wrong candle, with its place and open time; None if all are right."""
    wrong = are_wrong(offer.timestamp, offer.values, grid)
    if not wrong.any():
        return None
    first, count = int(np.argmax(wrong)), int(np.count_nonzero(wrong))
    moment, values = int(offer.timestamp[first]), [float(column[first]) for column in offer.values]
    column, said = fault(moment, values, grid) or ("timestamp", "is no candle")
    return f"candle {first} at {moment}, {column}: {said}{f', and {count - 1:,} more are wrong' if count > 1 else ''}"


def rounds(offer: Offer) -> Iterator[Columns]:
    """The first candle of each open time; then, if there are any, the next ones that are not equal to it; and so on.

    Stored one round after the other, the first wins, and what conflicts with it meets it there like any other conflict.
    """
    while len(offer.timestamp):
        times, first, of_first = np.unique(offer.timestamp, return_index=True, return_inverse=True)
        yield Columns(times, tuple(column[first] for column in offer.values), offer.integers)
        if len(times) == len(offer.timestamp):
            return
        is_other = np.zeros(len(offer.timestamp), np.bool_)
        for column in offer.values:
            is_other |= column != column[first][of_first]
        offer = offer.take(is_other)
