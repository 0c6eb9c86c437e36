"""Moments as people write them on a command line: milliseconds, or a date, UTC unless it has a zone."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from backtest_kit_mongo.coherence.codec import millis
from backtest_kit_mongo.errors import InvalidSetting

__all__ = ["parse_date", "parse_ms"]

_MILLIS: Final = re.compile("-?[0-9]+")


def parse_ms(written: str) -> int:
    """Epoch milliseconds; as such they may lie beyond the calendar.

    Raises:
        InvalidSetting: it is neither milliseconds nor a date.
    """
    return int(written) if _MILLIS.fullmatch(written) else millis(parse_date(written))


def parse_date(written: str) -> datetime:
    """A date with a zone.

    Raises:
        InvalidSetting: it is neither a date nor milliseconds that the calendar has.
    """
    try:
        if _MILLIS.fullmatch(written):
            return datetime.fromtimestamp(int(written) / 1000, UTC)
        moment = datetime.fromisoformat(written)
    except (ValueError, OverflowError, OSError):
        raise InvalidSetting(
            f"not a moment: {written!r}; expected milliseconds or a date as 2024-01-01T12:00"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
