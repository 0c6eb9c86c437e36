"""Candles from files and from exchanges, for programs; the commands are `bkm candles import` and `fetch`.

NumPy and ccxt are imported by those who call, not by `import backtest_kit_mongo`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from backtest_kit_mongo.adapters.registries import PersistCandleAdapter
from backtest_kit_mongo.candles.intervals import INTERVALS, REFUSED, grid_of
from backtest_kit_mongo.coherence.moments import moment_ms
from backtest_kit_mongo.errors import CallerError, NotFound
from backtest_kit_mongo.look_ahead import simulation_now

if TYPE_CHECKING:
    from backtest_kit_mongo.candles.columns import Columns
    from backtest_kit_mongo.candles.frame import Candles

__all__ = ["CandleSeries", "fetch_candles", "list_candles", "read_candle_files"]

END_OF_TIME: Final = 2**53


class CandleSeries(NamedTuple):
    """A series that is stored.

    Attributes:
        first, last: open times of its first and last candle, epoch ms.
        candles: how many there are.
        missing: how many are not, between those two.
    """

    symbol: str
    interval: str
    exchange: str
    first: int
    last: int
    candles: int
    missing: int


def list_candles(
    symbol: str | None = None, interval: str | None = None, exchange: str | None = None
) -> list[CandleSeries]:
    """The series that are stored, in order of exchange, symbol and interval; only those of what is given.

    Reads each of them, a year of minutes in some 20 ms where blocks hold it.

    Raises:
        InvalidKey: there is no such interval.
        LookAhead: at a simulation time: it would tell what there will be.
        ServerUnreachable, ReadFailed: nothing was read.
    """
    if interval is not None:
        grid_of(interval)
    given = {"symbol": symbol, "interval": interval, "exchange_name": exchange}
    chosen = {name: value for name, value in given.items() if value is not None}
    found = []
    for context in PersistCandleAdapter.list_contexts(**chosen):
        names = context["symbol"], context["interval"], context["exchange_name"]
        if context["interval"] in INTERVALS and (read := PersistCandleAdapter.read_candles(*names, 0, END_OF_TIME)):
            first, last = int(read.timestamp[0]), int(read.timestamp[-1])
            missing = read.grid.count(first, last + 1) - len(read)
            found.append(CandleSeries(*names, first, last, len(read), missing))
    return sorted(found, key=lambda one: (one.exchange, one.symbol, grid_of(one.interval).step_ms, one.interval))


def read_candle_files(
    path: Path | str,
    symbol: str,
    interval: str,
    exchange: str,
    *,
    on_note: Callable[[str], object] = lambda text: None,
) -> Candles:
    """One series from a file, or from the files of a directory that are named after it, as BTCUSDT-1m.csv.gz or
    BTCUSDT-1m-2024-02.zip (BTC%2FUSDT or BTCUSDT for BTC/USDT). Nothing is stored. At a simulation time: those that are
    closed by then.

    Args:
        on_note: called with what was found out or assumed of a file, and with what was left out.

    Raises:
        WrongFile: it cannot be read or holds something that is no candle. (A `CallerError`.)
        NotFound: there is no such file. (A `CallerError`.)
        CallerError: there is no such interval.
    """
    from backtest_kit_mongo.candles.columns import merge
    from backtest_kit_mongo.candles.files import WrongFile, read_file
    from backtest_kit_mongo.candles.frame import Candles

    if interval not in INTERVALS:
        raise CallerError(f"{REFUSED}, not {interval!r:.40}")
    root = Path(path)
    found = [root] if root.is_file() else _named_after(root, symbol, interval)
    now = simulation_now(root)
    asked = grid_of(interval)
    loaded = [
        read_file(file, asked, on_note=lambda text, file=file: on_note(f"{file.name}: {text}"))  # type: ignore[misc]
        for file in found
    ]
    grids = {each.grid for each in loaded if len(each.columns)} or {asked}
    if len(grids) > 1:
        raise WrongFile(f"{root}: its files have candles of {', '.join(sorted(grid.name for grid in grids))}.")
    grid, parts = grids.pop(), [each.columns for each in loaded]
    _require_agreement(found, parts)
    columns = merge(parts)
    since, until = (int(columns.timestamp[0]), grid.after(int(columns.timestamp[-1]))) if len(columns) else (0, 0)
    candles = Candles(symbol, grid.name, exchange, since, until, grid, columns)
    return candles if now is None else candles.before(now)


def _named_after(root: Path, symbol: str, interval: str) -> list[Path]:
    """Files of a directory that hold the series: the one that we would write, else all that others would."""
    from backtest_kit_mongo.candles.files import SUFFIXES, has_candles, name_of, series_of

    symbols = (symbol, symbol.replace("/", ""))
    names = [name_of(name, interval, suffix) for name in symbols for suffix in SUFFIXES]
    for name in names:
        if (root / name).is_file():
            return [root / name]
    entries = sorted(root.iterdir()) if root.is_dir() else []
    wanted = {(name, interval) for name in symbols}
    found = [entry for entry in entries if has_candles(entry) and entry.is_file() and series_of(entry) in wanted]
    if not found:
        raise NotFound(f"{root} has no file of {symbol} {interval}; looked for {', '.join(dict.fromkeys(names))}, ..")
    return found


def _require_agreement(files: Sequence[Path], parts: Sequence[Columns]) -> None:
    """Files of one series may overlap, with the same candles."""
    from backtest_kit_mongo.candles.columns import between, equal
    from backtest_kit_mongo.candles.files import WrongFile

    filled = sorted(
        ((int(part.timestamp[0]), file, part) for file, part in zip(files, parts, strict=True) if len(part))
    )
    for (_, file, part), (since, later, after) in pairwise(filled):
        until = int(min(part.timestamp[-1], after.timestamp[-1])) + 1
        if since < until and not equal(between(part, since, until), between(after, since, until)):
            raise WrongFile(f"{later} and {file} have different candles of the same times. None of them was used.")


def fetch_candles(market: str, symbol: str, interval: str, exchange: str, since: int, until: int) -> int:
    """Fetch what the store lacks from an exchange that ccxt knows, and store it page by page.

    Args:
        market: the exchange's name in ccxt; `exchange` is its name in the store.
        since, until: moments; the first open time, and the first that is not fetched.

    Returns:
        How many candles are still missing: what an exchange does not have stays a gap.

    Raises:
        InvalidKey: one of them is no moment (see `moment_ms`). Nothing was fetched.
        CallerError: ccxt has no such exchange.
        EnvironmentFault: ccxt is not installed, or the exchange or the store failed; pages before that are stored.
    """
    from backtest_kit_mongo.operate.fetching import fetch, open_source

    def read(first: int, end: int) -> Candles:
        return PersistCandleAdapter.read_candles(symbol, interval, exchange, first, end)

    def write(table: Any) -> Any:
        return PersistCandleAdapter.write_candles(symbol, interval, exchange, table)

    first, end = moment_ms(since, "since"), moment_ms(until, "until")
    return fetch(open_source(market, symbol, interval), read, write, first, end).missing
