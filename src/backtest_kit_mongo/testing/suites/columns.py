"""Candles as columns: what windows of rows promise, with gaps instead of misses; and candles that conflict with stored
ones.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import pytest

from backtest_kit_mongo.adapters.contracts import CandleReport
from backtest_kit_mongo.candles.columns import of_rows
from backtest_kit_mongo.candles.frame import Candles, Gap
from backtest_kit_mongo.candles.intervals import grid_of
from backtest_kit_mongo.coherence.codec import EPOCH
from backtest_kit_mongo.coherence.series import Conflict
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import InvalidKey, InvalidPayload
from backtest_kit_mongo.testing.examples import BASE_MS, MINUTE_MS, candles
from backtest_kit_mongo.testing.handles import difference
from backtest_kit_mongo.testing.suites.candles import scope, series, stored_times, window

END_MS: Final = BASE_MS + 10 * MINUTE_MS


def arrays(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def read(store: Store, tag: str, since_ms: int = BASE_MS, until_ms: int = END_MS) -> Candles:
    return series(store, tag).read_candles(since_ms, until_ms)


class TestCandleColumns:
    def test_written_rows_are_read_back_exactly_as_columns(self, store: Store, twin: Store, tag: str) -> None:
        rows = candles(1_000)
        series(store, tag).write_candles_data(rows)
        for reader in (store, twin):
            found = read(reader, tag, until_ms=BASE_MS + 1_000 * MINUTE_MS)
            assert difference(found.to_dicts(), rows) is None
            assert found.is_complete
            assert found.timestamp.dtype == np.int64
            assert {array.dtype for array in found.columns.values} == {np.dtype(np.float64)}

    def test_written_columns_are_read_back_exactly_as_rows(self, store: Store, twin: Store, tag: str) -> None:
        rows = candles(10)
        shuffled = [rows[place] for place in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)]
        report = series(store, tag).write_candles(arrays(shuffled))
        assert report == CandleReport(inserted=10, known=0)
        assert difference(window(series(twin, tag), 10), rows) is None

    def test_whole_prices_stay_whole(self, store: Store, twin: Store, tag: str) -> None:
        rows = [{**row, "open": 100, "low": 99, "volume": 2**53} for row in candles(3)]
        series(store, tag).write_candles(arrays(rows))
        assert difference(read(twin, tag).to_dicts(), rows) is None
        assert difference(window(series(twin, tag), 3), rows) is None

    def test_what_was_read_can_be_written(self, store: Store, tag: str) -> None:
        series(store, tag).write_candles_data(candles(10))
        found = read(store, tag)
        assert series(store, f"{tag}2").write_candles(found[2:5]).inserted == 3
        assert series(store, f"{tag}2").write_candles(found.columns) == CandleReport(inserted=7, known=3)
        assert read(store, f"{tag}2").to_dicts() == candles(10)

    def test_many_candles_are_stored_in_pieces_and_read_as_one(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, tag: str
    ) -> None:
        monkeypatch.setattr("backtest_kit_mongo.adapters.candle_instance.CHUNK_ROWS", 40)
        count = 101
        rows = candles(count, since_ms=0)
        assert series(store, tag).write_candles(arrays(rows)).inserted == count
        found = read(store, tag, 0, count * MINUTE_MS)
        assert found.is_complete
        assert np.array_equal(found.close, [row["close"] for row in rows])

    def test_gaps_are_listed_and_the_rest_is_read(self, store: Store, tag: str) -> None:
        rows = candles(10)
        series(store, tag).write_candles_data(rows[1:4] + rows[6:9])
        found = read(store, tag)
        assert found.to_dicts() == rows[1:4] + rows[6:9]
        times = [row["timestamp"] for row in rows]
        assert found.gaps == (Gap(times[0], times[0], 1), Gap(times[4], times[5], 2), Gap(times[9], times[9], 1))

    def test_a_series_without_candles_is_one_gap(self, store: Store, tag: str) -> None:
        found = read(store, tag)
        assert (len(found), found.gaps) == (0, (Gap(BASE_MS, END_MS - MINUTE_MS, 10),))
        assert len(read(store, tag, BASE_MS, BASE_MS)) == 0

    def test_a_range_may_begin_and_end_anywhere_and_be_given_as_datetimes(self, store: Store, tag: str) -> None:
        instance, rows = series(store, tag), candles(10)
        instance.write_candles_data(rows)
        assert instance.read_candles(BASE_MS + 1, BASE_MS + 3 * MINUTE_MS + 1).to_dicts() == rows[1:4]
        since = EPOCH + timedelta(milliseconds=BASE_MS)
        until = datetime.fromtimestamp(BASE_MS // 1000 + 120, UTC)
        assert instance.read_candles(since, until).to_dicts() == rows[:2]
        assert instance.read_candles(0, 2**53).to_dicts() == rows

    @pytest.mark.parametrize("late_ms", [0, 1, MINUTE_MS - 1])
    def test_no_candle_that_closes_after_the_simulation_time_is_seen(
        self, store: Store, late_ms: int, tag: str
    ) -> None:
        instance, rows = series(store, tag), candles(10)
        instance.write_candles_data(rows)
        found = instance.read_candles(BASE_MS, END_MS, BASE_MS + 3 * MINUTE_MS + late_ms)
        assert found.to_dicts() == rows[:3]
        assert found.is_complete
        assert len(instance.read_candles(BASE_MS, END_MS, EPOCH)) == 0

    def test_unclosed_candles_are_refused_and_reported(self, store: Store, tag: str) -> None:
        instance = series(store, tag, now_ms=BASE_MS + 2 * MINUTE_MS)
        report = instance.write_candles(arrays(candles(3)))
        assert report == CandleReport(inserted=2, known=0, unclosed=(BASE_MS + 2 * MINUTE_MS,))

    def test_the_arrays_cannot_be_written_through(self, store: Store, tag: str) -> None:
        given = arrays(candles(3))
        series(store, tag).write_candles(given)
        given["close"][:] = 0.0
        found = read(store, tag)
        assert found.to_dicts() == candles(3)
        with pytest.raises(ValueError, match="read-only"):
            found.close[0] = 1.0

    def test_no_candles_append_nothing(self, store: Store, tag: str) -> None:
        assert store.append(scope(tag), of_rows([]), grid_of("1m")) == ((), ())
        nothing: list[Any] = [{name: [] for name in candles(1)[0]}, []]
        assert [series(store, tag).write_candles(one) for one in nothing] == [CandleReport(0, 0)] * 2

    @pytest.mark.parametrize("wrong", [None, "2024", 1.0, True, 2**60], ids=repr)
    def test_a_moment_is_an_integer_or_a_datetime(self, store: Store, wrong: Any, tag: str) -> None:
        for moments in ((wrong, END_MS), (0, wrong), (0, END_MS, "x" if wrong is None else wrong)):
            with pytest.raises(InvalidKey):
                series(store, tag).read_candles(*moments)

    def test_a_range_does_not_end_before_it_begins(self, store: Store, tag: str) -> None:
        with pytest.raises(InvalidKey, match="before"):
            series(store, tag).read_candles(END_MS, BASE_MS)


FAULTS: Final[dict[str, tuple[str, Any, str]]] = {
    "misaligned": ("timestamp", BASE_MS + 60_001, f"candle 1 at {BASE_MS + 60_001}.*open time"),
    "negative": ("timestamp", -MINUTE_MS, f"candle 1 at {-MINUTE_MS}.*open time"),
    "nan": ("close", np.nan, f"candle 1 at {BASE_MS + MINUTE_MS}.*close.*finite"),
    "infinite": ("volume", np.inf, f"candle 1 at {BASE_MS + MINUTE_MS}.*volume.*finite"),
    "high_below_low": ("high", 1.0, f"candle 1 at {BASE_MS + MINUTE_MS}.*high 1.0 is below low"),
    "open_above_high": ("open", 999.0, "candle 1 .*open 999.0 lies outside low"),
    "close_below_low": ("close", -1.0, "candle 1 .*close -1.0 lies outside low"),
    "negative_volume": ("volume", -0.5, "candle 1 .*volume -0.5 is negative"),
    "seconds": ("timestamp", BASE_MS // 1_000, f"are these seconds. Then pass {BASE_MS}"),
}


class TestWrongColumns:
    """Nothing is stored of columns in which one candle is wrong."""

    def refuse(self, store: Store, tag: str, table: Any, match: str) -> None:
        with pytest.raises(InvalidPayload, match=match) as caught:
            series(store, tag).write_candles(table)
        assert "No candle was written" in str(caught.value)
        assert stored_times(store, tag) == []

    @pytest.mark.parametrize("fault", FAULTS)
    def test_the_message_names_the_candle(self, store: Store, fault: str, tag: str) -> None:
        column, value, match = FAULTS[fault]
        table = arrays(candles(3))
        table[column][1] = value
        self.refuse(store, tag, table, match)

    def test_candles_of_a_coarser_interval_are_refused_unless_the_caller_says_that_they_are_not(
        self, store: Store, tag: str
    ) -> None:
        rows = candles(24, step_ms=60 * MINUTE_MS)
        self.refuse(store, tag, arrays(rows), "look like candles of 1h, not of 1m")
        with pytest.raises(InvalidPayload, match="look like candles of 1h"):
            series(store, tag).write_candles_data(rows[:5] + rows[7:9])
        minutes = [{**row, "timestamp": rows[-1]["timestamp"] + (1 + i) * MINUTE_MS} for i, row in enumerate(rows[:3])]
        self.refuse(store, tag, arrays([*rows, *minutes]), "look like candles of 1h")
        assert series(store, tag).write_candles(arrays(rows), sparse=True).inserted == 24

    @pytest.mark.parametrize("column", ["timestamp", "open", "high", "low", "close", "volume"])
    def test_every_column_must_be_there(self, store: Store, column: str, tag: str) -> None:
        table = arrays(candles(3))
        del table[column]
        self.refuse(store, tag, table, column)

    def test_columns_have_one_length(self, store: Store, tag: str) -> None:
        self.refuse(store, tag, {**arrays(candles(3)), "low": np.zeros(2)}, "lengths")

    @pytest.mark.parametrize(
        "wrong",
        [np.array(["1", "2", "3"]), np.array([True] * 3), np.array([None] * 3), np.zeros((3, 1)), 1.0],
        ids=repr,
    )
    def test_values_are_arrays_of_numbers(self, store: Store, wrong: Any, tag: str) -> None:
        self.refuse(store, tag, {**arrays(candles(3)), "low": wrong}, "low")

    def test_times_are_integers(self, store: Store, tag: str) -> None:
        table = arrays(candles(3))
        self.refuse(store, tag, {**table, "timestamp": table["timestamp"].astype(float)}, "timestamp")

    @pytest.mark.parametrize("wrong", [None, 5, "text"], ids=repr)
    def test_what_has_no_columns_is_refused(self, store: Store, wrong: Any, tag: str) -> None:
        self.refuse(store, tag, wrong, "timestamp")


def values(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "timestamp"}


class TestCandleConflicts:
    def test_a_candle_with_other_values_is_kept_reported_and_logged(
        self, store: Store, twin: Store, caplog: pytest.LogCaptureFixture, tag: str
    ) -> None:
        rows = candles(5)
        series(store, tag).write_candles_data(rows)
        changed = [*rows[:2], {**rows[2], "volume": 7.0}, rows[3], {**rows[4], "open": 104.5}]
        with caplog.at_level(logging.WARNING, "backtest_kit_mongo"):
            report = series(twin, tag).write_candles(arrays(changed))
        times = (rows[2]["timestamp"], rows[4]["timestamp"])
        assert report == CandleReport(inserted=0, known=5, conflicts=times)
        assert any("2 candle(s) are stored with other values" in record.message for record in caplog.records)
        assert read(store, tag).to_dicts() == rows

    def test_an_append_tells_both_versions(self, store: Store, tag: str) -> None:
        row = candles(1)[0]
        other = {**row, "high": 103.0}
        store.append(scope(tag), of_rows([row]), grid_of("1m"))
        appended = store.append(scope(tag), of_rows([other, *candles(2)[1:]]), grid_of("1m"))
        assert appended.new == (BASE_MS + MINUTE_MS,)
        assert appended.conflicts == (Conflict(BASE_MS, values(row), values(other)),)

    def test_equal_numbers_of_another_type_are_no_conflict(self, store: Store, tag: str) -> None:
        rows = [{**row, "open": 100.0, "low": 99.0, "volume": -0.0} for row in candles(3)]
        whole = [{**row, "open": 100, "low": 99, "volume": 0} for row in rows]
        series(store, tag).write_candles_data(rows)
        assert series(store, tag).write_candles_data(whole) == CandleReport(inserted=0, known=3)

    def test_what_one_call_gives_twice_is_a_conflict(self, store: Store, tag: str) -> None:
        first, second = candles(2)
        given = [first, second, {**first, "close": 101.5}, first, {**first, "close": 101.75}]
        report = series(store, tag).write_candles_data(given)
        assert report == CandleReport(inserted=2, known=0, conflicts=(BASE_MS,))
        assert window(series(store, tag), 2) == [first, second]

    def test_an_unclosed_candle_conflicts_with_nothing(self, store: Store, tag: str) -> None:
        series(store, tag).write_candles_data(candles(1))
        report = series(store, tag, now_ms=BASE_MS).write_candles_data([{**candles(1)[0], "close": 99.9}])
        assert report == CandleReport(inserted=0, known=0, unclosed=(BASE_MS,))

    def test_candles_far_apart_are_compared_too(self, store: Store, tag: str) -> None:
        step_ms = 1_000_000 * MINUTE_MS
        rows = candles(2, since_ms=BASE_MS - step_ms, step_ms=step_ms)
        series(store, tag).write_candles_data(rows)
        changed = [{**row, "close": row["close"] + 0.5} for row in rows]
        assert series(store, tag).write_candles_data(changed).conflicts == (BASE_MS - step_ms, BASE_MS)

    def test_many_scattered_candles_are_compared_too(self, store: Store, tag: str) -> None:
        rows = candles(400)
        scattered = [row for number, row in enumerate(rows) if number % 4 in (0, 1)]
        series(store, tag).write_candles_data(scattered)
        changed = [{**row, "close": 100.25 + number} for number, row in enumerate(rows)]
        appended = store.append(scope(tag), of_rows(changed[::2]), grid_of("1m"))
        assert [conflict.timestamp for conflict in appended.conflicts] == [row["timestamp"] for row in rows[::4]]
        assert appended.new == tuple(row["timestamp"] for row in rows[2::4])
