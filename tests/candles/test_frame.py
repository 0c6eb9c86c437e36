"""The user's candles: views, gaps, the look-ahead guard, and other libraries' tables."""

from __future__ import annotations

import sys
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from backtest_kit_mongo.candles.columns import FIELDS, Columns, empty
from backtest_kit_mongo.candles.frame import Candles, Gap
from backtest_kit_mongo.candles.intervals import grid_of
from backtest_kit_mongo.errors import InvalidKey

STEP_MS = 60_000
GRID = grid_of("1m")
T0 = 1_707_343_380_000
"""2024-02-07 22:03:00 UTC"""


def at(slot: int) -> int:
    return T0 + slot * STEP_MS


def series(*slots: int, since: int = 0, until: int = 10) -> Candles:
    """Candles of a read of the slots from `since` to `until`; opens tell the slot, volumes are integers."""
    values = tuple(np.array(slots, np.float64) + i / 4 for i in range(len(FIELDS)))
    columns = Columns(np.array([at(slot) for slot in slots], np.int64), values, 0b10000)
    return Candles("BTCUSDT", "1m", "binance", at(since), at(until), GRID, columns)


def slots_of(candles: Candles) -> list[int]:
    return [(moment - T0) // STEP_MS for moment in candles.timestamp.tolist()]


def asked(candles: Candles) -> tuple[float, float]:
    return (candles.since - T0) / STEP_MS, (candles.until - T0) / STEP_MS


def test_each_column_has_its_name() -> None:
    candles = series(0, 1)
    assert [getattr(candles, name).tolist() for name in FIELDS] == [[i / 4, 1 + i / 4] for i in range(5)]
    assert candles.timestamp.dtype == np.int64
    assert all(getattr(candles, name).dtype == np.float64 for name in FIELDS)
    assert (len(candles), candles.integers, candles.step_ms) == (2, 0b10000, STEP_MS)


def test_candles_cannot_be_changed() -> None:
    candles = series(0, 1)
    with pytest.raises(ValueError, match="read-only"):
        candles.close[0] = 1.0
    with pytest.raises(FrozenInstanceError):
        candles.until = 0  # type: ignore[misc]


def test_one_candle_is_a_dict_of_plain_numbers() -> None:
    candles = series(3, 5, 8)
    first = {"timestamp": at(3), "open": 3.0, "high": 3.25, "low": 3.5, "close": 3.75, "volume": 4}
    assert candles[0] == candles[-3] == candles[np.int64(0)] == first
    assert [type(value) for value in candles[0].values()] == [int, float, float, float, float, int]
    assert list(candles) == candles.to_dicts() == [candles[0], candles[1], candles[2]]
    with pytest.raises(IndexError):
        candles[3]


def test_a_slice_is_a_view_and_knows_what_it_was_cut_to() -> None:
    candles = series(3, 5, 8)
    part = candles[1:2]
    assert slots_of(part) == [5]
    assert np.shares_memory(part.volume, candles.volume)
    assert asked(part) == (5, 6)
    assert (part.symbol, part.interval, part.exchange, part.step_ms) == ("BTCUSDT", "1m", "binance", STEP_MS)
    assert asked(candles[:2]) == (0, 6)
    assert asked(candles[-2:]) == (5, 10)
    assert asked(candles[:]) == asked(candles)


@pytest.mark.parametrize("cut", [slice(2, 2), slice(2, 1), slice(7, 9), slice(0, 0)])
def test_an_empty_slice_has_neither_candles_nor_gaps(cut: slice) -> None:
    part = series(3, 5, 8)[cut]
    assert not part
    assert part.is_complete
    assert part.gaps == ()


@pytest.mark.parametrize("step", [-1, 2])
def test_a_slice_that_is_no_series_is_refused(step: int) -> None:
    with pytest.raises(ValueError, match=f"close\\[::{step}\\]"):
        series(3, 5, 8)[::step]


def test_a_range_of_time_is_a_view() -> None:
    candles = series(3, 5, 8)
    part = candles.between(at(5), at(8))
    assert slots_of(part) == [5]
    assert asked(part) == (5, 8)
    assert np.shares_memory(part.open, candles.open)


def test_a_range_of_time_is_not_wider_than_what_was_read() -> None:
    candles = series(3, 5, 8)
    assert asked(candles.between(at(-5), at(50))) == (0, 10)
    for since, until in ((20, 30), (-9, -3), (7, 4)):
        assert not candles.between(at(since), at(until))
        assert candles.between(at(since), at(until)).is_complete


def test_times_may_be_datetimes_of_any_zone() -> None:
    candles = series(3, 5, 8)
    moment = datetime(2024, 2, 7, 22, 3, tzinfo=UTC) + timedelta(minutes=5)
    local = moment.astimezone(timezone(timedelta(hours=9)))
    assert slots_of(candles.between(moment, local + timedelta(minutes=1))) == [5]
    with pytest.raises(InvalidKey, match="has no zone"):
        candles.before(moment.replace(tzinfo=None))


@pytest.mark.parametrize(
    ("when_ms", "visible"),
    [
        (at(6) - 1, [3]),
        (at(6), [3, 5]),
        (at(6) + 1, [3, 5]),
        (at(9) - 1, [3, 5]),
        (at(9), [3, 5, 8]),
        (at(99), [3, 5, 8]),
    ],
)
def test_a_candle_is_hidden_until_it_is_closed(when_ms: int, visible: list[int]) -> None:
    assert slots_of(series(3, 5, 8).before(when_ms)) == visible


def test_candles_that_are_hidden_are_not_missing() -> None:
    candles = series(*range(10))
    assert candles.before(at(4) + 1).is_complete
    assert asked(candles.before(at(4) + 1)) == (0, 4)
    assert not candles.before(at(-3))
    assert candles.before(at(-3)).is_complete


def test_gaps_are_reported_before_between_and_behind() -> None:
    candles = series(2, 3, 5, 8)
    assert candles.gaps == (
        Gap(at(0), at(1), 2),
        Gap(at(4), at(4), 1),
        Gap(at(6), at(7), 2),
        Gap(at(9), at(9), 1),
    )
    assert not candles.is_complete
    assert candles.between(at(2), at(4)).is_complete


def test_a_read_that_begins_between_open_times_lacks_only_whole_candles() -> None:
    columns = series(1, 2).columns
    candles = Candles("BTCUSDT", "1m", "binance", at(0) + 1, at(2) + 1, GRID, columns)
    assert candles.is_complete
    assert candles.gaps == ()


def test_a_read_that_found_nothing_is_one_gap() -> None:
    nothing = Candles("BTCUSDT", "1m", "binance", at(0), at(10), GRID, empty())
    assert nothing.gaps == (Gap(at(0), at(9), 10),)
    assert not nothing
    assert nothing.to_dicts() == []


def test_the_repr_says_what_was_asked_and_what_is_there() -> None:
    assert repr(series(3, 5, 8)) == (
        "<BTCUSDT 1m binance, 2024-02-07 22:03:00Z to 2024-02-07 22:13:00Z: 3 candles, 7 missing>"
    )
    assert repr(series(3, until=4, since=3)).endswith(": 1 candle, no gaps>")
    absurd = Candles("BTCUSDT", "1m", "binance", -(2**62), 2**62, GRID, empty())
    assert f"{-(2**62)} ms" in repr(absurd)


def test_an_arrow_table_shares_the_memory() -> None:
    pytest.importorskip("pyarrow")
    candles = series(3, 5, 8)
    table = candles.to_arrow()
    assert table.column_names == ["timestamp", *FIELDS]
    assert [str(kind) for kind in table.schema.types] == ["int64", *["double"] * 5]
    assert table["close"].to_pylist() == candles.close.tolist()
    assert table["close"].chunk(0).buffers()[1].address == candles.close.ctypes.data


def test_a_pandas_frame_can_be_changed_without_changing_the_candles() -> None:
    pytest.importorskip("pandas")
    candles = series(3, 5, 8)
    frame = candles.to_pandas()
    assert [str(kind) for kind in frame.dtypes] == ["float64"] * 5
    assert str(frame.index.dtype).endswith(", UTC]")
    assert [moment.value // 10**6 for moment in frame.index] == candles.timestamp.tolist()
    assert len(frame.resample("1D").agg({"close": "last"}))
    frame.iloc[0, frame.columns.get_loc("close")] = -1.0
    assert frame["close"].tolist() == [-1.0, 5.75, 8.75]
    assert candles.close.tolist() == [3.75, 5.75, 8.75]


def test_a_polars_frame_has_the_same_numbers() -> None:
    pytest.importorskip("polars")
    candles = series(3, 5, 8)
    frame = candles.to_polars()
    assert frame.columns == ["timestamp", *FIELDS]
    assert frame.rows() == [tuple(float(v) if k != "timestamp" else v for k, v in row.items()) for row in candles]


@pytest.mark.parametrize(
    ("method", "library", "extra"),
    [
        ("to_arrow", "pyarrow", "parquet"),
        ("to_pandas", "pandas", "pandas"),
        ("to_polars", "polars", "polars"),
    ],
)
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, method: str, library: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"needs {library}: pip install 'backtest-kit-mongo\[{extra}\]'"):
        getattr(series(3), method)()
