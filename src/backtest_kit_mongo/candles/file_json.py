"""Rows of numbers from JSON files, not yet checked: lists of candles as exchanges answer and programs keep them."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backtest_kit_mongo.candles import file_times
from backtest_kit_mongo.candles.columns import FIELDS
from backtest_kit_mongo.candles.file_tables import Table, Where, only_member, wrong_at
from backtest_kit_mongo.candles.layouts import HEADER, NO_VOLUME, Said, WrongFile, find_columns, zone_of


def read_json(path: Path, said: Said, on_note: Callable[[str], object]) -> tuple[Table, Where]:
    """A list of lists (time, open, high, low, close, volume and perhaps more) or of objects.

    Raises:
        WrongFile: it is neither, a column is missing, or something is no number.
        OSError, EOFError, UnicodeDecodeError, BadZipFile: it cannot be read.
    """
    try:
        rows = json.loads(_bytes(path))
    except json.JSONDecodeError as cause:
        raise WrongFile(f"{path} is no JSON: {cause}. Nothing of this file was used.") from cause
    if not isinstance(rows, list) or not all(isinstance(row, (list, dict)) for row in rows):
        raise WrongFile(f"{path}: expected a list of candles, each a list or an object. Nothing of this file was used.")
    is_own = False
    if rows and isinstance(rows[0], dict):
        names = [str(name) for name in rows[0]]
        found = find_columns(path, [name.lower() for name in names], said)
        is_own = all(name in names for name in HEADER)
        keys: list[Any] = [names[place] if place != NO_VOLUME else None for place in (found.times[0], *found.values)]
        for note in found.notes:
            on_note(note)
    else:
        keys = list(range(len(HEADER)))
        on_note("read as rows of time, open, high, low, close, volume")
    times, *columns = ([_value(path, row, place, key) for place, row in enumerate(rows)] for key in keys)
    values = [_numbers(path, name, column) for name, column in zip(FIELDS, columns, strict=True)]
    integers = sum(1 << bit for bit, column in enumerate(columns) if column and set(map(type, column)) == {int})
    moments = _times(path, times, said, is_own=is_own)
    if moments.note:
        on_note(moments.note)
    return Table((moments.ms, *values), integers), _row


def _bytes(path: Path) -> bytes:
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            return archive.read(only_member(path, archive))
    raw = path.read_bytes()
    return gzip.decompress(raw) if path.name.lower().endswith(".gz") else raw


def _row(row: int) -> str:
    return f"candle {row + 1}"


def _value(path: Path, row: Any, place: int, key: Any) -> Any:
    if key is None:
        return 0
    try:
        return row[key]
    except (KeyError, IndexError, TypeError):
        raise wrong_at(path, _row, place, str(key), "there is no value") from None


def _numbers(path: Path, name: str, column: Sequence[Any]) -> Any:
    for place, value in enumerate(column):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number and not (isinstance(value, str) and file_times.is_number(value)):
            raise wrong_at(path, _row, place, name, f"{value!r:.60} is not a number")
    return np.array(list(map(float, column)), np.float64)


def _times(path: Path, column: Sequence[Any], said: Said, *, is_own: bool) -> file_times.Times:
    try:
        if column and all(isinstance(value, str) and file_times.is_date(value) for value in column):
            zone = None if said.zone is None else zone_of(said.zone)
            return file_times.joined(
                [file_times.of_dates(column, zone, by_date=False)], is_zone_known=zone is not None
            )  # fmt: skip
        unit = said.unit or ("ms" if is_own else None)
        return file_times.read_numbers(_numbers(path, "timestamp", column), unit)
    except file_times.NotATime as cause:
        raise wrong_at(path, _row, cause.row, "timestamp", str(cause)) from None
