"""Which candles are expected when."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfoNotFoundError

import numpy as np
import pytest

from backtest_kit_mongo.candles import calendar
from backtest_kit_mongo.candles.calendar import CALENDARS, NoTimeZones, gaps_within
from backtest_kit_mongo.candles.frame import Gap
from backtest_kit_mongo.candles.intervals import grid_of

HOUR = 3_600_000
GRID = grid_of("1h")
DAY = 24 * HOUR


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


def opens(name: str, since: str, until: str, step_ms: int = HOUR) -> list[str]:
    """Where the market opens after a pause, and where a pause begins, as texts."""
    times = np.arange(at(since), at(until), step_ms, dtype=np.int64)
    is_open = CALENDARS[name](times, times + step_ms)
    changes = np.flatnonzero(is_open[1:] != is_open[:-1]) + 1
    return [f"{datetime.fromtimestamp(times[i] / 1000, UTC):%a %d %H}" for i in changes]


def test_always_expects_every_candle() -> None:
    assert opens("always", "2024-01-01", "2024-02-01") == []
    assert CALENDARS["always"](np.arange(3, dtype=np.int64), np.arange(1, 4, dtype=np.int64)).all()


def test_weekdays_are_monday_to_friday_in_utc() -> None:
    assert opens("weekdays", "2024-01-03", "2024-01-10") == ["Sat 06 00", "Mon 08 00"]
    assert opens("weekdays", "2024-01-03", "2024-01-10", DAY) == ["Sat 06 00", "Mon 08 00"]
    assert opens("weekdays", "2024-01-03T16:00", "2024-01-10T16:00", DAY) == ["Sat 06 16", "Sun 07 16"]
    assert opens("weekdays", "2024-01-01", "2024-03-01", 7 * DAY) == []


def test_forex_closes_and_opens_at_five_in_new_york_in_winter_and_in_summer() -> None:
    assert opens("forex", "2018-01-10", "2018-01-17") == ["Fri 12 22", "Sun 14 22"]
    assert opens("forex", "2017-07-05", "2017-07-12") == ["Fri 07 21", "Sun 09 21"]


def test_forex_closes_in_summer_time_and_opens_in_winter_time_on_the_weekend_between() -> None:
    assert opens("forex", "2017-11-01", "2017-11-08") == ["Fri 03 21", "Sun 05 22"]


def test_forex_is_closed_on_the_trading_days_of_christmas_and_new_year() -> None:
    assert opens("forex", "2017-12-21", "2018-01-03") == ["Fri 22 22", "Mon 25 22", "Fri 29 22", "Mon 01 22"]
    assert opens("forex", "2024-12-23", "2024-12-27") == ["Tue 24 22", "Wed 25 22"]


def test_a_candle_during_which_forex_opens_or_closes_is_expected() -> None:
    assert opens("forex", "2018-01-10", "2018-01-17", 4 * HOUR) == ["Sat 13 00", "Sun 14 20"]
    assert opens("forex", "2018-01-10", "2018-01-17", DAY) == ["Sat 13 00", "Sun 14 00"]


def test_forex_knows_no_candle_of_no_candles() -> None:
    assert len(CALENDARS["forex"](np.empty(0, np.int64), np.empty(0, np.int64))) == 0


def test_a_gap_loses_what_nobody_expected() -> None:
    weekend = Gap(at("2018-01-12T22:00"), at("2018-01-14T21:00"), 48)
    longer = Gap(at("2018-01-19T20:00"), at("2018-01-21T22:00"), 51)
    assert gaps_within([weekend, longer], GRID, CALENDARS["forex"]) == (Gap(longer.first, longer.last, 3),)
    assert gaps_within([weekend, longer], GRID, CALENDARS["always"]) == (weekend, longer)


def test_a_system_without_time_zones_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: str) -> None:
        raise ZoneInfoNotFoundError

    monkeypatch.setattr(calendar, "ZoneInfo", none)
    calendar._new_york.cache_clear()
    with pytest.raises(NoTimeZones, match="tzdata"):
        CALENDARS["forex"](np.array([0], np.int64), np.array([HOUR], np.int64))
