"""The intervals of candles."""

from __future__ import annotations

from typing import Final

from backtest_kit_mongo.errors import InvalidKey

INTERVAL_MS: Final = {
    name: minutes * 60_000
    for name, minutes in {
        "1m": 1, "3m": 3, "5m": 5, "15m": 15, "30m": 30, "1h": 60, "2h": 120, "4h": 240, "6h": 360, "8h": 480,
        "1d": 1440,
    }.items()
}  # fmt: skip
"""Candle intervals and their lengths in ms."""


def interval_ms(name: str) -> int:
    """Length of an interval.

    Raises:
        InvalidKey: there is none of this name; exchanges have more, such as weeks, which do not open at a multiple of
            their length since 1970, and months, which have no length.
    """
    if name not in INTERVAL_MS:
        raise InvalidKey(f"the interval must be one of {', '.join(INTERVAL_MS)}, not {name!r:.40}")
    return INTERVAL_MS[name]
