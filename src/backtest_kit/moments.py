"""Moments as people write them, and intervals."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Final, TypeAlias

from backtest_kit.errors import DeclarationError
from backtest_kit.identity import MINUTE_MS
from backtest_kit_mongo import InvalidKey, moment_ms, written_ms

__all__ = ["CANDLE_MS", "INTERVALS_MS", "MomentLike", "minute_text", "to_ms"]

MomentLike: TypeAlias = int | str | date | datetime
"""Epoch milliseconds, an ISO text ("2024-01-31", "20240131", "2024-01-31T12:00"; UTC without a zone), a date, which is
its beginning in UTC, or a datetime with a zone.
"""

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
        DeclarationError: it is no moment, or one that cannot have been meant, as in seconds (`docs/moments.md`).
    """
    if isinstance(when, date) and not isinstance(when, datetime):
        when = datetime(when.year, when.month, when.day, tzinfo=UTC)
    try:
        return written_ms(when, "a frame") if isinstance(when, str) else moment_ms(when, "a frame")
    except InvalidKey as cause:
        raise DeclarationError(f"{cause}. Nothing was run.") from None


def minute_text(moment_ms: int) -> str:
    """For people: 2024-01-31 12:00Z."""
    try:
        return datetime.fromtimestamp(moment_ms / 1000, UTC).strftime("%Y-%m-%d %H:%MZ")
    except (ValueError, OverflowError, OSError):
        return f"{moment_ms} ms"
