"""Candles from CSV files, and the fetch that puts them into the store: only what is missing there is fetched."""

import csv
import gzip
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import backtest_kit_mongo as bk
from backtest_kit_mongo.domains.table import INTERVAL_MS
from backtest_kit_verify.demo.errors import DemoError

__all__ = ["CACHE_CHUNK", "Cached", "Series", "Window", "cache_windows", "load_series", "windows_of"]

CACHE_CHUNK = 1000
"""Most candles of one read or write, the original's limit of a request."""

COLUMNS = ("timestamp", "open", "high", "low", "close", "volume")
FILE_NAME = re.compile(r"(?P<symbol>.+)-(?P<interval>\d+[mhd])\.csv(\.gz)?")

Candle = dict[str, Any]


class Window(NamedTuple):
    """Neighbouring candles without a gap: open time of the first (ms) and how many."""

    since_ms: int
    candle_count: int


@dataclass(frozen=True, slots=True)
class Series:
    """The candles of one symbol, ascending.

    Attributes:
        exchange: carries a digest of the file, because the store keeps the first candle of an open time for good: an
            edited file is another exchange.
        available: how many candles the file has; `candles` are the last ones of them.
    """

    symbol: str
    interval: str
    exchange: str
    candles: tuple[Candle, ...]
    available: int

    @property
    def windows(self) -> list[Window]:
        return windows_of([candle["timestamp"] for candle in self.candles], INTERVAL_MS[self.interval])


def windows_of(times_ms: Sequence[int], step_ms: int) -> list[Window]:
    """Split ascending open times at gaps, because a read of a window with a gap finds nothing, and at `CACHE_CHUNK`."""
    found: list[Window] = []
    for time_ms in times_ms:
        last = found[-1] if found else Window(0, 0)
        if found and last.candle_count < CACHE_CHUNK and time_ms == last.since_ms + last.candle_count * step_ms:
            found[-1] = last._replace(candle_count=last.candle_count + 1)
        else:
            found.append(Window(time_ms, 1))
    return found


def load_series(directory: Path | None, last_bars: int | None) -> list[Series]:
    """Every SYMBOL-INTERVAL.csv(.gz) of the directory, or the sample of the package; the last so many candles of each.

    Raises:
        DemoError: there is no such file, or one cannot be used.
    """
    folder: Traversable = files(__package__) / "data" if directory is None else directory
    if not folder.is_dir():
        raise DemoError(f"{folder} is not a directory.")
    named = sorted((entry.name, entry) for entry in folder.iterdir() if FILE_NAME.fullmatch(entry.name))
    if not named:
        raise DemoError(f"{folder} has no file that is named like EURUSD-1h.csv.gz (SYMBOL-INTERVAL.csv or .csv.gz).")
    return [_series(entry, last_bars) for _, entry in named]


def _series(entry: Traversable, last_bars: int | None) -> Series:
    name = FILE_NAME.fullmatch(entry.name)
    assert name is not None
    if name["interval"] not in INTERVAL_MS:
        raise DemoError(f"{entry.name}: the interval must be one of {', '.join(INTERVAL_MS)}, not {name['interval']}.")
    try:
        data = entry.read_bytes()
        text = (gzip.decompress(data) if entry.name.endswith(".gz") else data).decode()
    except (OSError, EOFError, UnicodeDecodeError) as cause:
        raise DemoError(f"{entry.name} cannot be read: {cause}") from cause
    candles = sorted(_parse(entry.name, text), key=lambda candle: candle["timestamp"])
    for before, after in pairwise(candles):
        if before["timestamp"] == after["timestamp"]:
            raise DemoError(f"{entry.name}: two candles open at {after['timestamp']}.")
    kept = candles[-last_bars:] if last_bars else candles
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Series(name["symbol"], name["interval"], f"csv-{digest}", tuple(kept), len(candles))


def _parse(name: str, text: str) -> Iterator[Candle]:
    rows = csv.DictReader(io.StringIO(text))
    if tuple(rows.fieldnames or ()) != COLUMNS:
        raise DemoError(f"{name}: the first line must be {','.join(COLUMNS)}.")
    for row in rows:
        try:
            yield {"timestamp": int(row["timestamp"]), **{column: float(row[column]) for column in COLUMNS[1:]}}
        except (TypeError, ValueError) as cause:
            raise DemoError(f"{name}, line {rows.line_num}: {cause}") from cause


class Cached(NamedTuple):
    """Candles that had to be fetched, and candles that the store had."""

    fetched: int
    stored: int


def cache_windows(series: Series, on_window: Callable[[int], None]) -> Cached:
    """Make sure that the store has every candle of the series; fetch (from the file) the windows that miss any.

    `on_window` is called with the number of candles after each window.

    Raises:
        DemoError: a candle is not closed yet, so the store refuses it.
    """
    fetched = stored = position = 0
    for window in series.windows:
        found = bk.PersistCandleAdapter.read_candles_data(
            series.symbol, series.interval, series.exchange, window.candle_count, window.since_ms, 0
        )
        if found is None:
            candles = series.candles[position : position + window.candle_count]
            report = bk.PersistCandleAdapter.write_candles_data(
                candles, series.symbol, series.interval, series.exchange
            )
            if report is not None and report.unclosed:
                raise DemoError(f"{series.symbol}: {len(report.unclosed)} candles are not closed yet; remove them.")
            fetched += window.candle_count
        else:
            stored += window.candle_count
        position += window.candle_count
        on_window(window.candle_count)
    return Cached(fetched, stored)
