"""Candles and strategy files for the tests of the engine's front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

MINUTE_MS = 60_000
START_MS = 1_704_067_200_000
"""2024-01-01T00:00Z."""


def flat(*steps: tuple[int, float], minutes: int, before: int = 5) -> list[tuple[float, ...]]:
    """Rows of flat candles of volume 1: from each minute on its price. They begin `before` minutes early."""
    rows: list[tuple[float, ...]] = []
    for minute in range(-before, minutes):
        price = [value for since, value in steps if since <= max(minute, 0)][-1]
        rows.append((START_MS + minute * MINUTE_MS, price, price, price, price, 1.0))
    return rows


def write_candles(directory: Path, rows: Sequence[tuple[float, ...]], name: str = "BTCUSDT-1m.csv") -> Path:
    """A file that an exchange with `files` reads."""
    directory.mkdir(exist_ok=True)
    lines = ["timestamp,open,high,low,close,volume", *(",".join(map(repr, row)) for row in rows)]
    (directory / name).write_text("\n".join(lines) + "\n")
    return directory


GOES_LONG = """
import backtest_kit as bt

bt.exchange(name="files", files="candles")

@bt.strategy
def goes_long(ctx):
    if ctx.now == 1704067200000:
        return bt.long(take_profit=101, stop_loss=95, minutes=30, note="first")
"""
