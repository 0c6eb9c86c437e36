"""Moments as people write them, and intervals."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Final, TypeAlias

from backtest_kit.errors import DeclarationError
from backtest_kit.identity import MINUTE_MS

__all__ = ["CANDLE_MS", "INTERVALS_MS", "MomentLike", "minute_text", "to_ms"]

MomentLike: TypeAlias = int | str | date | datetime
"""Epoch milliseconds, an ISO text ("2024-01-31", "2024-01-31T12:00"), a date or a datetime; UTC without a zone."""

INTERVALS_MS: Final = {
    name: minutes * MINUTE_MS for name, minutes in {"1m": 1, "3m": 3, "5m": 5, "15m": 15, "30m": 30, "1h": 60}.items()
}
"""How often a strategy may be asked."""
CANDLE_MS: Final = (
    INTERVALS_MS | {f"{hours}h": hours * 60 * MINUTE_MS for hours in (2, 4, 6, 8, 12)} | {"1d": 1440 * MINUTE_MS}
)
"""Lengths of candles."""


def to_ms(when: MomentLike) -> int:
    """Epoch milliseconds.

    Raises:
        DeclarationError: it is no moment.
    """
    if isinstance(when, str):
        text = when.strip()
        if text.isdecimal():
            return int(text)
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            raise DeclarationError(f"{when!r} is no moment; write milliseconds or a date as 2024-01-31T12:00") from None
    if isinstance(when, datetime):
        return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)
    if isinstance(when, date):
        return to_ms(datetime(when.year, when.month, when.day, tzinfo=UTC))
    if type(when) is not int:
        raise DeclarationError(f"{when!r} is no moment; give milliseconds, a date, a datetime or an ISO text")
    return when


def minute_text(moment_ms: int) -> str:
    """For people: 2024-01-31 12:00Z."""
    try:
        return datetime.fromtimestamp(moment_ms / 1000, UTC).strftime("%Y-%m-%d %H:%MZ")
    except (ValueError, OverflowError, OSError):
        return f"{moment_ms} ms"
