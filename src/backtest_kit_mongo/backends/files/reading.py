"""A file's content as a record."""

from __future__ import annotations

import re
from math import isfinite
from typing import Any, Final

from backtest_kit_mongo.backends.files.json import Stamp, decode
from backtest_kit_mongo.coherence.record import Key, Record, Shape
from backtest_kit_mongo.errors import CorruptData

_PERHAPS_REMOVED: Final = re.compile(rb'"removed"\s*:\s*true')
"""Occurs in every removed entity, and in few others: a listing of keys need not parse the rest."""


def record_of(key: Key, path: str, body: bytes, stamp: Stamp | None, *, keys_only: bool = False) -> Record:
    """The record of a file. With `keys_only` the payload is not decoded where that is not needed.

    Raises:
        CorruptData: it is no document of the domain.
    """
    rev, when, _ = stamp or Stamp(0, None)
    if keys_only and not (key.domain.has_removed and _PERHAPS_REMOVED.search(body)):
        return Record(key, rev, None, when, False, path)
    try:
        payload = decode(body, key.domain.model, foreign=stamp is None)
        _require_usable(key, payload)
    except (ValueError, RecursionError) as cause:
        raise CorruptData(f"{key}: {path} cannot be read: {cause}. It was left as it is.") from cause
    removed = key.domain.has_removed and isinstance(payload, dict) and payload.get("removed") is True
    return Record(key, rev, payload, when, removed, path)


def _require_usable(key: Key, payload: Any) -> None:
    """Rows must have their shape, or one of them would break its whole list or window.

    What a document read by key looks like is its reader's affair.
    """
    if key.domain.shape is Shape.LIST and not isinstance(payload, dict):
        raise ValueError("a row must be an object")
    if key.domain.shape is Shape.SERIES:
        row = payload if isinstance(payload, dict) else {}
        columns: list[Any] = [row.get(name) for name in key.domain.fields]
        if not all(type(value) in (int, float) and isfinite(value) for value in columns):
            raise ValueError("a column is missing or not a finite number")
        if row.get("timestamp") != key.item:
            raise ValueError("its timestamp is not that of its name")
