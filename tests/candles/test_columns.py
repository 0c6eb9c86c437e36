"""Columns: what goes in comes out, parts are views, merging loses and doubles nothing."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest

from backtest_kit_mongo.candles.columns import (
    FIELDS,
    Columns,
    between,
    empty,
    equal,
    merge,
    missing,
    of_rows,
    take,
    to_rows,
)
from backtest_kit_mongo.candles.intervals import grid_of

STEP_MS = 60_000
GRID = grid_of("1m")


def series(*slots: int, integers: int = 0) -> Columns:
    """One candle a slot; its values say which."""
    timestamp = np.array(slots, np.int64) * STEP_MS
    return Columns(timestamp, tuple(np.array(slots, np.float64) + i for i in range(len(FIELDS))), integers)


def rows(**columns: list[Any]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


EURUSD = rows(
    timestamp=[1492592400000, 1492596000000],
    open=[1.0716, 1.07214],
    high=[1.0722, 1.07296],
    low=[1.07083, 1.07214],
    close=[1.07219, 1.0726],
    volume=[1413, 1241],
)


def test_rows_come_back_as_they_were_and_integers_as_integers() -> None:
    columns = of_rows(EURUSD)
    assert columns.integers == 0b10000
    assert to_rows(columns) == EURUSD
    assert [type(value) for value in to_rows(columns)[0].values()] == [int, float, float, float, float, int]


def test_a_column_with_one_float_among_its_integers_is_a_column_of_floats() -> None:
    mixed = [EURUSD[0], EURUSD[1] | {"volume": 1241.0}]
    assert of_rows(mixed).integers == 0
    assert [type(row["volume"]) for row in to_rows(of_rows(mixed))] == [float, float]


@pytest.mark.parametrize(("volume", "is_marked"), [(2**53, True), (2**53 + 2, False), (2**70, False), (-(2**53), True)])
def test_a_column_counts_as_integers_only_as_far_as_floats_are_exact(volume: int, is_marked: bool) -> None:
    columns = of_rows([EURUSD[0] | {"volume": volume}])
    assert bool(columns.integers) is is_marked
    assert to_rows(columns)[0]["volume"] == volume


@pytest.mark.parametrize("times", [(60_000, 60_000), (60_000, 0)])
def test_rows_that_do_not_ascend_are_refused(times: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        of_rows([row | {"timestamp": time} for row, time in zip(EURUSD, times, strict=True)])


def test_no_rows_are_no_candles() -> None:
    assert to_rows(empty()) == []
    assert equal(of_rows([]), empty())
    assert equal(merge([]), empty())
    assert not empty()
    assert repr(empty()) == "<0 candles>"
    assert repr(series(1, 2)) == "<2 candles, 60000 to 120000>"


def test_the_arrays_cannot_be_written_through_and_the_callers_own_stay_his() -> None:
    mine = np.array([0, STEP_MS])
    columns = Columns(mine, tuple(np.ones(2) for _ in FIELDS))
    with pytest.raises(ValueError, match="read-only"):
        columns.timestamp[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        columns.values[4][0] = 1
    mine[0] = -STEP_MS
    assert columns.timestamp[0] == -STEP_MS, "shared, not copied"


def test_a_range_of_candles_is_a_view() -> None:
    columns = series(1, 2, 4, 8)
    part = between(columns, 2 * STEP_MS, 8 * STEP_MS)
    assert equal(part, series(2, 4))
    assert all(
        np.shares_memory(mine, its)
        for mine, its in zip((part.timestamp, *part.values), (columns.timestamp, *columns.values), strict=True)
    )
    assert between(columns, 0, 9 * STEP_MS) is columns
    assert not between(columns, 5 * STEP_MS, 8 * STEP_MS)
    assert not between(columns, 9 * STEP_MS, 3 * STEP_MS)


def test_candles_are_taken_by_slice_and_by_mask() -> None:
    columns = series(1, 2, 4, 8, integers=3)
    assert equal(take(columns, slice(1, 3)), series(2, 4))
    assert equal(take(columns, columns.values[0] > 2), series(4, 8))
    assert take(columns, slice(1, 3)).integers == 3


def test_equal_candles_may_have_been_stored_in_different_ways() -> None:
    assert equal(series(1, 2), series(1, 2, integers=31))
    assert not equal(series(1, 2), series(1, 3))
    assert not equal(series(1, 2), series(1))
    other = series(1, 2)
    assert not equal(other, Columns(other.timestamp, (*other.values[:4], np.array([0.0, 0.0]))))


def test_parts_are_put_in_order_whatever_order_they_come_in() -> None:
    assert equal(merge([series(8, 9), empty(), series(1, 2), series(5)]), series(1, 2, 5, 8, 9))


def test_a_single_part_is_not_copied() -> None:
    part = series(1, 2)
    assert merge([empty(), part]) is part


def test_candles_that_come_twice_are_kept_once() -> None:
    assert equal(merge([series(1, 2, 3), series(2, 3, 4), series(3)]), series(1, 2, 3, 4))
    assert equal(merge([series(1, 5), series(2, 3)]), series(1, 2, 3, 5))


def test_merging_equals_a_dict_for_any_parts() -> None:
    rng = Random(5)
    for _ in range(200):
        chosen = [sorted(rng.sample(range(30), rng.randrange(8))) for _ in range(rng.randrange(6))]
        assert equal(merge([series(*slots) for slots in chosen]), series(*sorted(set().union(*chosen))))


def test_a_column_is_integers_only_if_it_is_in_all_parts_that_have_candles() -> None:
    assert merge([series(1, integers=0b11), series(2, integers=0b10), empty()]).integers == 0b10


@pytest.mark.parametrize(
    ("slots", "since", "until", "runs"),
    [
        ((), 0, 3, [(0, 3)]),
        ((0, 1, 2), 0, 3, []),
        ((1,), 0, 3, [(0, 1), (2, 3)]),
        ((0, 3, 4, 9), 0, 10, [(1, 3), (5, 9)]),
        ((), 3, 3, []),
        ((), 4, 3, []),
        ((-2,), -3, 1, [(-3, -2), (-1, 1)]),
    ],
)
def test_missing_candles_are_reported_as_runs(
    slots: tuple[int, ...], since: int, until: int, runs: list[tuple[int, int]]
) -> None:
    found = missing(series(*slots).timestamp, GRID, since * STEP_MS, until * STEP_MS)
    assert [(first // STEP_MS, end // STEP_MS) for first, end in found.tolist()] == runs


def test_only_open_times_can_be_missing() -> None:
    """A range that starts or ends between two open times has those inside."""
    none = empty().timestamp
    assert missing(none, GRID, 1, STEP_MS).tolist() == []
    assert missing(none, GRID, 1, STEP_MS + 1).tolist() == [[STEP_MS, 2 * STEP_MS]]
    assert missing(none, GRID, -1, 1).tolist() == [[0, STEP_MS]]
