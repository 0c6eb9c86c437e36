"""Candles in files: CSV, CSV.gz and Parquet, one series a file, named `SYMBOL-interval.csv.gz`.

Columns are found by their names, in any order and case; others are ignored. A file is read and checked as a whole
before anything of it is used. Prices are text that reads back as the same float64, so what was exported and is imported
and exported again is the same text.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from backtest_kit_mongo.candles.columns import EXACT_MAX, FIELDS, Columns, take
from backtest_kit_mongo.candles.file_tables import (
    HEADER,
    ParquetMissing,
    Table,
    Where,
    WrongFile,
    arrow_modules,
    read_csv,
    read_parquet,
    wrong_at,
)

__all__ = ["SUFFIXES", "ParquetMissing", "SeriesName", "WrongFile", "find", "name_of", "read_file", "series_of"]
__all__ += ["write_csv", "write_file"]

SUFFIXES: Final = (".csv.gz", ".csv", ".parquet")
ROWS_MAX: Final = 50_000
"""Candles that are text at once."""
MILLIS_MAX: Final = 10**14
"""The year 5138; a larger time was not meant as milliseconds."""
SECONDS_MAX: Final = 10**10
"""The year 2286 in seconds, April 1970 in milliseconds."""
_NAME: Final = re.compile(r"(?P<symbol>.+)-(?P<interval>\d+[a-zA-Z])(?:\.csv\.gz|\.csv|\.parquet)")

Wrong = Callable[[int, str, str], WrongFile]
"""The error to raise, from a row, a column and what is wrong there."""


class SeriesName(NamedTuple):
    """What a file's name says: a symbol and an interval, which need not be one that is known."""

    symbol: str
    interval: str


def series_of(path: Path) -> SeriesName | None:
    """The series that a file is named after; None if its name is not `SYMBOL-interval` and one of `SUFFIXES`."""
    found = _NAME.fullmatch(path.name)
    return None if found is None else SeriesName(unquote(found["symbol"]), found["interval"])


def name_of(symbol: str, interval: str, suffix: str) -> str:
    """A file name from which `series_of` reads the series again. A slash in a symbol is written %2F."""
    return f"{quote(symbol, safe='')}-{interval}{suffix}"


