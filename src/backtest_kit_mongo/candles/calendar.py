"""When a market is open, and so which missing candles are gaps.

A candle is expected if the market is open at any moment between its open time and its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Final, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from backtest_kit_mongo.candles.columns import Mask, Times
from backtest_kit_mongo.candles.frame import Gap
from backtest_kit_mongo.candles.intervals import Grid
from backtest_kit_mongo.errors import EnvironmentFault

__all__ = ["CALENDARS", "Calendar", "NoTimeZones", "gaps_within"]

Calendar: TypeAlias = Callable[[Times, Times], Mask]
"""From ascending open times of candles, and where those end (both ms): at which of them a candle is expected."""

DAY_MS: Final = 24 * 3_600_000
MONDAY: Final = 4
"""Days since the epoch, which was a Thursday, modulo 7."""
NEW_YORK: Final = "America/New_York"
ROLLOVER: Final = time(17)
"""Trading days of foreign exchange end, and the next ones begin, at this time in New York."""
HOLIDAYS: Final = frozenset({(12, 25), (1, 1)})
"""Trading days (month, day) on which foreign exchange is closed everywhere."""


class NoTimeZones(EnvironmentFault, LookupError):
    """The calendar needs the system's time zones, which are not installed."""


def always(times: Times, ends: Times) -> Mask:
    """Cryptocurrencies: no pause."""
    return np.ones(len(times), np.bool_)


def weekdays(times: Times, ends: Times) -> Mask:
    """Monday to Friday, UTC."""
    first, last = times // DAY_MS, (ends - 1) // DAY_MS
    is_open: Mask = ((first - MONDAY) % 7 < 5) | ((last - MONDAY) % 7 < 5) | (last - first >= 2)
    return is_open


def forex(times: Times, ends: Times) -> Mask:
    """From Sunday to Friday, 17:00 in New York, but for the trading days of Christmas and New Year.

    Raises:
        NoTimeZones: this system does not know New York's time.
    """
    if not len(times):
        return np.zeros(0, np.bool_)
    day = timedelta(days=1)
    first, last = (date(1970, 1, 1) + int(moment // DAY_MS) * day for moment in (times[0], times[-1]))
    # The end: after every holiday a session follows, and each candle must have one that ends later.
    sessions = np.array([_session(first + i * day) for i in range((last - first).days + 8) if _trades(first + i * day)])
    following = np.searchsorted(sessions[:, 1], times, side="right")
    opens: Mask = sessions[following, 0] < ends
    return opens


def _trades(day: date) -> bool:
    return day.weekday() < 5 and (day.month, day.day) not in HOLIDAYS


def _session(day: date) -> tuple[int, int]:
    """Beginning and end of a trading day, ms."""
    zone = _new_york()
    begin, end = (datetime.combine(each, ROLLOVER, zone) for each in (day - timedelta(days=1), day))
    return int(begin.timestamp()) * 1000, int(end.timestamp()) * 1000


@lru_cache(maxsize=1)
def _new_york() -> ZoneInfo:
    try:
        return ZoneInfo(NEW_YORK)
    except ZoneInfoNotFoundError as cause:
        raise NoTimeZones(
            "The calendar `forex` needs the time zones of the operating system, and this one has none. "
            "Install its package `tzdata`, or `pip install tzdata`."
        ) from cause


CALENDARS: Final[Mapping[str, Calendar]] = MappingProxyType({"always": always, "weekdays": weekdays, "forex": forex})
"""The calendars by name."""


def gaps_within(gaps: Iterable[Gap], grid: Grid, calendar: Calendar) -> tuple[Gap, ...]:
    """What is left of gaps when only expected candles count: their first, last and number. A gap that reaches over a
    pause of the market stays one, because there is no candle in between.
    """
    found = []
    for gap in gaps:
        times = grid.times(gap.first, gap.last + 1)
        missing = times[calendar(times, grid.after(times))]
        if len(missing):
            found.append(Gap(int(missing[0]), int(missing[-1]), len(missing)))
    return tuple(found)
