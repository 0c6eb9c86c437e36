"""Candle documents as raw BSON, thousands at a time: decoding one into a dict takes longer than all that is done with
it.

All documents that this package writes for a series have the same size, with every field in the same place, because
numbers always take eight bytes (double, or int64 for integers). So NumPy fills and reads a whole batch as one table.
Documents of other programs may be laid out in any way; a batch that has one is decoded document by document.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

import bson
import numpy as np
from bson import ObjectId
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from numpy.typing import NDArray

from backtest_kit_mongo.backends.mongo.decoding import TOLERANT
from backtest_kit_mongo.candles.columns import EXACT_MAX, FIELDS, Columns, Times, Values, empty
from backtest_kit_mongo.candles.intervals import Grid
from backtest_kit_mongo.coherence.record import Part
from backtest_kit_mongo.locks import Lock

COLUMNS: Final = ("timestamp", *FIELDS)
PROJECTION: Final = {"_id": 0, **dict.fromkeys(COLUMNS, 1)}

_DOUBLE, _TEXT, _OBJECT_ID, _DATE, _INT32, _INT64 = 0x01, 0x02, 0x07, 0x09, 0x10, 0x12
_WIDTHS: Final = {_DOUBLE: 8, _OBJECT_ID: 12, _DATE: 8, _INT32: 4, _INT64: 8}
_ALL_INTEGERS: Final = (1 << len(FIELDS)) - 1

_COUNTER_MAX: Final = 1 << 24

_Bytes = NDArray[np.uint8]


class Batch(NamedTuple):
    """Candles of a batch in any order, and the `timestamp` of documents that are none."""

    timestamp: Times
    values: tuple[Values, ...]
    integers: int
    rejected: list[Any]


class _Ids:
    """New ObjectIds many at a time; one by one they would take most of the time of making a document.

    As any other driver's: seconds, five bytes that no other process has, and a counter that wraps after 16 million.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._process = 0
        self._own = b""
        self._next = 0

    def take(self, count: int, now_s: int) -> _Bytes:
        """Rows of 12 bytes."""
        if self._lock.is_mine:
            return _Ids().take(count, now_s)  # A signal handler's, in the middle of ours.
        with self._lock:
            if self._process != os.getpid():  # A child must not go on with its parent's.
                self._process, self._own, self._next = os.getpid(), os.urandom(5), int.from_bytes(os.urandom(3))
            first, self._next = self._next, (self._next + count) % _COUNTER_MAX
            own = self._own
        ids = np.empty((count, 12), np.uint8)
        ids[:, :9] = np.frombuffer(now_s.to_bytes(4) + own, np.uint8)
        numbers = (first + np.arange(count)) % _COUNTER_MAX
        ids[:, 9:] = numbers.astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:]
        return ids


_ids = _Ids()


class _Place(NamedTuple):
    """Where in a document a field's type byte and its value are."""

    kind: int
    value: int


def documents(scope: Mapping[str, Part], columns: Columns, now: datetime) -> list[RawBSONDocument]:
    """New documents of these candles, each with an `_id` of its own.

    Args:
        scope: the key columns of the series.
        now: creation time; all rows of one append share it.
    """
    shared = {"createDate": now, "updatedDate": now, "__v": 0, "rev": Int64(1), "timestamp": Int64(0)}
    template = bson.encode({"_id": ObjectId(), **scope, **shared, **dict.fromkeys(FIELDS, 0.0)})
    places = _places(template)
    table = np.tile(np.frombuffer(template, np.uint8), (len(columns), 1))
    table[:, places["_id"].value :][:, :12] = _ids.take(len(columns), int(now.timestamp()))
    _fill(table, places["timestamp"], columns.timestamp.astype("<i8"))
    for bit, (field, values) in enumerate(zip(FIELDS, columns.values, strict=True)):
        if columns.integers >> bit & 1:
            table[:, places[field].kind] = _INT64
            _fill(table, places[field], values.astype("<i8"))
        else:
            _fill(table, places[field], values.astype("<f8"))
    raw, size = table.tobytes(), len(template)
    return [RawBSONDocument(raw[start : start + size]) for start in range(0, len(raw), size)]


def _fill(table: _Bytes, place: _Place, values: NDArray[Any]) -> None:
    table[:, place.value :][:, :8] = values.view(np.uint8).reshape(-1, 8)


def _places(document: bytes) -> dict[str, _Place]:
    """The fields of a flat document, up to the first of a type that no candle has."""
    places: dict[str, _Place] = {}
    at = 4
    while kind := document[at]:
        value = document.index(0, at + 1) + 1
        width = 4 + int.from_bytes(document[value : value + 4], "little") if kind == _TEXT else _WIDTHS.get(kind)
        if width is None:
            break
        places[document[at + 1 : value - 1].decode()] = _Place(at, value)
        at = value + width
    return places


