"""Redis' section of the settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, FilePath, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from backtest_kit_mongo.backends.settings import PORT_MAX, Section

_TLS_FILES = ("redis_tls_ca_file", "redis_tls_cert_file", "redis_tls_key_file")


class RedisSettings(Section):
    """Where Redis is, how long it is waited for and what is kept there."""

    redis_host: str = Field("127.0.0.1", description="Redis host.")
    redis_port: int = Field(6379, ge=1, le=PORT_MAX, description="Redis port.")
    redis_user: str = Field("", description="Redis ACL user; empty for the default user.")
    redis_password: SecretStr = Field(SecretStr(""), description="Redis password; empty for none.")
    redis_tls: bool = Field(
        False, description="Speak TLS to Redis and its Sentinels, and check their certificates and host names."
    )
    redis_tls_ca_file: FilePath | None = Field(
        None, description="PEM file of the authorities that may sign Redis' certificate. Default: the system's."
    )
    redis_tls_cert_file: FilePath | None = Field(
        None, description="PEM file of this client's certificate, for a Redis that asks for one."
    )
    redis_tls_key_file: FilePath | None = Field(None, description="PEM file of the key of that certificate.")
    redis_sentinel: Annotated[tuple[tuple[str, int], ...], NoDecode] = Field(
        (),
        description="Sentinels as host:port, separated by commas. Every new connection asks them for the primary; "
        "CC_REDIS_HOST and CC_REDIS_PORT are then not used.",
    )
    redis_sentinel_service: str = Field("mymaster", min_length=1, description="The name that Sentinels know it by.")
    redis_sentinel_password: SecretStr = Field(
        SecretStr(""), description="Password of the Sentinels themselves; empty for none."
    )
    redis_cluster: Annotated[tuple[tuple[str, int], ...], NoDecode] = Field(
        (),
        description="Nodes of a Redis Cluster as host:port, separated by commas; any that answers names the others. "
        "CC_REDIS_HOST and CC_REDIS_PORT are then not used. The same kind of Redis on all hosts.",
    )
    cache_mode: Literal["document", "id"] = Field(
        "document",
        description="`document` caches whole documents in Redis; `id` keeps the npm package's `_id` keys up to date "
        "and reads MongoDB, for databases that Node processes write too.",
    )
    on_redis_down: Literal["bypass", "fail"] = Field(
        "bypass",
        description="While Redis cannot be reached, or its feed has no room: go on with MongoDB alone and announce "
        "later, or refuse writes before anything is written.",
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
    partitions: int = Field(
        1, ge=1, le=4_096, description="Streams and hash slots the keys are spread over. The same on all hosts."
    )

    @field_validator("redis_sentinel", "redis_cluster", mode="before")
    @classmethod
    def _addresses(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        parsed = [_address(one.strip()) for one in value.split(",") if one.strip()]
        if not all(parsed):
            raise ValueError("expected host:port, separated by commas")
        return parsed

    @field_validator("redis_tls_ca_file", "redis_tls_cert_file", "redis_tls_key_file", mode="before")
    @classmethod
    def _no_file(cls, value: Any) -> Any:
        return None if value == "" else value

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        """A certificate without TLS means that somebody believes to be protected who is not."""
        named = [name for name in _TLS_FILES if getattr(self, name) is not None]
        if named and not self.redis_tls:
            raise ValueError(f"{' and '.join(named)} given, but redis_tls is off")
        if (self.redis_tls_cert_file is None) != (self.redis_tls_key_file is None):
            raise ValueError("redis_tls_cert_file and redis_tls_key_file go together")
        return self

    @model_validator(mode="after")
    def _sentinel_or_cluster(self) -> Self:
        if self.redis_sentinel and self.redis_cluster:
            raise ValueError("redis_sentinel and redis_cluster exclude each other: a cluster fails over by itself")
        return self

    @property
    def redis_address(self) -> str:
        """Where Redis is, for messages."""
        if self.redis_cluster:
            return f"the cluster of {','.join(f'{host}:{port}' for host, port in self.redis_cluster)}"
        if self.redis_sentinel:
            asked = ",".join(f"{host}:{port}" for host, port in self.redis_sentinel)
            return f"{self.redis_sentinel_service} (by the Sentinels {asked})"
        return f"{self.redis_host}:{self.redis_port}"


def _address(text: str) -> tuple[str, int] | None:
    """Host and port; None if it is something else. An IPv6 address stands in brackets."""
    host, _, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not bare or (":" in bare and bare == host) or not port.isdecimal() or not 0 < int(port) <= PORT_MAX:
        return None
    return bare, int(port)
