"""Settings of the feed's upkeep, used by the worker and by `bkm stream`."""

from __future__ import annotations

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from backtest_kit_mongo.settings import invalid


class FeedSettings(BaseSettings):
    """Environment variables CC_STREAM_..."""

    model_config = SettingsConfigDict(env_prefix="CC_STREAM_", frozen=True, extra="forbid")

    retention_ms: int = Field(
        default=3_600_000,
        ge=0,
        description=(
            "Entries younger than this stay in the stream even if nobody needs them any more, while it is not "
            "too large."
        ),
    )
    max_bytes: int = Field(
        default=0,
        ge=0,
        description=(
            "Memory of all streams together from which on the oldest entries go whatever their age. 0: half "
            "of Redis' maxmemory."
        ),
    )


def load_feed_settings() -> FeedSettings:
    """From the environment and defaults.

    Raises:
        InvalidSetting: a value does not fit.
    """
    try:
        return FeedSettings()
    except ValidationError as cause:
        raise invalid(cause, "CC_STREAM_") from None