def joined(batches: Iterable[Batch]) -> Columns:
    """All candles of the batches, which have no open time twice."""
    parts = [batch for batch in batches if len(batch.timestamp)]
    if not parts:
        return empty()
    integers = _ALL_INTEGERS
    for part in parts:
        integers &= part.integers
    timestamp = np.concatenate([part.timestamp for part in parts])
    values = tuple(np.concatenate([part.values[bit] for part in parts]) for bit in range(len(FIELDS)))
    if not (timestamp[1:] > timestamp[:-1]).all():
        order = np.argsort(timestamp)
        timestamp, values = timestamp[order], tuple(column[order] for column in values)
    return Columns(timestamp, values, integers)


def read(batch: bytes, grid: Grid) -> Batch:
    """The candles of documents that were queried with `PROJECTION`. One is rejected if a column is missing or no finite
    number, or if its open time is none of the grid's.
    """
    found = _read_table(batch) or _read_each(batch)
    is_valid = grid.rest(found.timestamp) == 0
    for column in found.values:
        is_valid &= np.isfinite(column)
    if is_valid.all():
        return found
    values = tuple(column[is_valid] for column in found.values)
    rejected = found.rejected + found.timestamp[~is_valid].tolist()
    return Batch(found.timestamp[is_valid], values, found.integers, rejected)


def _read_table(batch: bytes) -> Batch | None:
    """None: the documents are not all laid out as the first one, or that has other fields than eight-byte numbers, or a
    time is no whole number.
    """
    size = int.from_bytes(batch[:4], "little")
    if len(batch) % size:
        return None
    places = _places(batch[:size])
    if places.keys() != set(COLUMNS):
        return None
    table = np.frombuffer(batch, np.uint8).reshape(-1, size)
    varies = np.zeros(size, np.bool_)
    for place in places.values():
        varies[place.kind] = varies[place.value : place.value + 8] = True
    edges = np.flatnonzero(np.diff(varies, prepend=True, append=True))
    for first, end in edges.reshape(-1, 2).tolist():
        if (table[:, first:end] != table[0, first:end]).any():
            return None
    columns = [_column(batch, table, places[name]) for name in COLUMNS]
    numbers = [column for column in columns if column is not None]
    if len(numbers) < len(columns):
        return None
    times = numbers[0]
    if times.dtype.kind == "f" and not ((np.floor(times) == times) & (np.abs(times) <= EXACT_MAX)).all():
        return None
    return _batch(numbers, [])


def _column(batch: bytes, table: _Bytes, place: _Place) -> NDArray[Any] | None:
    """A field's values, as integers if all are stored so; None if some are no numbers of eight bytes."""
    kinds = table[:, place.kind]
    is_integer = kinds == _INT64
    if not (is_integer | (kinds == _DOUBLE)).all():
        return None
    shape, size = (len(table),), table.shape[1]
    integers = np.ndarray(shape, "<i8", batch, place.value, (size,))
    doubles = np.ndarray(shape, "<f8", batch, place.value, (size,))
    if is_integer.all():
        return integers.astype(np.int64)
    return doubles.astype(np.float64) if not is_integer.any() else np.where(is_integer, integers, doubles)


def _read_each(batch: bytes) -> Batch:
    rows: list[list[Any]] = []
    rejected: list[Any] = []
    for document in bson.decode_all(batch, TOLERANT):
        row: list[Any] = [document.get(name) for name in COLUMNS]
        is_candle = all(type(value) in (int, float, Int64) for value in row) and _is_whole(row[0])
        if is_candle:
            rows.append(row)
        else:
            rejected.append(row[0])
    columns = [
        np.array(plain, np.int64 if all(type(value) is not float for value in plain) else np.float64)
        for plain in (list(column) for column in zip(*rows, strict=True))
    ]
    return _batch(columns or [np.empty(0, np.int64)] * len(COLUMNS), rejected)


def _is_whole(value: float) -> bool:
    return isinstance(value, int) or (value.is_integer() and abs(value) <= EXACT_MAX)


def _batch(columns: list[NDArray[Any]], rejected: list[Any]) -> Batch:
    integers = 0
    for bit, column in enumerate(columns[1:]):
        if column.dtype.kind == "i" and (np.abs(column) <= EXACT_MAX).all():
            integers |= 1 << bit
    values = tuple(column.astype(np.float64, copy=False) for column in columns[1:])
    return Batch(columns[0].astype(np.int64, copy=False), values, integers, rejected)
