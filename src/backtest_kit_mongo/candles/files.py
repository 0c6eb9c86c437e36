"""Candles in files, one series a file: our own (`SYMBOL-interval.csv.gz`, or .csv, or .parquet), and those that
exchanges and programs write (`layouts.py`, `file_names.py`).

Columns are found by their names, in any order and case; others are ignored. A file is read and checked as a whole
before anything of it is used. Prices are written as text that reads back as the same float64, so what was exported and
is imported and exported again is the same text.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from backtest_kit_mongo.candles.columns import EXACT_MAX, FIELDS, Columns, Times, take
from backtest_kit_mongo.candles.file_arrow import ParquetMissing, arrow_modules, read_arrow
from backtest_kit_mongo.candles.file_json import read_json
from backtest_kit_mongo.candles.file_names import READ_SUFFIXES, SeriesName, has_candles, name_of, series_of
from backtest_kit_mongo.candles.file_tables import PIPE, Table, Where, read_csv, wrong_at
from backtest_kit_mongo.candles.intervals import INTERVALS, REFUSED, Grid
from backtest_kit_mongo.candles.layouts import HEADER, Said, WrongFile
from backtest_kit_mongo.candles.plausible import are_wrong, clock_change, fault, offset_grid, other_interval

__all__ = ["KINDS", "SUFFIXES", "UNNAMED", "Found", "ParquetMissing", "Said", "SeriesName", "WrongFile", "find"]
__all__ += ["Loaded", "has_candles", "name_of", "read_file", "series_of", "write_csv", "write_file"]

SUFFIXES: Final = (".csv.gz", ".csv", ".parquet")
"""What is written."""
ROWS_MAX: Final = 50_000
"""Candles that are text at once."""
KINDS: Final = f"files of candles end with {', '.join(READ_SUFFIXES[:-1])} or {READ_SUFFIXES[-1]}"
UNNAMED: Final = (
    "the name does not say what it holds. Name it like BTCUSDT-1m.csv.gz (or .csv, or .parquet), or give --symbol and "
    "--interval."
)
_DATA: Final = frozenset(
    {".csv", ".parquet", ".zip", ".gz", ".feather", ".json", ".jsonl", ".arrow", ".tsv", ".xlsx", ".h5"}
)
"""Ends of names, suffixes in any case, by which people keep candles; README, LICENSE and the like have none of them."""
_SUMS: Final = (".checksum", ".sha256", ".md5")

Wrong = Callable[[int, str, str], WrongFile]
"""The error to raise, from a row, a column and what is wrong there."""


class Loaded(NamedTuple):
    """The candles of a file.

    Attributes:
        grid: where they open: the interval that was asked for, perhaps with an offset.
    """

    columns: Columns
    grid: Grid


class Found(NamedTuple):
    """What there is to import.

    Attributes:
        files: to be imported.
        left_out: what lies in a directory, looks like data and cannot be used, with the reason.
    """

    files: list[Path]
    left_out: dict[Path, str]


def find(paths: Sequence[Path], symbol: str | None = None, interval: str | None = None) -> Found:
    """The files themselves, and of a directory those of which is known what they hold.

    Args:
        symbol, interval: what they hold, whatever their names say.

    Raises:
        WrongFile: there is no such file, or nothing that looks like data in a directory.
    """
    found, left_out = dict.fromkeys(path for path in paths if path.is_file() or path == PIPE), {}
    for path in paths:
        if path.is_dir():
            reasons = {
                entry: _left_out(entry, symbol, interval) for entry in sorted(path.iterdir()) if _may_be_data(entry)
            }
            if not reasons:
                raise WrongFile(f"{path} has no file that is named like BTCUSDT-1m.csv.gz (or .csv, or .parquet).")
            found.update(dict.fromkeys(entry for entry, reason in reasons.items() if not reason))
            left_out.update({entry: reason for entry, reason in reasons.items() if reason and entry not in found})
        elif not path.is_file() and path != PIPE:
            raise WrongFile(f"{path} is neither a file nor a directory.")
    return Found(list(found), left_out)


def _may_be_data(path: Path) -> bool:
    if path.name.startswith(".") or path.name.lower().endswith(_SUMS):
        return False
    if path.is_dir():
        return any(_may_be_data(entry) for entry in path.iterdir())
    return series_of(path) is not None or any(suffix.lower() in _DATA for suffix in path.suffixes)


def _left_out(path: Path, symbol: str | None, interval: str | None) -> str:
    """Why an entry of a directory cannot be used; empty if it can."""
    if path.is_dir():
        return "a directory in the directory; name it to import its files"
    if not has_candles(path):
        return KINDS
    said = series_of(path)
    if said is None:
        return "" if symbol and interval else UNNAMED
    every = interval or said.interval
    return "" if every in INTERVALS else f"{REFUSED}, not {every!r}"


def read_file(
    path: Path,
    grid: Grid,
    *,
    said: Said | None = None,
    sparse: bool = False,
    on_note: Callable[[str], object] = lambda text: None,
) -> Loaded:
    """All candles of a file, sorted; a candle that stands there twice counts once.

    Args:
        grid: of the interval. If all candles open later by the same quarters of an hour, they are of that interval with
            an offset (`1d+16h`), which is noted.
        said: what the user says of its lines; what is not said is found out.
        sparse: they are of this interval although the distances between them are those of a coarser one.
        on_note: called with what was found out or assumed, and with how many candles stand there twice.

    Raises:
        WrongFile: the file cannot be read, a row is no candle (see `plausible.py`), they are evidently of a coarser
            interval, or two lines have different candles of one time.
        ParquetMissing: it is Parquet and pyarrow is not installed.
    """
    try:
        table, where = _reader(path)(path, said or Said(), on_note)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, BadZipFile) as cause:
        if isinstance(cause, ParquetMissing):
            raise
        raise WrongFile(f"{path} cannot be read: {cause}") from cause
    wrong: Wrong = partial(wrong_at, path, where)
    timestamp = _whole(table, wrong)
    if (found := offset_grid(timestamp, grid)) is not None:
        on_note(f"they open at {found.said}: stored as candles of {found.name}")
        grid = found
    columns = _checked(table, timestamp, wrong, where, grid, sparse=sparse)
    if (again := len(table.arrays[0]) - len(columns)) > 0:
        on_note(f"{again:,} candle(s) stand there twice and count once")
    return Loaded(columns, grid)


def _reader(path: Path) -> Callable[[Path, Said, Callable[[str], object]], tuple[Table, Where]]:
    name = path.name.lower()
    if name.endswith((".parquet", ".feather")):
        return read_arrow
    return read_json if name.endswith((".json", ".json.gz")) else read_csv


# -- checks


def _whole(table: Table, wrong: Wrong) -> Times:
    """Open times as integers."""
    times = table.arrays[0]
    with np.errstate(invalid="ignore"):
        is_whole = np.isfinite(times) & (np.floor(times) == times) & (np.abs(times) < 2.0**63)
    if (bad := _first(~is_whole)) is not None:
        raise wrong(bad, "timestamp", f"{float(times[bad])!r} is not epoch milliseconds, which are whole")
    return times.astype(np.int64)


def _checked(table: Table, timestamp: Times, wrong: Wrong, where: Where, grid: Grid, *, sparse: bool) -> Columns:
    times, *values = table.arrays
    if (bad := _first(are_wrong(timestamp, values, grid))) is not None:
        column, said = fault(int(timestamp[bad]), [float(each[bad]) for each in values], grid) or ("timestamp", "wrong")
        raise wrong(bad, column, said + (clock_change(timestamp, grid) if column == "timestamp" else ""))
    if not sparse and (reported := other_interval(timestamp, grid)) is not None:
        raise wrong(0, "timestamp", f"{reported}; if this market rarely trades, say --sparse")
    integers = table.integers if len(times) else 0
    for bit, column_values in enumerate(values):
        if len(column_values) and np.abs(column_values).max() > EXACT_MAX:
            integers &= ~(1 << bit)
    return _sorted(Columns(timestamp, tuple(values), integers), wrong, where)


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
    """Write a header and one line per candle."""
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
