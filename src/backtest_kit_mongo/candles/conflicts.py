"""Candles that conflict with what is stored."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backtest_kit_mongo.candles.columns import FIELDS, Columns, take, to_rows
from backtest_kit_mongo.coherence.series import Conflict


def conflicts_of(stored: Columns, offered: Columns) -> tuple[Conflict, ...]:
    """Offered candles that are stored with other numbers, ascending. 1 and 1.0 are the same number."""
    times, here, there = np.intersect1d(stored.timestamp, offered.timestamp, assume_unique=True, return_indices=True)
    differs = np.zeros(len(times), np.bool_)
    for kept, other in zip(stored.values, offered.values, strict=True):
        differs |= kept[here] != other[there]
    return tuple(
        Conflict(moment, kept, other)
        for moment, kept, other in zip(
            times[differs].tolist(), _values(stored, here[differs]), _values(offered, there[differs]), strict=True
        )
    )


def _values(columns: Columns, places: NDArray[np.intp]) -> list[dict[str, int | float]]:
    chosen = np.zeros(len(columns), np.bool_)
    chosen[places] = True
    return [{field: row[field] for field in FIELDS} for row in to_rows(take(columns, chosen))]
