"""What the name of a file says of the candles in it: ours, and those that exchanges and programs give."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from backtest_kit_mongo.candles.intervals import INTERVAL_MS, MONTH

READ_SUFFIXES: Final = (
    ".csv", ".csv.gz", ".txt", ".txt.gz", ".tsv", ".tsv.gz", ".zip", ".json", ".json.gz", ".parquet", ".feather",
)  # fmt: skip
"""In any case. What of these is written stands in `files.SUFFIXES`."""
_ENDS: Final = "|".join(re.escape(suffix) for suffix in sorted(READ_SUFFIXES, key=len, reverse=True))
_DAY: Final = r"(?:-\d{4}-\d{2}(?:-\d{2})?)?"
_PATTERNS: Final = tuple(
    re.compile(rf"{pattern}(?i:{ends})")
    for pattern, ends in (
        # freqtrade: BTC_USDT-5m.feather, BTC_USDT_USDT-5m-futures.feather
        (
            r"(?P<base>[A-Z0-9]+)_(?P<quote>[A-Z0-9]+)(?:_[A-Z0-9]+)?-(?P<interval>\d+[a-zA-Z])(?:-(?:futures|spot))?",
            r"\.feather|\.json|\.json\.gz",
        ),
        # ours, and Binance Vision's with a month or a day: BTCUSDT-1m-2024-02.zip
        (rf"(?P<symbol>.+?)-(?P<interval>\d+(?:mo|wk|[a-zA-Z])(?:\+[0-9dhms]+)?){_DAY}", _ENDS),
        # HistData: DAT_ASCII_EURUSD_M1_2023.csv
        (r"DAT_ASCII_(?P<symbol>[A-Z0-9]+)_(?P<frame>M1)_\d{4,6}", _ENDS),
        # CryptoDataDownload: Binance_BTCUSDT_2023_minute.csv, Bitstamp_BTCUSD_d.csv
        (r"[A-Z][A-Za-z]+_(?P<symbol>[A-Z0-9]+)(?:_\d{4})?_(?P<frame>minute|1min|hour|1h|d|1m)", _ENDS),
        # MetaTrader: EURUSD_M5_202401020000_202401312355.csv, EURUSD_H1.csv
        (r"(?P<symbol>[A-Za-z0-9.#]+)_(?P<frame>[MH]\d+|D1|W1|MN1|Daily|Weekly|Monthly)(?:_\d{8,12}_\d{8,12})?", _ENDS),
        # Dukascopy: EURUSD_Candlestick_1_M_BID_01.01.2024-31.01.2024.csv
        (r"(?P<symbol>[A-Z0-9.]+)_Candlestick_(?P<frame>\d+_(?:M|m|Hour|D))_(?:BID|ASK)_.*", _ENDS),
        # TradingView: BINANCE_BTCUSDT, 60.csv
        (r"[A-Z0-9]+_(?P<symbol>[A-Za-z0-9.!]+), (?P<frame>\d+|1?[DWM]|\d+S)(?:[ _].*)?", _ENDS),
        # Kraken: XBTUSD_60.csv
        (r"(?P<symbol>[A-Z0-9.]+)_(?P<frame>\d+)", _ENDS),
    )
)
_NAMED: Final = {
    "minute": "1m", "1min": "1m", "1m": "1m", "hour": "1h", "1h": "1h", "d": "1d", "D": "1d", "1D": "1d", "D1": "1d",
    "Daily": "1d", "1mo": MONTH, "MN1": MONTH, "Monthly": MONTH, "M": MONTH, "1M": MONTH, "1wk": "1w", "W": "1w",
    "1W": "1w", "W1": "1w", "Weekly": "1w", "1S": "1s",
}  # fmt: skip
"""Intervals as others call them, where they do not count minutes or hours."""


class SeriesName(NamedTuple):
    """What a file's name says: a symbol and an interval, which need not be one that is known."""

    symbol: str
    interval: str


def has_candles(path: Path) -> bool:
    """Whether a file is of a kind that can be read, by the end of its name."""
    return path.name.lower().endswith(READ_SUFFIXES)


def series_of(path: Path) -> SeriesName | None:
    """The series that a file is named after; None if its name says none."""
    for pattern in _PATTERNS:
        if (found := pattern.fullmatch(path.name)) is not None:
            parts = found.groupdict()
            symbol = f"{parts['base']}/{parts['quote']}" if "base" in parts else unquote(parts["symbol"])
            interval = parts.get("interval") or _interval(parts["frame"])
            return SeriesName(symbol, _NAMED.get(interval, interval) if interval in ("1mo", "1wk") else interval)
    return None


def _interval(frame: str) -> str:
    """A time frame as others call it: M5, H1, 60, 1_Hour, minute."""
    if frame in _NAMED:
        return _NAMED[frame]
    count = int(re.sub(r"\D", "", frame) or 1)
    minutes = count * (60 if frame.startswith("H") or "Hour" in frame else 1440 if "D" in frame else 1)
    lengths = {length: name for name, length in INTERVAL_MS.items()}
    return lengths.get(minutes * 60_000, f"{minutes}m")


def name_of(symbol: str, interval: str, suffix: str) -> str:
    """A file name from which `series_of` reads the series again. A slash in a symbol is written %2F."""
    return f"{quote(symbol, safe='')}-{interval}{suffix}"
