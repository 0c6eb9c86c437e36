"""The candles of the demo: one-minute files, and the store that keeps them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import backtest_kit_mongo as bk
from backtest_kit.identity import MINUTE_MS
from backtest_kit.moments import minute_text
from backtest_kit.rules import DEFAULT
from backtest_kit_mongo.candles.files import find, series_of
from backtest_kit_verify.demo.errors import DemoError

__all__ = ["SAMPLE", "Series", "load_series", "store"]

SAMPLE: Final = Path(__file__).with_name("data")


@dataclass(frozen=True, slots=True)
class Series:
    """The candles of one symbol.

    Attributes:
        exchange: carries a digest of the file, because the store keeps the first candle of an open time for good: an
            edited file is another exchange.
        start_ms, end_ms: the first and the last minute that can be lived.
    """

    symbol: str
    exchange: str
    candles: bk.Candles
    start_ms: int
    end_ms: int


def load_series(directory: Path | None, last_minutes: int | None) -> list[Series]:
    """Every SYMBOL-1m file of the directory, or the sample of the package; the last so many minutes of each.

    Raises:
        DemoError, bk.CallerError: there is no such file, or one cannot be used.
    """
    folder = SAMPLE if directory is None else directory
    if not folder.is_dir():
        raise DemoError(f"{folder} is not a directory.")
    named = [
        (path, name.symbol) for path in find([folder]).files if (name := series_of(path)) and name.interval == "1m"
    ]
    if not named:
        raise DemoError(
            f"{folder} has no file that is named like BTCUSDT-1m.csv.gz (SYMBOL-1m.csv, .csv.gz or .parquet)."
        )
    return [_series(path, symbol, last_minutes) for path, symbol in named]


def _series(path: Path, symbol: str, last_minutes: int | None) -> Series:
    exchange = f"sample-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
    candles = bk.read_candle_files(path, symbol, "1m", exchange)
    before = DEFAULT.vwap_candles
    if len(candles) <= before:
        raise DemoError(f"{path.name} has {len(candles)} candles; more than {before} are needed.")
    end_ms = int(candles.timestamp[-1]) + MINUTE_MS
    start_ms = int(candles.timestamp[before])
    if last_minutes:
        start_ms = max(start_ms, end_ms - (last_minutes - 1) * MINUTE_MS)
    lived = candles.between(start_ms - before * MINUTE_MS, end_ms)
    if lived.gaps:
        raise DemoError(
            f"{path.name} lacks {sum(gap.count for gap in lived.gaps)} minutes, the first at "
            f"{minute_text(lived.gaps[0].first)}. "
            "Choose fewer minutes (--minutes) or a file without gaps."
        )
    return Series(symbol, exchange, candles, start_ms, end_ms)


def store(series: Sequence[Series]) -> tuple[int, int]:
    """Make sure that the store has every candle; how many were new to it, and how many it had."""
    reports = [bk.write_candles(one.symbol, "1m", one.exchange, one.candles) for one in series]
    return sum(len(one.candles) for one in series) - sum(report.known for report in reports), sum(
        report.known for report in reports
    )
