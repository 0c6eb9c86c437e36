"""Candles from an exchange: only what is missing is asked for, page by page, and never a candle that is not closed.

Each page is stored before the next is asked for, so a fetch that was interrupted is continued by starting it again.
What an exchange does not have stays a gap and is asked for again by the next fetch.
"""

from __future__ import annotations

import difflib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final, NamedTuple, Protocol

from backtest_kit_mongo import locks
from backtest_kit_mongo.adapters.contracts import CandleReport, CandleTable
from backtest_kit_mongo.candles.columns import FIELDS
from backtest_kit_mongo.candles.frame import Candles, Gap
from backtest_kit_mongo.candles.intervals import INTERVALS, Grid, grid_of
from backtest_kit_mongo.candles.plausible import fault
from backtest_kit_mongo.coherence.moments import implausible
from backtest_kit_mongo.errors import CallerError, EnvironmentFault

__all__ = ["CcxtMissing", "Exchange", "FetchFailed", "Fetched", "Source", "UnknownExchange", "fetch", "open_source"]

logger = locks.logger(__name__)

PAGE: Final = 500
"""Candles of a request to an exchange that does not say how many it gives."""
PAUSES_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Waited before a request that failed for a moment is made again."""
COLUMNS: Final = ("timestamp", *FIELDS)
_LARGEST: Final = 10**300

Row = Sequence[Any]


class CcxtMissing(EnvironmentFault, ImportError):
    """Exchanges need ccxt, which is not installed. Nothing was fetched."""


class UnknownExchange(CallerError, LookupError):
    """ccxt does not know the exchange, or the exchange has no such candles. Nothing was fetched."""


class FetchFailed(EnvironmentFault):
    """The exchange did not answer, or refused. Pages before this one are stored."""


class Exchange(Protocol):
    """What is used of a ccxt exchange."""

    @property
    def id(self) -> str: ...

    @property
    def has(self) -> Mapping[str, Any]:
        """What it offers, by the name of ccxt's unified method: True, False, None or "emulated"."""

    def fetch_ohlcv(self, symbol: str, timeframe: str, since: int | None, limit: int | None) -> Sequence[Row]:
        """Up to `limit` rows [open time in ms, open, high, low, close, volume] that open at `since` or later."""


