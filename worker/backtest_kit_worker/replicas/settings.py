"""Where replicas are. Like all settings, from CC_ variables; secrets never show in a repr or a log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from backtest_kit_mongo.settings import invalid


class ReplicaSettings(BaseSettings):
    """Each field `name` is the environment variable `CC_REPLICA_NAME`; an empty one counts as not given."""

    model_config = SettingsConfigDict(env_prefix="CC_REPLICA_", frozen=True, extra="forbid", env_ignore_empty=True)

    mongo_connection_string: SecretStr | None = Field(
        default=None,
        description="Another MongoDB deployment; the path names the database, by default as in the source.",
    )
    directory: Path | None = Field(
        default=None, description="A directory in the layout of `dump`, readable as a file store."
    )

    @field_validator("mongo_connection_string")
    @classmethod
    def _parsable(cls, value: SecretStr | None) -> SecretStr | None:
        try:
            if value is not None:
                parse_uri(value.get_secret_value(), validate=True, warn=False)
        except (PyMongoError, ValueError):
            # The parser's message may quote a part of the password.
            raise ValueError("not a MongoDB connection string (mongodb://user:password@host:port/database)") from None
        return value

    @property
    def is_configured(self) -> bool:
        """Whether there is any replica at all."""
        return self.mongo_connection_string is not None or self.directory is not None


def load_replicas(**arguments: Any) -> ReplicaSettings:
    """Settings from arguments, environment and defaults.

    Raises:
        InvalidSetting: a value does not fit; the message never shows it.
    """
    try:
        return ReplicaSettings(**arguments)
    except ValidationError as cause:
        raise invalid(cause, "CC_REPLICA_") from None
