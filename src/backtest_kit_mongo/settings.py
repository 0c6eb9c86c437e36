"""All settings in one frozen object. Arguments win over environment variables, which win over defaults; an unknown name
is refused.

Every field `name` is the environment variable `CC_NAME`. Values that are secret never show in a repr or a log.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from platformdirs import user_data_path
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.errors import InvalidSetting

DEFAULT_DATABASE = "backtest-kit"


class Settings(BaseSettings):
    """Where the servers are and how the store behaves. Times are milliseconds."""

    model_config = SettingsConfigDict(
        env_prefix="CC_", frozen=True, extra="forbid", env_ignore_empty=False, validate_default=True
    )

    mongo_connection_string: SecretStr = Field(
        SecretStr(f"mongodb://localhost:27017/{DEFAULT_DATABASE}?wtimeoutMS=15000"),
        description="MongoDB; the path names the database. Write concern is majority with journal unless the string says otherwise.",
    )
    redis_host: str = Field("127.0.0.1", description="Redis host.")
    redis_port: int = Field(6379, ge=1, le=65_535, description="Redis port.")
    redis_user: str = Field("", description="Redis ACL user; empty for the default user.")
    redis_password: SecretStr = Field(SecretStr(""), description="Redis password; empty for none.")
    cache_mode: Literal["document", "id"] = Field(
        "document",
        description="`document` caches whole documents in Redis; `id` keeps the npm package's `_id` keys up to date and reads MongoDB, "
        "for databases that Node processes write too.",
    )
    on_redis_down: Literal["bypass", "fail"] = Field(
        "bypass",
        description="Go on with MongoDB alone while Redis cannot be reached, or refuse writes before anything is written.",
    )
    lease_ms: int = Field(
        15_000,
        ge=50,
        le=600_000,
        description="How long a writer that died blocks caching of its key. The same on all hosts of a database.",
    )
    mongo_timeout_ms: int | None = Field(
        None,
        ge=20,
        description="Bound on each MongoDB operation, retries included; less than `lease_ms`. Default: two thirds of it.",
    )
    redis_timeout_ms: int = Field(1_000, ge=10, description="Bound on connecting to Redis and on each command.")
    redis_retry_ms: int = Field(
        500, ge=1, description="Pause between attempts to reach Redis again while it is bypassed."
    )
    cache_ttl_ms: int = Field(
        7 * 24 * 3_600_000,
        ge=1_000,
        description="How long an unused entry stays in Redis. It bounds memory, not staleness.",
    )
    near_cache: Annotated[frozenset[str], NoDecode] = Field(
        frozenset(domain.name for domain in DOMAINS if domain.memo),
        description="Domains of which each process keeps copies, separated by commas; empty for none. Their reads may miss what other "
        "processes wrote in the last `CC_NEAR_CACHE_MAX_STALENESS_MS`: do not name what decisions rest on. A measure never "
        "changes under its key.",
    )
    near_cache_max_staleness_ms: int = Field(
        1_000,
        ge=20,
        le=3_600_000,
        description="How long a copy may be served without a word from Redis.",
    )
    near_cache_max_bytes: int = Field(
        64 * 1024 * 1024, ge=0, description="Bound on the memory of all copies of a process."
    )
    partitions: int = Field(
        1, ge=1, le=4_096, description="Streams and hash slots the keys are spread over. The same on all hosts."
    )
    embedded: bool = Field(False, description="Use a private mongod and redis-server on this machine.")
    embedded_dir: Path = Field(
        default_factory=lambda: user_data_path("backtest-kit-mongo"),
        description="Data directory of the embedded servers.",
    )

    @field_validator("near_cache", mode="before")
    @classmethod
    def _near_domains(cls, value: Any) -> Any:
        chosen = [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else list(value)
        can = sorted(domain.name for domain in DOMAINS if domain.cached)
        if wrong := sorted(set(chosen) - set(can)):
            raise ValueError(
                f"{', '.join(wrong)}: not a domain whose documents are read one by one; those are {', '.join(can)}"
            )
        return chosen

    @field_validator("mongo_connection_string")
    @classmethod
    def _parsable(cls, value: SecretStr) -> SecretStr:
        try:
            parse_uri(value.get_secret_value(), validate=True, warn=False)
        except (PyMongoError, ValueError):
            # The parser's message may quote a part of the password.
            raise ValueError(
                "not a MongoDB connection string: expected mongodb://user:password@host:port/database, with special characters of "
                "user and password percent-encoded"
            ) from None
        return value

    @model_validator(mode="after")
    def _lease_outlives_mongo(self) -> Settings:
        if self.mongo_bound_ms >= self.lease_ms:
            # MongoDB must not commit after the lease has ended (I1, I5b, I7).
            raise ValueError(f"mongo_timeout_ms ({self.mongo_timeout_ms}) must be less than lease_ms ({self.lease_ms})")
        return self

    @property
    def mongo_bound_ms(self) -> int:
        """Bound on each MongoDB operation."""
        return self.mongo_timeout_ms if self.mongo_timeout_ms is not None else self.lease_ms * 2 // 3

    @property
    def database(self) -> str:
        """The database that the connection string names."""
        return parse_uri(self.mongo_connection_string.get_secret_value(), warn=False)["database"] or DEFAULT_DATABASE

    @property
    def mongo_address(self) -> str:
        """Hosts of MongoDB without user and password, for messages."""
        nodes = parse_uri(self.mongo_connection_string.get_secret_value(), warn=False)["nodelist"]
        return ",".join(f"{host}:{port}" if port else host for host, port in nodes)

    @property
    def redis_address(self) -> str:
        return f"{self.redis_host}:{self.redis_port}"


def load(**arguments: Any) -> Settings:
    """Settings from arguments (`redis_host=...` or `CC_REDIS_HOST=...`), environment and defaults.

    Raises:
        InvalidSetting: a name is unknown or a value does not fit; the message never shows a secret's value.
    """
    named = {_field(name): value for name, value in arguments.items()}
    try:
        return Settings(**named)
    except ValidationError as cause:
        raise invalid(cause, "CC_") from None


def invalid(cause: ValidationError, prefix: str) -> InvalidSetting:
    """What is wrong with which environment variables, without a value: it may be a secret."""
    errors = cause.errors(include_url=False, include_input=False, include_context=False)
    named = ((".".join(map(str, error["loc"])).upper(), error["msg"]) for error in errors)
    return InvalidSetting("; ".join(f"{prefix}{name}: {said}" if name else said for name, said in named))


def _field(name: str) -> str:
    field = name.removeprefix("CC_").lower()
    if field not in Settings.model_fields:
        close = difflib.get_close_matches(field, Settings.model_fields, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(Settings.model_fields))}"
        raise InvalidSetting(f"unknown setting {name!r}{hint}")
    return field
