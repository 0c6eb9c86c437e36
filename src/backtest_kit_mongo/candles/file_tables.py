"""Rows of numbers from CSV and Parquet files, not yet checked: where columns are, and which row was which line."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np
from numpy.typing import NDArray

from backtest_kit_mongo.candles.columns import FIELDS
from backtest_kit_mongo.errors import CallerError, EnvironmentFault

__all__ = ["HEADER", "ParquetMissing", "Table", "Where", "WrongFile"]
__all__ += ["arrow_modules", "read_csv", "read_parquet", "wrong_at"]

HEADER: Final = ("timestamp", *FIELDS)
LINES_MAX: Final = 50_000
"""Lines parsed at once: what a file needs beyond its columns stays at some megabytes."""

Where = Callable[[int], str]
"""How a reader finds a row of the file again, for messages."""


class WrongFile(CallerError, ValueError):
    """A file of candles cannot be used; the message names file, line and column. Nothing of it was used."""


class ParquetMissing(EnvironmentFault, ImportError):
    """Parquet needs pyarrow, which is not installed. Nothing was read or written."""


@dataclass(frozen=True, slots=True)
class Table:
    """A file's rows before they are checked: a float64 column for each of HEADER, and which of `FIELDS` are
    integers.
    """

    arrays: Sequence[NDArray[np.float64]]
    integers: int


def wrong_at(path: Path, where: Where, row: int, column: str, what: str) -> WrongFile:
    """The error to raise for a value of a file."""
    return WrongFile(f"{path}, {where(row)}, column {column}: {what}. Nothing of this file was used.")


# -- CSV


def read_csv(path: Path) -> tuple[Table, Where]:
    """A CSV or CSV.gz file.

    Raises:
        WrongFile: a column is missing or a field is no number.
        OSError, EOFError, UnicodeDecodeError, zlib.error: it cannot be read.
    """
    with _text(path) as file:
        header = [name.strip().strip('"').lower() for name in file.readline().split(",")]
        positions = _positions(path, header)
        blocks, numbers = [np.empty((0, len(HEADER)))], [np.empty(0, np.int64)]
        integers = (1 << len(FIELDS)) - 1
        first = 2
        while lines := list(islice(file, LINES_MAX)):
            kept = [index for index, line in enumerate(lines) if not line.isspace()]
            filled = lines if len(kept) == len(lines) else [lines[index] for index in kept]
            numbers.append(np.array(kept, np.int64) + first)
            blocks.append(_parsed(path, filled, numbers[-1], len(header), positions))
            integers = _still_integers(integers, blocks[-1], filled, positions)
            first += len(lines)
    of_row = np.concatenate(numbers)
    return Table(tuple(np.concatenate(blocks).T.copy()), integers), lambda row: _line(of_row[row])


@contextmanager
def _text(path: Path) -> Iterator[TextIO]:
    """The file's text; a byte order mark is not part of it."""
    if path.name.lower().endswith(".gz"):
        with gzip.open(path, "rt", encoding="utf-8-sig") as packed:
            assert isinstance(packed, io.TextIOWrapper)
            yield packed
    else:
        with path.open(encoding="utf-8-sig") as plain:
            yield plain


def _positions(path: Path, names: Sequence[str]) -> tuple[int, ...]:
    """Where the columns of HEADER are."""
    for name in HEADER:
        if names.count(name) != 1:
            what = "two columns are" if name in names else "no column is"
            raise WrongFile(
                f"{path}: {what} named {name!r}. The first line must name the columns {', '.join(HEADER)}, in any "
                f"order; it has {', '.join(names)[:200] or 'nothing'}. A line of pandas makes it so for the usual "
                "sources: docs/candle-files.md."
            )
    return tuple(names.index(name) for name in HEADER)


def _parsed(
    path: Path, lines: Sequence[str], numbers: NDArray[np.int64], width: int, positions: Sequence[int]
) -> NDArray[np.float64]:
    """Lines as rows of six numbers. NumPy's parser reads the same float64 as Python's, in compiled code."""
    if not lines:
        return np.empty((0, len(HEADER)))
    if all(line.count(",") == width - 1 for line in lines):
        try:
            rows = _loaded(lines, positions)
            if len(rows) == len(lines):  # A quote that is not closed takes the next line in.
                return rows
        except ValueError:
            pass
    raise _explained(path, lines, numbers, width, positions)


def _loaded(lines: Sequence[str], positions: Sequence[int]) -> NDArray[np.float64]:
    return np.loadtxt(lines, np.float64, comments=None, delimiter=",", quotechar='"', usecols=positions, ndmin=2)


