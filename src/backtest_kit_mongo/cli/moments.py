"""Moments as people write them on a command line: milliseconds, or a date, UTC unless it has a zone."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Final

from backtest_kit_mongo.coherence.moments import EPOCH, iso, written_ms
from backtest_kit_mongo.errors import InvalidKey

__all__ = ["past_date", "past_ms", "simulated_ms", "when_ms"]

CLOCKS_MS: Final = 24 * 3_600_000
"""A moment that others' clocks may have reached: a day, for those whose zone was forgotten."""


def when_ms(written: str, option: str) -> int:
    """Epoch milliseconds.

    Raises:
        InvalidKey: it is neither milliseconds nor a date, or cannot have been meant.
    """
    return written_ms(written, option, is_counter_too=False)


def simulated_ms(written: str, option: str) -> int:
    """A simulation's time, which may count from zero.

    Raises:
        InvalidKey: as in `when_ms`.
    """
    return written_ms(written, option)


def past_ms(written: str, option: str) -> int:
    """`when_ms` of a moment of which something can be known.

    Raises:
        InvalidKey: it lies in the future, or as in `when_ms`.
    """
    found = when_ms(written, option)
    if found > time.time_ns() // 1_000_000 + CLOCKS_MS:
        raise InvalidKey(f"{option}: {iso(found)} lies in the future")
    return found


def past_date(written: str, option: str) -> datetime:
    """`past_ms` as a date."""
    return EPOCH + timedelta(milliseconds=past_ms(written, option))
