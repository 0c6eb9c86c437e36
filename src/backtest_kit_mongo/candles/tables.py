"""Tables of candles as programs have them: pandas, polars, Arrow, NumPy, mappings of arrays, rows of an exchange."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from backtest_kit_mongo.candles.columns import FIELDS
from backtest_kit_mongo.candles.layouts import HEADER, SHORT, TIME_NAMES
from backtest_kit_mongo.errors import InvalidPayload

_MS: Final = np.dtype("M8[ms]")


def by_name(series: object, table: Any) -> Any:
    """What gives an array for each of HEADER by its name: the columns of a table under their names here, also if those
    are Title Case or the time is the index; or the table itself, if it names no columns.

    Raises:
        InvalidPayload: its times are dates without a zone, or finer than a millisecond.
    """
    if isinstance(table, Sequence) or (getattr(table, "ndim", 0) == 2 and not hasattr(table, "columns")):
        return _of_rows(series, table)
    names = _names(table)
    if names is None:
        return table
    known: dict[str, Any] = {}
    for name in names:
        plain = str(name).lower()
        known.setdefault(SHORT.get(plain, plain), name)
    found: dict[str, Any] = {field: table[known[field]] for field in FIELDS if field in known}
    if (time := next((known[name] for name in TIME_NAMES if name in known), None)) is not None:
        found["timestamp"] = _times(series, table[time])
    elif (index := getattr(table, "index", None)) is not None and getattr(index, "dtype", np.dtype("O")).kind == "M":
        found["timestamp"] = _times(series, index)
    return found


def _names(table: Any) -> list[Any] | None:
    if isinstance(table, Mapping):
        return list(table)
    for attribute in ("column_names", "columns"):
        if (names := getattr(table, attribute, None)) is not None and not callable(names):
            return list(names)
    return list(table.dtype.names) if getattr(getattr(table, "dtype", None), "names", None) else None


def _of_rows(series: object, rows: Any) -> dict[str, Any]:
    """Rows as ccxt gives them (time, open, high, low, close, volume), or dicts."""
    if len(rows) and isinstance(rows[0], Mapping):
        missing = next(((n, name) for n, row in enumerate(rows) for name in HEADER if name not in row), None)
        if missing is not None:
            raise InvalidPayload(f"{series}: candle {missing[0]} has no {missing[1]!r}. No candle was written.")
        return {name: [row[name] for row in rows] for name in HEADER}
    if (wrong := next((n for n, row in enumerate(rows) if len(row) < len(HEADER)), None)) is not None:
        raise InvalidPayload(
            f"{series}: candle {wrong} has {len(rows[wrong])} values, not {', '.join(HEADER)}. No candle was written."
        )
    times, *values = ([row[place] for row in rows] for place in range(len(HEADER)))
    is_float = all(isinstance(time, float) and time.is_integer() for time in times)
    return dict(zip(HEADER, (list(map(int, times)) if is_float else times, *values), strict=True))


def _times(series: object, column: Any) -> Any:
    """Open times as integers of milliseconds, if they are dates."""
    is_numpy = isinstance(column, np.ndarray)
    array = column if is_numpy else np.asarray(_without_zone(column))
    if array.dtype.kind != "M":
        return column
    if not is_numpy and not _has_zone(column):
        raise InvalidPayload(
            f"{series}: the times have no zone, so which moments they are is unknown. Give them one, for example "
            ".tz_localize('UTC') in pandas. No candle was written."
        )
    ms = array.astype(_MS)
    if (ms != array).any():
        raise InvalidPayload(f"{series}: a time is no whole millisecond, or none at all. No candle was written.")
    return ms.astype(np.int64)


def _without_zone(column: Any) -> Any:
    """pandas' dates as those of UTC; NumPy knows no zones, and others give it UTC by themselves."""
    if getattr(getattr(column, "dtype", None), "kind", "") != "M" or not _has_zone(column):
        return column
    dates = getattr(column, "dt", column)
    return dates.tz_convert(None).to_numpy() if hasattr(dates, "tz_convert") else column


def _has_zone(column: Any) -> bool:
    kind = getattr(column, "dtype", getattr(column, "type", None))
    return any(getattr(kind, name, None) is not None for name in ("tz", "time_zone"))