@dataclass(frozen=True, slots=True)
class Source:
    """Candles of one symbol and interval at one exchange.

    Attributes:
        page: most candles of a request.
        transient: errors after which the same request may succeed.
        permanent: other errors of the exchange.
        clock_ms, sleep: replaced by tests.
    """

    exchange: Exchange
    symbol: str
    interval: str
    page: int = PAGE
    transient: tuple[type[Exception], ...] = ()
    permanent: tuple[type[Exception], ...] = ()
    clock_ms: Callable[[], int] = field(default=lambda: time.time_ns() // 1_000_000)
    sleep: Callable[[float], None] = time.sleep

    @property
    def grid(self) -> Grid:
        return grid_of(self.interval)

    def closed_until(self) -> int:
        """The first open time whose candle is not closed, by the slower of this clock and the exchange's.

        Raises:
            FetchFailed: the exchange was asked for its time in vain, or has none.
        """
        now_ms = self.clock_ms()
        if self.exchange.has.get("fetchTime") is True:
            # A local clock that is fast would take a candle for closed whose price still moves, and it would stay so.
            theirs_ms = int(self._asked(getattr(self.exchange, "fetch_time")))  # noqa: B009 - not all have it
            if (said := implausible(theirs_ms)) is not None:
                raise self._failure("the exchange's clock", ValueError(said))
            now_ms = min(now_ms, theirs_ms)
        return self.grid.floor(now_ms)

    def rows(self, since: int, count: int) -> Sequence[Row]:
        """At most so many rows from an open time on.

        Raises:
            FetchFailed: not even after some attempts.
        """
        answer: Sequence[Row] = self._asked(self.exchange.fetch_ohlcv, self.symbol, self.interval, since, count)
        return answer

    def _asked(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        for pause_s in (*PAUSES_S, None):
            try:
                return ask(*arguments)
            except self.transient as cause:
                if pause_s is None:
                    raise self._failure(f"{len(PAUSES_S) + 1} attempts failed", cause) from cause
                logger.warning("%s: %s; trying again in %g s", self.exchange.id, cause, pause_s)
                self.sleep(pause_s)
            except self.permanent as cause:
                raise self._failure("the exchange refused", cause) from cause
        raise AssertionError("the last attempt returns or raises")

    def _failure(self, what: str, cause: Exception) -> FetchFailed:
        return FetchFailed(
            f"{self.exchange.id}, {self.symbol} {self.interval}: {what}: {cause}. What was fetched before is stored; "
            "the same command goes on from there."
        )


def open_source(exchange: str, symbol: str, interval: str, page: int | None = None) -> Source:
    """Candles at an exchange that ccxt knows, within its rate limit. Asks nothing yet.

    Raises:
        CcxtMissing: ccxt is not installed.
        UnknownExchange: there is no such exchange, or it has no candles of this interval.
        InvalidKey: the store has no such interval.
    """
    grid_of(interval)
    try:
        ccxt: Any = import_module("ccxt")
    except ImportError as cause:
        raise CcxtMissing(
            "Exchanges need ccxt, nothing was fetched: pip install 'backtest-kit-mongo[ccxt]'. Or import files."
        ) from cause
    if exchange not in ccxt.exchanges:
        near = difflib.get_close_matches(exchange.lower(), ccxt.exchanges)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; see https://docs.ccxt.com for the exchanges."
        raise UnknownExchange(f"ccxt has no exchange {exchange!r}{hint}")
    client = getattr(ccxt, exchange)({"enableRateLimit": True})
    if client.has.get("fetchOHLCV") is not True or interval not in (client.timeframes or ()):
        offered = ", ".join(name for name in client.timeframes or () if name in INTERVALS)
        raise UnknownExchange(f"{exchange} has no candles of {interval}; it has {offered or 'none that fit'}.")
    errors = (ccxt.NetworkError,), (ccxt.BaseError,)
    return Source(client, symbol, interval, page or _page_of(client), *errors)


def _page_of(client: Any) -> int:
    """How many candles a request gives. A page that is larger than that would jump over candles after an empty
    answer.
    """
    features = (client.features or {}).get("spot") or {}
    return int((features.get("fetchOHLCV") or {}).get("limit") or PAGE)


# -- filling gaps


class Range(NamedTuple):
    """Open times since <= t < until, ms."""

    since: int
    until: int


@dataclass(slots=True)
class Fetched:
    """What became of a fetch.

    Attributes:
        until: the first open time that was not asked for: what the caller said, or the first candle that is not closed.
        requests: pages that were asked for.
        inserted: candles that are new.
        known: candles that came along and were stored before.
        conflicts: open times of candles that are stored with other values; those are kept.
        invalid: rows that are no candle (see `candles/plausible.py`); they are left out.
        reasons: by the column that is wrong, in how many of them, and what is wrong in the first.
        missing: candles that are still missing between `since` and `until`: the exchange does not have them.
    """

    until: int
    requests: int = 0
    inserted: int = 0
    known: int = 0
    conflicts: list[int] = field(default_factory=list)
    invalid: int = 0
    reasons: dict[str, tuple[int, str]] = field(default_factory=dict)
    missing: int = 0

    def add(self, report: CandleReport) -> None:
        self.inserted += report.inserted
        self.known += report.known
        self.conflicts.extend(report.conflicts)

    def leave_out(self, column: str, reason: str) -> None:
        count, first = self.reasons.get(column, (0, reason))
        self.reasons[column] = (count + 1, first)
        self.invalid += 1


Read = Callable[[int, int], Candles]
Write = Callable[[CandleTable], CandleReport]
Progress = Callable[[int, int], None]
"""Called with how many of how many open times have been asked for."""


def fetch(
    source: Source, read: Read, write: Write, since: int, until: int, on_progress: Progress = lambda done, total: None
) -> Fetched:
    """Fetch what the store does not have between two open times (ms), and store it page by page.

    Raises:
        FetchFailed: the exchange failed; pages before that are stored.
        BacktestKitError: the store failed; what `write` raises. Pages before that are stored.
    """
    fetched = Fetched(min(until, source.closed_until()))
    if since >= fetched.until:
        return fetched
    grid = source.grid
    ranges = list(_ranges(read(since, fetched.until).gaps, grid, source.page))
    total = sum(grid.count(each.since, each.until) for each in ranges)
    done = 0
    for each in ranges:
        cursor = each.since
        while cursor < each.until:
            moved = _fetch_page(source, write, Range(cursor, each.until), fetched)
            done += grid.count(cursor, moved)
            cursor = moved
            on_progress(done, total)
    fetched.missing = sum(gap.count for gap in read(since, fetched.until).gaps)
    return fetched


def _ranges(gaps: Iterable[Gap], grid: Grid, page: int) -> Iterator[Range]:
    """What to ask for. Gaps that fit one page are asked for together: a few known candles cost less than a request."""
    current: Range | None = None
    for gap in gaps:
        until = grid.after(gap.last)
        if current is not None and grid.count(current.since, until) <= page:
            current = Range(current.since, until)
            continue
        if current is not None:
            yield current
        current = Range(gap.first, until)
    if current is not None:
        yield current


def _fetch_page(source: Source, write: Write, wanted: Range, fetched: Fetched) -> int:
    """Ask for the beginning of a range and store it; returns where to go on, which is always further."""
    count = min(source.page, source.grid.count(wanted.since, wanted.until))
    rows = source.rows(wanted.since, count)
    fetched.requests += 1
    faults = [_fault(row, source.grid) for row in rows]
    valid = [(int(row[0]), *row[1 : len(COLUMNS)]) for row, wrong in zip(rows, faults, strict=True) if wrong is None]
    if wrongs := [wrong for wrong in faults if wrong is not None]:
        series = f"{source.exchange.id}, {source.symbol} {source.interval}"
        logger.warning("%s: %d rows are no valid candles, first %s: %s", series, len(wrongs), *wrongs[0])
        for wrong in wrongs:
            fetched.leave_out(*wrong)
    if chosen := [row for row in valid if wanted.since <= row[0] < wanted.until]:
        # All of them: of two that conflict with each other, the store keeps one and reports the other.
        fetched.add(write(dict(zip(COLUMNS, map(list, zip(*chosen, strict=True)), strict=True))))
    newest = max((row[0] for row in valid), default=wanted.since - 1)
    if newest < wanted.since:
        return source.grid.shift(wanted.since, count)
    return min(source.grid.after(newest), wanted.until)


def _fault(row: Row, grid: Grid) -> tuple[str, str] | None:
    """The column in which a row is no candle, and why; None if it is one."""
    for name, number in zip(COLUMNS, row, strict=False):
        if type(number) not in (int, float):
            return name, "there is no value" if number is None else f"{number!r:.60} is no number"
        if abs(number) > _LARGEST:  # An integer of an exchange may be larger than any float.
            return name, f"{number!r:.60} is too large"
        if number == number and float(number) != number:
            return name, f"{number!r:.60} would be stored as {float(number):.17g}"
    if len(row) < len(COLUMNS):
        return COLUMNS[len(row)], f"a row has {len(row)} columns only"
    moment, *values = row[: len(COLUMNS)]
    if not math.isfinite(moment) or moment % 1:
        return COLUMNS[0], f"{moment!r:.60} is not epoch milliseconds, which are whole"
    return fault(int(moment), [float(value) for value in values], grid)
