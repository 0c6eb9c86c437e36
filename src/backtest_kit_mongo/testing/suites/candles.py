"""Candle windows: all or nothing, ascending, closed candles only, first write wins."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from math import inf, nan
from typing import Any, Final

import pytest

from backtest_kit_mongo.adapters.contracts import CandleReport
from backtest_kit_mongo.adapters.instances import CandleInstance
from backtest_kit_mongo.adapters.registries import PersistCandleRegistry
from backtest_kit_mongo.candles.columns import of_rows
from backtest_kit_mongo.candles.intervals import INTERVALS, grid_of
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.checks import make_key
from backtest_kit_mongo.domains.payloads import CandleData
from backtest_kit_mongo.domains.table import CANDLE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import CallerError, InvalidKey, InvalidPayload
from backtest_kit_mongo.testing.examples import BASE_MS, MINUTE_MS, candles
from backtest_kit_mongo.testing.handles import difference

LATER_MS: Final = BASE_MS + 10_000 * MINUTE_MS
"""A clock at which all candles of these tests are closed."""


def series(store: Store, tag: str, interval: str = "1m", now_ms: int = LATER_MS) -> CandleInstance:
    return CandleInstance(store, f"{tag}BTC/USDT", interval, f"{tag}binance", clock_ms=lambda: now_ms)


def window(instance: CandleInstance, count: int, since_ms: int = BASE_MS) -> list[dict[str, Any]] | None:
    return instance.read_candles_data(count, since_ms, LATER_MS)


def scope(tag: str) -> Key:
    return make_key(CANDLE, (f"{tag}binance", f"{tag}BTC/USDT", "1m"))


def stored_times(store: Store, tag: str) -> list[int]:
    return [row["timestamp"] for row in store.window(scope(tag), 0, 2**53)]


class TestCandleWindows:
    def test_a_written_window_is_read_back_exactly(self, store: Store, twin: Store, tag: str) -> None:
        rows = candles(1_000)
        assert series(store, tag).write_candles_data(rows) == CandleReport(inserted=1_000, known=0)
        for reader in (store, twin):
            assert difference(window(series(reader, tag), 1_000), rows) is None

    def test_a_window_is_a_slice_in_ascending_order_whatever_the_order_of_the_writes(
        self, store: Store, tag: str
    ) -> None:
        rows, instance = candles(20), series(store, tag)
        instance.write_candles_data(rows[10:][::-1])
        instance.write_candles_data(rows[:10])
        assert window(instance, 5, rows[7]["timestamp"]) == rows[7:12]
        assert window(instance, 1, rows[19]["timestamp"]) == rows[19:]

    @pytest.mark.parametrize("missing", [0, 5, 9])
    def test_any_missing_candle_makes_the_whole_window_a_miss(self, store: Store, missing: int, tag: str) -> None:
        rows, instance = candles(10), series(store, tag)
        instance.write_candles_data(rows[:missing] + rows[missing + 1 :])
        assert window(instance, 10) is None
        instance.write_candles_data(rows)
        assert window(instance, 10) == rows

    def test_a_window_beyond_either_end_is_a_miss(self, store: Store, tag: str) -> None:
        instance = series(store, tag)
        instance.write_candles_data(candles(10))
        assert window(instance, 10, BASE_MS - MINUTE_MS) is None
        assert window(instance, 11) is None
        assert window(instance, 1, BASE_MS + 10 * MINUTE_MS) is None

    def test_a_window_of_no_candles_is_an_empty_list(self, store: Store, tag: str) -> None:
        instance = series(store, tag)
        assert window(instance, 0) == []
        instance.write_candles_data(candles(2))
        assert window(instance, 0) == []

    def test_the_end_of_a_window_follows_from_its_limit(self, store: Store, tag: str) -> None:
        instance = series(store, tag)
        instance.write_candles_data(candles(4))
        for until_ms in (0, BASE_MS, BASE_MS + 99 * MINUTE_MS):
            assert instance.read_candles_data(3, BASE_MS, until_ms) == candles(3)

    def test_a_window_may_start_at_the_epoch(self, store: Store, tag: str) -> None:
        instance = series(store, tag)
        instance.write_candles_data(candles(3, since_ms=0))
        assert window(instance, 3, 0) == candles(3, since_ms=0)

    @pytest.mark.parametrize("interval", [*INTERVALS, "1d+16h", "1h+30m", "1w+6d"])
    def test_every_interval_opens_in_its_own_places(self, store: Store, interval: str, tag: str) -> None:
        grid = grid_of(interval)
        opens = grid.times(BASE_MS, grid.shift(grid.ceil(BASE_MS), 8)).tolist()
        rows = [{**row, "timestamp": moment} for row, moment in zip(candles(8), opens, strict=True)]
        instance = series(store, tag, interval, now_ms=grid.after(opens[-2]))
        assert instance.write_candles_data(rows) == CandleReport(7, 0, unclosed=(opens[-1],))
        assert instance.read_candles_data(7, opens[0], grid.after(opens[-2])) == rows[:7]
        found = instance.read_candles(BASE_MS, grid.after(opens[-1]))
        assert [(gap.first, gap.last, gap.count) for gap in found.gaps] == [(opens[-1], opens[-1], 1)]
        if grid.rest(opens[0] + 1000):
            with pytest.raises(InvalidPayload, match="not at"):
                instance.write_candles_data([{**rows[0], "timestamp": opens[0] + 1000}])

    def test_what_a_window_returned_is_the_callers_own(self, store: Store, tag: str) -> None:
        instance, rows = series(store, tag), candles(3)
        instance.write_candles_data(rows)
        rows[0]["close"] = -1.0
        for _ in range(2):
            found = window(instance, 3)
            assert found == candles(3)
            found[1]["close"] = -1.0

    def test_a_candle_has_six_columns_and_no_more(self, store: Store, tag: str) -> None:
        instance = series(store, tag)
        instance.write_candles_data([{**candles(1)[0], "trades": 5, "source": "x"}])
        assert difference(window(instance, 1), candles(1)) is None

    def test_models_and_whole_prices_are_accepted(self, store: Store, tag: str) -> None:
        instance = series(store, tag)
        row = {"timestamp": BASE_MS, "open": 100, "high": 100, "low": 100, "close": 100, "volume": 0}
        instance.write_candles_data([CandleData.model_validate(row)])
        assert window(instance, 1) == [row]


class TestFirstWriteWins:
    def test_a_stored_candle_is_kept_and_reported_as_known(self, store: Store, twin: Store, tag: str) -> None:
        series(store, tag).write_candles_data(candles(5))
        changed = [{**row, "close": 100.1 + i} for i, row in enumerate(candles(8))]
        times = tuple(row["timestamp"] for row in changed[:5])
        assert series(twin, tag).write_candles_data(changed) == CandleReport(inserted=3, known=5, conflicts=times)
        assert window(series(store, tag), 8) == candles(5) + changed[5:]

    def test_the_first_of_two_candles_of_one_time_in_a_batch_wins(self, store: Store, tag: str) -> None:
        instance, row = series(store, tag), candles(1)[0]
        report = instance.write_candles_data([row, {**row, "close": 99.9}, row])
        assert report == CandleReport(inserted=1, known=0, conflicts=(row["timestamp"],))
        assert window(instance, 1) == [row]

    def test_writing_no_candles_does_nothing(self, store: Store, tag: str) -> None:
        assert series(store, tag).write_candles_data([]) == CandleReport(inserted=0, known=0)

    def test_append_answers_with_the_new_times_in_order(self, store: Store, tag: str) -> None:
        rows = candles(6)
        some = store.append(scope(tag), of_rows(rows[2:4]), grid_of("1m"))
        rest = store.append(scope(tag), of_rows(rows), grid_of("1m"))
        none = store.append(scope(tag), of_rows(rows), grid_of("1m"))
        assert some.new == tuple(row["timestamp"] for row in rows[2:4])
        assert rest.new == tuple(row["timestamp"] for row in rows[:2] + rows[4:])
        assert none == ((), ())

    def test_concurrent_writers_of_one_window_insert_each_candle_once(self, store: Store, tag: str) -> None:
        instance, rows = series(store, tag), candles(200)

        def write(writer: int) -> int:
            report = instance.write_candles_data([{**row, "volume": float(writer)} for row in rows])
            return report.inserted

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(write, range(4))) == 200
        assert stored_times(store, tag) == [row["timestamp"] for row in rows]


class TestUnclosedCandles:
    def test_a_candle_that_is_not_closed_is_refused_and_reported(self, store: Store, tag: str) -> None:
        half_way = BASE_MS + 2 * MINUTE_MS + MINUTE_MS // 2
        report = series(store, tag, now_ms=half_way).write_candles_data(candles(4))
        unclosed = (BASE_MS + 2 * MINUTE_MS, BASE_MS + 3 * MINUTE_MS)
        assert report == CandleReport(inserted=2, known=0, unclosed=unclosed)
        assert stored_times(store, tag) == [BASE_MS, BASE_MS + MINUTE_MS]

    def test_a_candle_is_closed_from_its_last_millisecond_on(self, store: Store, tag: str) -> None:
        early = series(store, tag, now_ms=BASE_MS + MINUTE_MS - 1).write_candles_data(candles(1))
        on_time = series(store, tag, now_ms=BASE_MS + MINUTE_MS).write_candles_data(candles(1))
        assert (early.inserted, on_time.inserted) == (0, 1)

    def test_a_refused_candle_can_be_written_once_it_is_closed(self, store: Store, tag: str) -> None:
        unfinished = {**candles(1)[0], "close": 99.9}
        series(store, tag, now_ms=BASE_MS).write_candles_data([unfinished])
        series(store, tag).write_candles_data(candles(1))
        assert window(series(store, tag), 1) == candles(1)


WRONG: Final[dict[str, dict[str, Any]]] = {
    "misaligned": {"timestamp": BASE_MS + 1},
    "float_time": {"timestamp": float(BASE_MS)},
    "text_time": {"timestamp": str(BASE_MS)},
    "boolean_time": {"timestamp": True},
    "no_time": {"timestamp": None},
    "operator_time": {"timestamp": {"$ne": None}},
    "negative_time": {"timestamp": -MINUTE_MS},
    "nan_price": {"close": nan},
    "infinite_price": {"high": inf},
    "infinite_volume": {"volume": inf},
    "text_price": {"open": "100"},
    "no_price": {"open": None},
    "high_below_low": {"high": 1.0, "low": 2.0},
}


class TestWrongCandles:
    """An error means that nothing of the batch was stored, not even its good candles."""

    def refuse(self, store: Store, tag: str, wrong: Any) -> None:
        batch = candles(3)
        store.append(scope(tag), of_rows(candles(1, since_ms=0)), grid_of("1m"))
        for index in range(3):
            with pytest.raises(CallerError):
                series(store, tag).write_candles_data([*batch[:index], wrong, *batch[index:]])
        assert stored_times(store, tag) == [0]

    @pytest.mark.parametrize("fault", WRONG)
    def test_a_wrong_column_refuses_the_batch(self, store: Store, fault: str, tag: str) -> None:
        self.refuse(store, tag, {**candles(4)[3], **WRONG[fault]})

    @pytest.mark.parametrize("column", ["timestamp", "open", "high", "low", "close", "volume"])
    def test_a_missing_column_refuses_the_batch(self, store: Store, column: str, tag: str) -> None:
        wrong = candles(4)[3]
        del wrong[column]
        self.refuse(store, tag, wrong)

    @pytest.mark.parametrize("wrong", [None, 5, "candle", []], ids=repr)
    def test_what_is_not_a_candle_refuses_the_batch(self, store: Store, wrong: Any, tag: str) -> None:
        self.refuse(store, tag, wrong)

    def test_the_message_says_which_candle_and_that_nothing_was_written(self, store: Store, tag: str) -> None:
        with pytest.raises(InvalidPayload, match=r"(?i)no candle was written|nothing was written"):
            series(store, tag).write_candles_data([*candles(1), {"timestamp": BASE_MS + MINUTE_MS}])


class TestWrongWindows:
    @pytest.mark.parametrize("since", [BASE_MS + 1, float(BASE_MS), str(BASE_MS), None, True, {"$gt": 0}], ids=repr)
    def test_a_window_starts_at_an_open_time(self, store: Store, since: Any, tag: str) -> None:
        with pytest.raises(InvalidKey):
            window(series(store, tag), 1, since)

    @pytest.mark.parametrize("limit", [-1, 1.0, "1", True], ids=repr)
    def test_a_limit_is_a_non_negative_integer(self, store: Store, limit: Any, tag: str) -> None:
        with pytest.raises(InvalidKey):
            window(series(store, tag), limit)

    @pytest.mark.parametrize(
        "interval", ["9x", "7m", "1d+24h", "1h+60m", "1d+", "", "1m ", None, 1, {"$ne": None}], ids=repr
    )
    def test_an_unknown_interval_is_refused(self, store: Store, interval: Any, tag: str) -> None:
        registry = PersistCandleRegistry()
        registry.use_store(lambda: store)
        with pytest.raises(InvalidKey):
            registry.write_candles_data(candles(1), tag, interval, tag)
        with pytest.raises(InvalidKey):
            registry.read_candles_data(tag, interval, tag, 1, BASE_MS, BASE_MS)
