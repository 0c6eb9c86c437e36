"""What the settings of all servers rest on. Each has its own section beside it; `settings.py` puts them together."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

PORT_MAX = 65_535


class Section(BaseSettings):
    """Every field `name` is the environment variable `CC_NAME`. Times are milliseconds."""

    model_config = SettingsConfigDict(
        env_prefix="CC_", frozen=True, extra="forbid", env_ignore_empty=False, validate_default=True
    )

    lease_ms: int = Field(
        15_000,
        ge=50,
        le=600_000,
        description="How long a writer that died blocks caching of its key. The same on all hosts of a database.",
    )
