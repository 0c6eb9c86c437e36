"""Tables of candles as programs have them are the same candles."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest

from backtest_kit_mongo.candles.columns import FIELDS, Columns
from backtest_kit_mongo.candles.frame import Candles
from backtest_kit_mongo.candles.intervals import grid_of
from backtest_kit_mongo.candles.offering import of_table
from backtest_kit_mongo.errors import InvalidPayload

MINUTE = 60_000
GRID = grid_of("1m")
START = 1_704_067_200_000
TIMES = np.array([START, START + MINUTE], np.int64)
VALUES = {name: [value, value + 0.5] for name, value in zip(FIELDS, (1.5, 2.5, 0.5, 1.25, 7.0), strict=True)}
VALUES["low"] = [0.5, 0.5]
TITLES = {name.title(): values for name, values in VALUES.items()}
ROWS = [[int(time), *row] for time, row in zip(TIMES, zip(*VALUES.values(), strict=True), strict=True)]


def pandas() -> Any:
    return pytest.importorskip("pandas")


def dates(zone: str | None) -> Any:
    return pandas().DatetimeIndex(TIMES.astype("M8[ms]")).tz_localize("UTC").tz_convert(zone or "UTC")


TABLES: dict[str, Any] = {
    "arrays": lambda: {"timestamp": TIMES, **VALUES},
    "arrays with dates": lambda: {"timestamp": TIMES.astype("M8[ms]").astype("M8[s]"), **VALUES},
    "rows of ccxt": lambda: ROWS,
    "rows of NumPy": lambda: np.array(ROWS),
    "dicts": lambda: [dict(zip(("timestamp", *FIELDS), row, strict=True)) for row in ROWS],
    "pandas by index": lambda: pandas().DataFrame(TITLES, index=dates("America/New_York")),
    "pandas by column": lambda: pandas().DataFrame({"Date": dates(None), **TITLES, "Adj Close": [9, 9]}),
    "pandas with numbers": lambda: pandas().DataFrame({"timestamp": TIMES, **VALUES}),
    "pandas of Candles": lambda: candles().to_pandas(),
    "polars": lambda: pytest.importorskip("polars").DataFrame({"time": TIMES, **VALUES}),
    "polars with dates": lambda: candles().to_polars().with_columns(
        pytest.importorskip("polars").from_epoch("timestamp", "ms").dt.replace_time_zone("UTC")
    ),
    "Arrow": lambda: candles().to_arrow(),
    "Arrow with dates": lambda: import_module("pyarrow").table(
        {"date": import_module("pyarrow").array(TIMES).cast(import_module("pyarrow").timestamp("ms", "UTC")), **TITLES}
    ),
}  # fmt: skip


def candles() -> Candles:
    pytest.importorskip("pyarrow")
    values = tuple(np.array(column) for column in VALUES.values())
    return Candles("X", "1m", "x", START, START + 2 * MINUTE, GRID, Columns(TIMES, values))


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_a_table_of_any_kind_is_the_same_candles(table: Any) -> None:
    offer = of_table("series", table(), GRID)
    assert offer.timestamp.tolist() == TIMES.tolist()
    assert [column.tolist() for column in offer.values] == list(VALUES.values())


def test_what_is_not_said_is_refused() -> None:
    naive = pandas().DataFrame(TITLES, index=dates(None).tz_localize(None))
    fine = {"timestamp": TIMES.astype("M8[ns]") + np.timedelta64(1, "ns"), **VALUES}
    for table, said in (
        (naive, "the times have no zone"),
        (fine, "no whole millisecond"),
        ({"timestamp": np.array(["NaT", "NaT"], "M8[ms]"), **VALUES}, "or none at all"),
        ([[1, 2, 3]], "candle 0 has 3 values, not timestamp, open"),
        ([{"timestamp": START}], "candle 0 has no 'open'"),
        ({"timestamp": TIMES, "Open": [1.0, 1.0]}, "no column 'high'"),
        ([[START / 1000, 1, 1, 1, 1, 1]], "are these seconds"),
    ):
        with pytest.raises(InvalidPayload, match=said):
            of_table("series", table, GRID)
