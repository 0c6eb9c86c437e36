"""Fetching from an exchange: gaps only, closed candles only, page by page. The exchange is a fake in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from backtest_kit_mongo.adapters.candle_instance import CandleInstance
from backtest_kit_mongo.backends.memory import MemoryTruth
from backtest_kit_mongo.candles.columns import of_rows
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.operate.fetching import (
    PAUSES_S,
    CcxtMissing,
    Fetched,
    FetchFailed,
    Source,
    UnknownExchange,
    fetch,
    open_source,
)
from backtest_kit_mongo.ports import NoCache

MINUTE = 60_000
START = 28_000_000 * MINUTE
Row = list[Any]


class Busy(Exception):
    """What a rate limit raises."""


class Refused(Exception):
    """What an unknown symbol raises."""


def row(minute: int, close: float = 1.5) -> Row:
    return [START + minute * MINUTE, 1.0, 2.0, 0.5, close, 10.0]


@dataclass
class FakeExchange:
    """Has some minutes; gives at most `page_max` of them, from the first on that opens at `since` or later."""

    minutes: Iterable[int]
    page_max: int = 1_000
    window_only: bool = False
    """Whether it gives only what lies within `limit` minutes of `since`, as some exchanges do."""
    fails: list[Exception] = field(default_factory=list)
    id: str = "fake"
    has: dict[str, Any] = field(default_factory=dict)
    time_ms: int = 0
    asked: list[tuple[int, int]] = field(default_factory=list)

    def fetch_ohlcv(self, symbol: str, timeframe: str, since: int | None, limit: int | None) -> Sequence[Row]:
        assert (symbol, timeframe) == ("BTC/USDT", "1m")
        assert since is not None
        assert limit is not None
        self.asked.append(((since - START) // MINUTE, limit))
        if self.fails:
            raise self.fails.pop(0)
        until = since + limit * MINUTE if self.window_only else sys.maxsize
        found = [each for each in map(self.row, self.minutes) if since <= each[0] < until]
        return found[: min(limit, self.page_max)]

    def row(self, minute: int) -> Row:
        return row(minute)

    def fetch_time(self) -> int:
        return self.time_ms


@dataclass
class Rig:
    """A series in memory, a clock that stands still, and what was waited."""

    now_minute: float = 10_000.0
    waited_s: list[float] = field(default_factory=list)
    instance: CandleInstance = field(init=False)

    def __post_init__(self) -> None:
        store = Store("memory", MemoryTruth(), NoCache())
        self.instance = CandleInstance(store, "BTCUSDT", "1m", "binance", clock_ms=self.now_ms)

    def now_ms(self) -> int:
        return START + int(self.now_minute * MINUTE)

    def has(self, minutes: Iterable[int]) -> None:
        names = ("timestamp", "open", "high", "low", "close", "volume")
        self.instance.write_candles(of_rows([dict(zip(names, row(minute), strict=True)) for minute in minutes]))

    def fetch(self, exchange: FakeExchange, since: int, until: int, page: int = 100, **options: Any) -> Fetched:
        source = Source(
            exchange, "BTC/USDT", "1m", page, (Busy,), (Refused,), clock_ms=self.now_ms, sleep=self.waited_s.append
        )
        first, end = START + since * MINUTE, START + until * MINUTE
        return fetch(source, self.instance.read_candles, self.instance.write_candles, first, end, **options)

    @property
    def minutes(self) -> list[int]:
        stored = self.instance.read_candles(START - 1_000 * MINUTE, START + 100_000 * MINUTE)
        return [(int(time) - START) // MINUTE for time in stored.timestamp]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_an_empty_series_is_fetched_page_by_page(rig: Rig) -> None:
    exchange = FakeExchange(range(250))
    fetched = rig.fetch(exchange, 0, 250)
    assert exchange.asked == [(0, 100), (100, 100), (200, 50)]
    assert (fetched.inserted, fetched.requests, fetched.missing) == (250, 3, 0)
    assert rig.minutes == list(range(250))


def test_only_gaps_are_asked_for_and_small_ones_nearby_together(rig: Rig) -> None:
    rig.has(minute for minute in range(1_000) if minute not in {10, 30, 31, 500, *range(700, 900)})
    exchange = FakeExchange(range(1_000))
    fetched = rig.fetch(exchange, 0, 1_000)
    assert exchange.asked == [(10, 22), (500, 1), (700, 100), (800, 100)]
    assert (fetched.inserted, fetched.known, fetched.missing) == (204, 19, 0)


def test_a_complete_series_asks_for_nothing(rig: Rig) -> None:
    rig.has(range(50))
    exchange = FakeExchange(range(50))
    assert rig.fetch(exchange, 0, 50).requests == 0
    assert exchange.asked == []


def test_the_last_candle_is_left_out_until_it_is_closed(rig: Rig) -> None:
    rig.now_minute = 5.999
    fetched = rig.fetch(FakeExchange(range(10)), 0, 10)
    assert (rig.minutes, fetched.until) == ([0, 1, 2, 3, 4], START + 5 * MINUTE)
    rig.now_minute = 6.0
    assert rig.fetch(FakeExchange(range(10)), 0, 10).inserted == 1


def test_the_slower_of_both_clocks_says_what_is_closed(rig: Rig) -> None:
    rig.now_minute = 8.0
    behind = FakeExchange(range(10), has={"fetchTime": True}, time_ms=START + 3 * MINUTE + 10)
    rig.fetch(behind, 0, 10)
    assert rig.minutes == [0, 1, 2]
    ahead = FakeExchange(range(10), has={"fetchTime": True}, time_ms=START + 9 * MINUTE)
    rig.fetch(ahead, 0, 10)
    assert rig.minutes == list(range(8))


def test_nothing_is_asked_for_before_a_candle_is_closed(rig: Rig) -> None:
    rig.now_minute = 0.5
    exchange = FakeExchange(range(10))
    assert rig.fetch(exchange, 0, 10) == Fetched(START)
    assert exchange.asked == []


def test_an_exchange_that_gives_less_than_a_page_is_asked_on(rig: Rig) -> None:
    exchange = FakeExchange(range(100), page_max=30)
    assert rig.fetch(exchange, 0, 100).missing == 0
    assert exchange.asked == [(0, 100), (30, 70), (60, 40), (90, 10)]


def test_what_the_exchange_lacks_stays_a_gap_and_does_not_end_the_fetch(rig: Rig) -> None:
    lacking = {*range(40, 260), 400}
    for window_only in (False, True):
        fresh = Rig()
        exchange = FakeExchange([m for m in range(500) if m not in lacking], window_only=window_only)
        fetched = fresh.fetch(exchange, 0, 500)
        assert (fetched.inserted, fetched.missing) == (279, 221)
        assert fresh.minutes == [minute for minute in range(500) if minute not in lacking]


def test_an_exchange_that_only_has_the_newest_candles_does_not_loop(rig: Rig) -> None:
    fetched = rig.fetch(FakeExchange(range(900, 1_000)), 0, 500)
    assert (fetched.requests, fetched.inserted, fetched.missing) == (1, 0, 500)


def test_an_exchange_that_gives_older_candles_than_asked_for_does_not_loop(rig: Rig) -> None:
    class Older(FakeExchange):
        def fetch_ohlcv(self, symbol: str, timeframe: str, since: int | None, limit: int | None) -> Sequence[Row]:
            super().fetch_ohlcv(symbol, timeframe, since, limit)
            return [row(-5)]

    fetched = rig.fetch(Older(()), 0, 250)
    assert (fetched.requests, fetched.inserted, rig.minutes) == (3, 0, [])


@pytest.mark.parametrize(
    "bad",
    [
        [START + 3 * MINUTE, 1.0, 2.0, 0.5, None, 1.0],
        [START + 3 * MINUTE, 1.0, 2.0, 0.5, float("nan"), 1.0],
        [START + 3 * MINUTE, 1.0, 2.0, 0.5, "1.5", 1.0],
        [START + 3 * MINUTE + 1, 1.0, 2.0, 0.5, 1.5, 1.0],
        [START + 3 * MINUTE, 1.0, 0.5, 2.0, 1.5, 1.0],
        [START + 3 * MINUTE, 1.0, 2.0, 0.5, 1.5],
        [START + 3 * MINUTE, 1.0, 2.0, 0.5, 2.5, 1.0],
        [(START + 3 * MINUTE) // 1_000, 1.0, 2.0, 0.5, 1.5, 1.0],
        [10**400, 1.0, 2.0, 0.5, 1.5, 1.0],
        [None, 1.0, 2.0, 0.5, 1.5, 1.0],
    ],
)
def test_a_row_that_is_no_candle_is_left_out_and_counted(rig: Rig, bad: Row, caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(FakeExchange):
        def row(self, minute: int) -> Row:
            return bad if minute == 3 else row(minute)

        def fetch_ohlcv(self, symbol: str, timeframe: str, since: int | None, limit: int | None) -> Sequence[Row]:
            return [self.row(minute) for minute in self.minutes]

    fetched = rig.fetch(Faulty(range(6)), 0, 6)
    assert (fetched.invalid, fetched.inserted, fetched.missing) == (1, 5, 1)
    assert rig.minutes == [0, 1, 2, 4, 5]
    assert "1 rows are no valid candles" in caplog.text
    assert [count for count, _ in fetched.reasons.values()] == [1]


def test_candles_with_other_values_than_the_stored_ones_are_reported_and_not_stored(rig: Rig) -> None:
    class Corrected(FakeExchange):
        def row(self, minute: int) -> Row:
            return row(minute, close=1.75)

    rig.has([0, 1, 3])
    fetched = rig.fetch(Corrected(range(5)), 0, 5)
    assert fetched.conflicts == [START + 3 * MINUTE]
    assert rig.instance.read_candles(START, START + 5 * MINUTE).close.tolist() == [1.5, 1.5, 1.75, 1.5, 1.75]


def test_a_rate_limit_is_waited_for_longer_and_longer(rig: Rig) -> None:
    exchange = FakeExchange(range(10), fails=[Busy("slow down"), Busy("slow down")])
    assert rig.fetch(exchange, 0, 10).inserted == 10
    assert rig.waited_s == list(PAUSES_S[:2])


def test_an_exchange_that_stays_away_is_an_error_and_what_was_fetched_stays(rig: Rig) -> None:
    class Failing(FakeExchange):
        def fetch_ohlcv(self, symbol: str, timeframe: str, since: int | None, limit: int | None) -> Sequence[Row]:
            if since is not None and since >= START + 100 * MINUTE:
                raise Busy("away")
            return super().fetch_ohlcv(symbol, timeframe, since, limit)

    with pytest.raises(FetchFailed, match=r"6 attempts failed: away\. What was fetched before is stored"):
        rig.fetch(Failing(range(300)), 0, 300)
    assert rig.waited_s == list(PAUSES_S)
    assert rig.minutes == list(range(100))
    again = FakeExchange(range(300))
    assert rig.fetch(again, 0, 300).missing == 0
    assert again.asked[0] == (100, 100)


def test_a_refusal_is_not_tried_again(rig: Rig) -> None:
    with pytest.raises(FetchFailed, match="fake, BTC/USDT 1m: the exchange refused: no such symbol"):
        rig.fetch(FakeExchange((), fails=[Refused("no such symbol")]), 0, 10)
    assert rig.waited_s == []


def test_progress_ends_at_its_total(rig: Rig) -> None:
    rig.has(range(50, 150))
    reported: list[tuple[int, int]] = []
    rig.fetch(FakeExchange(range(400)), 0, 400, on_progress=lambda done, total: reported.append((done, total)))
    assert reported == [(50, 300), (150, 300), (250, 300), (300, 300)]


def test_without_ccxt_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ccxt", None)
    with pytest.raises(CcxtMissing, match=r"backtest-kit-mongo\[ccxt\]"):
        open_source("binance", "BTC/USDT", "1m")


@pytest.fixture
def opened() -> Callable[..., Source]:
    return lambda exchange, interval="1m", page=None: open_source(exchange, "BTC/USDT", interval, page)


def test_a_ccxt_exchange_is_opened_with_its_rate_limit_its_page_and_its_errors(opened: Callable[..., Source]) -> None:
    ccxt = pytest.importorskip("ccxt")
    source = opened("kraken")
    assert isinstance(source.exchange, ccxt.Exchange)
    assert source.exchange.enableRateLimit is True
    assert source.page == source.exchange.features["spot"]["fetchOHLCV"]["limit"]
    assert issubclass(ccxt.RateLimitExceeded, source.transient)
    assert issubclass(ccxt.BadSymbol, source.permanent)
    assert not issubclass(ccxt.BadSymbol, source.transient)
    assert opened("kraken", page=10).page == 10


def test_an_unknown_exchange_or_interval_is_reported_with_what_there_is(opened: Callable[..., Source]) -> None:
    pytest.importorskip("ccxt")
    with pytest.raises(UnknownExchange, match="did you mean binance"):
        opened("Binance")
    with pytest.raises(UnknownExchange, match=r"see https://docs\.ccxt\.com"):
        opened("zzzzzzzzzzzz")
    with pytest.raises(UnknownExchange, match="kraken has no candles of 3m; it has 1m, 5m"):
        opened("kraken", "3m")


def test_candles_of_one_page_that_conflict_are_reported(rig: Rig) -> None:
    class Twice(FakeExchange):
        def fetch_ohlcv(self, symbol: str, timeframe: str, since: int | None, limit: int | None) -> Sequence[Row]:
            found = list(super().fetch_ohlcv(symbol, timeframe, since, limit))
            return [*found, row(1, close=1.75), row(2)]

    fetched = rig.fetch(Twice(range(3)), 0, 3)
    assert (fetched.inserted, fetched.conflicts, fetched.missing) == (3, [START + MINUTE], 0)
    assert rig.instance.read_candles(START, START + 3 * MINUTE).close.tolist() == [1.5, 1.5, 1.5]
