"""What a consumer can do wrong. Servers that fail are the package's own `ServerUnreachable` and `ReadFailed`."""

from __future__ import annotations

from backtest_kit_mongo.errors import CallerError


class FeedClosed(CallerError, RuntimeError):
    """The feed was closed before the event was acknowledged. It will be delivered again."""


class TooManyUnacknowledged(CallerError, RuntimeError):
    """More events were taken than may be open at once. Nothing is lost: acknowledge some, then go on iterating."""
