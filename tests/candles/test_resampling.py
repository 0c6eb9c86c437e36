"""Coarser candles made of finer ones, and pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backtest_kit_mongo.candles.columns import FIELDS, Columns
from backtest_kit_mongo.candles.frame import Candles
from backtest_kit_mongo.candles.intervals import grid_of
from backtest_kit_mongo.errors import CallerError, InvalidKey

JAN = 1_704_067_200_000  # 2024-01-01, a Monday
DAY = 86_400_000
HOUR = 3_600_000


def made(interval: str, since: int, until: int, missing: tuple[int, ...] = ()) -> Candles:
    """A series whose n-th candle opens at n and closes at n + 0.5."""
    grid = grid_of(interval)
    times = grid.times(since, until)
    n = np.arange(len(times), dtype=float)
    chosen = np.isin(np.arange(len(times)), missing, invert=True)
    values = tuple(column[chosen] for column in (n, n + 1, n - 1, n + 0.5, np.full(len(times), 2.0)))
    assert len(values) == len(FIELDS)
    return Candles("BTCUSDT", interval, "binance", since, until, grid, Columns(times[chosen], values, 1 << 4))


def test_a_coarser_candle_has_what_its_finer_ones_had() -> None:
    hours = made("1m", JAN, JAN + 3 * HOUR).resample("1h")
    assert (hours.interval, len(hours), hours.is_complete) == ("1h", 3, True)
    assert hours[1] == {"timestamp": JAN + HOUR, "open": 60, "high": 120, "low": 59, "close": 119.5, "volume": 120}
    assert isinstance(hours[1]["volume"], int)


def test_a_candle_of_a_part_is_left_out_unless_it_is_asked_for() -> None:
    minutes = made("1m", JAN + 30 * 60_000, JAN + 3 * HOUR, missing=(40,))
    whole, all_ = minutes.resample("1h"), minutes.resample("1h", partial=True)
    assert whole.timestamp.tolist() == [JAN + 2 * HOUR]
    assert [gap.count for gap in whole.gaps] == [2]
    assert all_.timestamp.tolist() == [JAN, JAN + HOUR, JAN + 2 * HOUR]
    assert all_.volume.tolist() == [60, 118, 120]


@pytest.mark.parametrize(
    ("interval", "opens"),
    [
        ("1w", [JAN, JAN + 7 * DAY, JAN + 14 * DAY, JAN + 21 * DAY]),
        ("1M", [JAN]),
        ("1d+16h", [JAN + (day * 24 + 16) * HOUR for day in range(30)]),
        ("3d+1d", [JAN + day * DAY for day in range(0, 30, 3)]),
    ],
)
def test_days_weeks_and_months_open_where_they_do(interval: str, opens: list[int]) -> None:
    coarser = made("1h", JAN, JAN + 31 * DAY).resample(interval)
    assert coarser.timestamp.tolist()[: len(opens)] == opens
    assert coarser.before(JAN + 31 * DAY).timestamp.tolist() == coarser.timestamp.tolist()


@pytest.mark.parametrize(("of", "to"), [("1h", "1m"), ("1h", "1d+30m"), ("1w", "1M"), ("2h", "3d+1h"), ("1M", "1w")])
def test_candles_that_do_not_fit_are_refused(of: str, to: str) -> None:
    with pytest.raises(CallerError, match="do not make"):
        made(of, JAN, JAN + 90 * DAY).resample(to)
    with pytest.raises(InvalidKey, match="one of 1s, 1m"):
        made(of, JAN, JAN + 90 * DAY).resample("7m")


@pytest.mark.parametrize("count", [0, 40, 600])
def test_a_picture_shows_every_candle_and_no_price_across_a_gap(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    candles = made("1h", JAN, JAN + count * HOUR, missing=(10, 11))
    axes: Any = candles.plot()
    axes.figure.canvas.draw()
    assert "BTCUSDT 1h" in axes.get_title(loc="left")
    drawn = len(axes.patches) + sum(int(np.isfinite(line.get_ydata()).sum()) for line in axes.lines)
    assert drawn == len(candles)
    assert all(np.isnan(line.get_ydata()).sum() == 1 for line in axes.lines)
    assert candles.plot(axes) is axes
