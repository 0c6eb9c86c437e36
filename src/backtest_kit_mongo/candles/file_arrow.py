"""Rows of numbers from Parquet and Feather files, not yet checked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backtest_kit_mongo.candles import file_times
from backtest_kit_mongo.candles.columns import FIELDS
from backtest_kit_mongo.candles.file_tables import Table, Where, wrong_at
from backtest_kit_mongo.candles.layouts import HEADER, NO_VOLUME, Said, WrongFile, find_columns, zone_of
from backtest_kit_mongo.errors import EnvironmentFault


class ParquetMissing(EnvironmentFault, ImportError):
    """Parquet needs pyarrow, which is not installed. Nothing was read or written."""


def read_arrow(path: Path, said: Said, on_note: Callable[[str], object]) -> tuple[Table, Where]:
    """A Parquet or Feather file.

    Raises:
        WrongFile: it is none, a column is missing or is not of numbers, or a value is missing.
        ParquetMissing: pyarrow is not installed.
    """
    arrow, parquet = arrow_modules()
    is_parquet = path.name.lower().endswith(".parquet")
    try:
        opened: Any = parquet.ParquetFile(str(path)) if is_parquet else nullcontext()
        with opened as file:
            table: Any = None if is_parquet else import_module("pyarrow.feather").read_table(str(path))
            given = file.schema_arrow.names if is_parquet else table.column_names
            names = [str(name).lower() for name in given]
            found = find_columns(path, names, said)
            if len(found.times) > 1:
                raise WrongFile(f"{path}: date and time are two columns; make one of them, of timestamps.")
            if is_parquet:  # Only what is wanted: it may have hundreds of columns.
                table = file.read(columns=[given[at] for at in (*found.times, *found.values) if at != NO_VOLUME])
    except arrow.ArrowInvalid as cause:
        raise WrongFile(f"{path} cannot be read: {cause}") from cause
    time = table.column(given[found.times[0]])
    moments = _times(arrow, path, time, said, is_own=all(name in names for name in HEADER))
    for note in (*found.notes, moments.note):
        if note:
            on_note(note)
    integers, arrays = 0, [moments.ms]
    for bit, (name, place) in enumerate(zip(FIELDS, found.values, strict=True)):
        if place == NO_VOLUME:
            arrays.append(np.zeros(table.num_rows))
            continue
        column = table.column(given[place])
        if arrow.types.is_integer(column.type):
            integers |= 1 << bit
        arrays.append(_numbers(arrow, path, name, column))
    return Table(arrays, integers), _row


def _row(row: int) -> str:
    return f"row {row + 1}"


def _times(arrow: Any, path: Path, column: Any, said: Said, *, is_own: bool) -> file_times.Times:
    """Open times: dates, unless they are finer than a millisecond, or numbers."""
    if not arrow.types.is_temporal(column.type):
        numbers = _numbers(arrow, path, "timestamp", column)
        try:
            return file_times.read_numbers(numbers, said.unit or ("ms" if is_own else None))
        except file_times.NotATime as cause:
            raise wrong_at(path, _row, cause.row, "timestamp", str(cause)) from None
    zone = getattr(column.type, "tz", None)
    note = file_times.NO_ZONE if zone is None and said.zone is None and not is_own else ""
    if zone is None and said.zone is not None:
        zone_of(said.zone)
        column = import_module("pyarrow.compute").assume_timezone(column.cast(arrow.timestamp("ms")), said.zone)
        zone = said.zone
    try:
        column = column.cast(arrow.timestamp("ms", tz=zone)).cast(arrow.int64())
    except arrow.ArrowInvalid as cause:
        raise WrongFile(f"{path}, column timestamp ({column.type}): {cause}. Nothing of this file was used.") from cause
    return file_times.Times(_numbers(arrow, path, "timestamp", column), note)


def _numbers(arrow: Any, path: Path, name: str, column: Any) -> NDArray[np.float64]:
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise wrong_at(path, _row, row, name, "there is no value")
    try:
        return _as_floats(arrow, column)
    except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError) as cause:
        raise WrongFile(f"{path}, column {name} ({column.type}): {cause}. Nothing of this file was used.") from cause


def _as_floats(arrow: Any, column: Any) -> NDArray[np.float64]:
    """A column's numbers."""
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
