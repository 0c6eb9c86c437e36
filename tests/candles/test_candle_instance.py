"""What is refused, and what is not lost, before anything reaches a store."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from backtest_kit_mongo.adapters.candle_instance import CandleInstance
from backtest_kit_mongo.adapters.contracts import CandleReport
from backtest_kit_mongo.backends.memory import MemoryTruth
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import InvalidPayload
from backtest_kit_mongo.ports import NoCache
from tests.candles.mongo_support import START, STEP_MS, rows


@pytest.fixture
def store() -> Store:
    return Store("memory", MemoryTruth(), NoCache())


def test_candles_of_another_interval_are_refused(store: Store) -> None:
    hours = CandleInstance(store, "BTC", "1h", "e")
    hours.write_candles_data([{**rows(1)[0], "timestamp": START - START % 3_600_000}])
    found = hours.read_candles(0, START + 1)
    assert len(found) == 1
    minutes = CandleInstance(store, "BTC", "1m", "e")
    with pytest.raises(InvalidPayload, match=r"candles of 1h.*No candle was written"):
        minutes.write_candles(found)
    assert len(minutes.read_candles(0, 2 * START)) == 0


@pytest.mark.parametrize("spoiled", [{}, {"volume": True}])
def test_an_iterator_of_candles_is_read_once_and_whole(store: Store, spoiled: dict[str, Any]) -> None:
    minutes = CandleInstance(store, "BTC", "1m", "e")
    offered: Any = ({**row, **spoiled} for row in rows(3))
    if spoiled:
        with pytest.raises(InvalidPayload, match="candle 0"):
            minutes.write_candles_data(offered)
    else:
        assert minutes.write_candles_data(offered) == CandleReport(inserted=3, known=0)
        assert minutes.read_candles_data(3, START, START + 3 * STEP_MS) == rows(3)


def test_rows_may_hold_numbers_of_numpy_as_candles_themselves_do(store: Store) -> None:
    minutes = CandleInstance(store, "BTC", "1m", "e")
    minutes.write_candles_data([{name: np.asarray(number)[()] for name, number in row.items()} for row in rows(3)])
    found = minutes.read_candles(START, START + 3 * STEP_MS)
    again = [{**rows(3)[at], "timestamp": moment} for at, moment in enumerate(found.timestamp)]
    assert minutes.write_candles_data(again) == CandleReport(inserted=0, known=3)


@pytest.mark.parametrize(
    "volume",
    [2**53 + 1, np.uint64(2**63 + 1), 2**64 + 1, np.longdouble("1.1"), Decimal("1.5"), Fraction(1, 2)],
    ids=lambda each: f"{type(each).__name__}-{each}",
)
def test_a_number_that_would_be_stored_as_another_is_refused_by_rows_and_by_columns(store: Store, volume: Any) -> None:
    minutes = CandleInstance(store, "BTC", "1m", "e")
    two = [{**rows(1)[0], "volume": 2**53}, {**rows(2)[1], "volume": volume}]
    with pytest.raises(InvalidPayload, match=r"candle 1.*volume.*float\(\).*No candle was written"):
        minutes.write_candles_data(two)
    with pytest.raises(InvalidPayload, match=r"volume.*No candle was written"):
        minutes.write_candles({name: np.array([row[name] for row in two[1:]]) for name in two[0]})
    assert not minutes.read_candles(START, START + 3 * STEP_MS)
    minutes.write_candles_data([{**two[1], "volume": 2**60}])
    assert minutes.read_candles(START, START + 3 * STEP_MS).to_dicts()[0]["volume"] == 2**60


def test_what_is_masked_is_missing_and_one_row_is_no_list_of_rows(store: Store) -> None:
    minutes = CandleInstance(store, "BTC", "1m", "e")
    columns = {name: np.array([row[name] for row in rows(3)]) for name in rows(1)[0]}
    with pytest.raises(InvalidPayload, match=r"volume has masked values.*No candle was written"):
        minutes.write_candles({**columns, "volume": np.ma.array([5, 6, 7], mask=[False, True, False])})
    one: Any = rows(1)[0]
    with pytest.raises(InvalidPayload, match="rows must be a list, not one dict"):
        minutes.write_candles_data(one)
    assert len(minutes.read_candles(START, START + 3 * STEP_MS)) == 0