def _explained(
    path: Path, lines: Sequence[str], numbers: NDArray[np.int64], width: int, positions: Sequence[int]
) -> WrongFile:
    """Which field of which line is no number."""
    for number, line in zip(numbers.tolist(), lines, strict=True):
        fields = line.rstrip("\n").split(",")
        quoted = next(csv.reader([line]), [])
        if len(fields) != width == len(quoted):
            thousands = next((text for text in quoted if "," in text), "")
            return WrongFile(
                f"{path}, line {number}: {thousands!r} is not a number: write it without separators of thousands. "
                "Nothing of this file was used."
            )
        if len(fields) != width:
            return WrongFile(
                f"{path}, line {number}: {len(fields)} fields, but the first line has {width}. Nothing of this file "
                "was used."
            )
        for name, position in zip(HEADER, positions, strict=True):
            try:
                _loaded([line], (position,))
            except ValueError:
                return wrong_at(path, _line, number, name, _no_number(fields[position]))
    return WrongFile(f"{path}, lines {numbers[0]} to {numbers[-1]}: a quotation mark is not closed.")


def _line(number: int) -> str:
    return f"line {number}"


def _no_number(text: str) -> str:
    return f"{text.strip()!r:.60} is not a number" if text.strip(' "') else "there is no value"


def _still_integers(integers: int, rows: NDArray[np.float64], lines: Sequence[str], positions: Sequence[int]) -> int:
    """Which columns are written as integers (1413) and not as floats (1413.0); only whole numbers need a look at the
    text.
    """
    for bit in range(len(FIELDS)):
        if integers >> bit & 1 and len(rows):
            column = rows[:, bit + 1]
            whole = bool((np.isfinite(column) & (np.floor(column) == column)).all())
            position = positions[bit + 1]
            if not whole or not all(map(_is_integer, (line.split(",")[position] for line in lines))):
                integers &= ~(1 << bit)
    return integers


def _is_integer(text: str) -> bool:
    return text.strip(' \n"').removeprefix("-").isdigit()


# -- Parquet


def read_parquet(path: Path) -> tuple[Table, Where]:
    """A Parquet file.

    Raises:
        WrongFile: it is none, a column is missing or is not of numbers, or a value is missing.
        ParquetMissing: pyarrow is not installed.
    """
    arrow, parquet = arrow_modules()
    try:
        with parquet.ParquetFile(str(path)) as file:
            names = file.schema_arrow.names
            positions = _positions(path, [name.lower() for name in names])
            table = file.read(columns=[names[position] for position in positions])
    except arrow.ArrowInvalid as cause:
        raise WrongFile(f"{path} cannot be read: {cause}") from cause
    integers = 0
    arrays = []
    for bit, (name, position) in enumerate(zip(HEADER, positions, strict=True), -1):
        column = table.column(names[position])
        if column.null_count:
            row = int(np.argmax(column.is_null().to_numpy()))
            raise wrong_at(path, _parquet_row, row, name, "there is no value")
        if bit >= 0 and arrow.types.is_integer(column.type):
            integers |= 1 << bit
        try:
            arrays.append(_as_floats(arrow, column))
        except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError) as cause:
            raise WrongFile(
                f"{path}, column {name} ({column.type}): {cause}. Nothing of this file was used."
            ) from cause
    return Table(arrays, integers), _parquet_row


def _parquet_row(row: int) -> str:
    return f"row {row + 1}"


def _as_floats(arrow: Any, column: Any) -> NDArray[np.float64]:
    """A column's numbers; dates become epoch milliseconds, unless they are finer than that."""
    if arrow.types.is_temporal(column.type):
        zone = getattr(column.type, "tz", None)
        column = column.cast(arrow.timestamp("ms", tz=zone)).cast(arrow.int64())
    if arrow.types.is_string(column.type) or arrow.types.is_large_string(column.type):
        raise arrow.ArrowInvalid("text where numbers are expected")
    if arrow.types.is_decimal(column.type):
        raise arrow.ArrowInvalid(
            "decimals, of which most are no 64-bit floats; cast them to double if that is what you mean"
        )
    # Not "safe": integers above 2**53, such as nanoseconds, are refused later, with what they are.
    floats: NDArray[np.float64] = column.cast(arrow.float64(), safe=False).to_numpy()
    return floats


def arrow_modules() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet.

    Raises:
        ParquetMissing: they are not installed.
    """
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as cause:
        raise ParquetMissing(
            "Parquet needs pyarrow, nothing was read or written: pip install 'backtest-kit-mongo[parquet]'. CSV needs "
            "nothing."
        ) from cause