def find(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, and of a directory those that are named after a series.

    Raises:
        WrongFile: there is no such file, or no such file in a directory.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(entry for entry in path.iterdir() if entry.is_file() and series_of(entry))
            if not inside:
                raise WrongFile(f"{path} has no file that is named like BTCUSDT-1m.csv.gz (or .csv, or .parquet).")
            found.update(dict.fromkeys(inside))
        elif path.is_file():
            found[path] = None
        else:
            raise WrongFile(f"{path} is neither a file nor a directory.")
    return list(found)


def read_file(path: Path, step_ms: int) -> Columns:
    """All candles of a file, sorted; a candle that stands there twice counts once.

    Args:
        step_ms: the interval; every open time must be a multiple of it.

    Raises:
        WrongFile: the file cannot be read, a value is missing or not a finite number, a time is misaligned, high is below
            low, or two lines have different candles of one time.
        ParquetMissing: it is Parquet and pyarrow is not installed.
    """
    try:
        table, where = read_parquet(path) if path.name.endswith(".parquet") else read_csv(path)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as cause:
        if isinstance(cause, ParquetMissing):
            raise
        raise WrongFile(f"{path} cannot be read: {cause}") from cause
    return _checked(table, partial(wrong_at, path, where), where, step_ms)


# -- checks


def _checked(table: Table, wrong: Wrong, where: Where, step_ms: int) -> Columns:
    times, *values = table.arrays
    _check_times(times, wrong, step_ms)
    for name, column in zip(FIELDS, values, strict=True):
        if (bad := _first(~np.isfinite(column))) is not None:
            raise wrong(bad, name, f"{column[bad]} is not a finite number")
    _, high, low, *_ = values
    if (bad := _first(high < low)) is not None:
        raise wrong(bad, "high", f"high {high[bad]} is below low {low[bad]}")
    integers = table.integers if len(times) else 0
    for bit, column in enumerate(values):
        if len(column) and np.abs(column).max() > EXACT_MAX:
            integers &= ~(1 << bit)
    return _sorted(Columns(times.astype(np.int64), tuple(values), integers), wrong, where)


def _check_times(times: NDArray[np.float64], wrong: Wrong, step_ms: int) -> None:
    with np.errstate(invalid="ignore"):
        is_time = (times >= 0) & (times < MILLIS_MAX) & (times % step_ms == 0)
    if (bad := _first(~is_time)) is None:
        return
    text = repr(float(times[bad])).removesuffix(".0")
    if times[bad] >= MILLIS_MAX:
        raise wrong(bad, "timestamp", f"{text} is not epoch milliseconds; are these microseconds or nanoseconds?")
    hint = "; are these seconds?" if 0 < times[bad] < SECONDS_MAX else ""
    raise wrong(bad, "timestamp", f"{text} is not an open time: epoch milliseconds, a multiple of {step_ms}{hint}")


def _sorted(columns: Columns, wrong: Wrong, where: Where) -> Columns:
    times = columns.timestamp
    if (times[1:] > times[:-1]).all():
        return columns
    order = np.argsort(times, kind="stable")
    ascending = Columns(times[order], tuple(column[order] for column in columns.values), columns.integers)
    again = ascending.timestamp[1:] == ascending.timestamp[:-1]
    for name, column in zip(FIELDS, ascending.values, strict=True):
        if (bad := _first(again & (column[1:] != column[:-1]))) is not None:
            first, second = int(order[bad]), int(order[bad + 1])
            raise wrong(second, name, f"the candle of {times[second]} is another one than in {where(first)}")
    return take(ascending, np.append(True, ~again)) if again.any() else ascending


def _first(mask: NDArray[np.bool_]) -> int | None:
    return int(np.argmax(mask)) if mask.any() else None


# -- writing


def write_file(columns: Columns, path: Path) -> None:
    """Write a file of the kind that its name says. It appears only when it is complete; an older one is replaced.

    Equal candles give equal bytes.

    Raises:
        WrongFile: the name has none of `SUFFIXES`.
        ParquetMissing: it is Parquet and pyarrow is not installed.
        OSError: it cannot be written.
    """
    if not path.name.endswith(SUFFIXES):
        raise WrongFile(f"{path}: the name must end with {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.name.endswith(".parquet"):
            _write_parquet(columns, unfinished)
        else:
            with unfinished.open("wb") as raw:
                _write_text(columns, raw, packed=path.name.endswith(".gz"))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_text(columns: Columns, raw: io.BufferedWriter, *, packed: bool) -> None:
    # Name and time of the original would make equal candles different files.
    binary: Any = gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0) if packed else raw
    with io.TextIOWrapper(binary, encoding="utf-8", newline="\n") as out:
        write_csv(columns, out)


def write_csv(columns: Columns, out: TextIO) -> None:
    """Write a header and a line a candle."""
    out.write(",".join(HEADER) + "\n")
    for start in range(0, len(columns), ROWS_MAX):
        part = take(columns, slice(start, start + ROWS_MAX))
        rows = zip(part.timestamp.tolist(), *(column.tolist() for column in _stored(part)), strict=True)
        out.writelines(map("%d,%r,%r,%r,%r,%r\n".__mod__, rows))


def _write_parquet(columns: Columns, path: Path) -> None:
    arrow, parquet = arrow_modules()
    table = arrow.table(dict(zip(HEADER, (columns.timestamp, *_stored(columns)), strict=True)))
    parquet.write_table(table, str(path), compression="zstd")


def _stored(columns: Columns) -> list[NDArray[Any]]:
    """The values as they were stored: integers where they were integers."""
    return [
        column.astype(np.int64) if columns.integers >> bit & 1 else column for bit, column in enumerate(columns.values)
    ]
