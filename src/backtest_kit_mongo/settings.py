"""All settings in one frozen object. Arguments win over environment variables, which win over defaults; an unknown name
is refused.

Every field `name` is the environment variable `CC_NAME`. Values that are secret never show in a repr or a log.
"""

from __future__ import annotations

import difflib
import os
import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from platformdirs import user_data_path
from pydantic import Field, FilePath, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from backtest_kit_mongo import locks
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.errors import InvalidSetting

logger = locks.logger(__name__)

DEFAULT_DATABASE = "backtest-kit"
PORT_MAX = 65_535
_SRV = "mongodb+srv://"
_SRV_ONLY = ("srvmaxhosts=", "srvservicename=", "srvallowedhostssuffix=")
SPARE_MIN_MS = 10
"""Of a lease, beyond the bound on its write: half of it is for a command on its way."""
_TLS_FILES = ("redis_tls_ca_file", "redis_tls_cert_file", "redis_tls_key_file")


class Settings(BaseSettings):
    """Where the servers are and how the store behaves. Times are milliseconds."""

    model_config = SettingsConfigDict(
        env_prefix="CC_", frozen=True, extra="forbid", env_ignore_empty=False, validate_default=True
    )

    mongo_connection_string: SecretStr = Field(
        SecretStr(f"mongodb://localhost:27017/{DEFAULT_DATABASE}?wtimeoutMS=15000"),
        description="MongoDB; the path names the database. Write concern is majority with journal unless the string "
        "says otherwise. TLS is part of it: tls=true&tlsCAFile=/path/ca.pem, and "
        "tlsCertificateKeyFile=/path/client.pem if the server "
        "asks for a certificate. mongodb+srv needs nothing more: the DNS library comes with the driver.",
    )
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
        description=(
            "Go on with MongoDB alone while Redis cannot be reached, or refuse writes before anything is written."
        ),
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
        description="Bound on each MongoDB operation, retries included; less than `lease_ms`. Default: two thirds of "
        "it. A command that is on its way for longer than half of what is left of the lease is refused by MongoDB.",
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
        default_factory=lambda: frozenset(domain.name for domain in DOMAINS if domain.memo),
        description="Domains of which each process keeps copies, separated by commas; empty for none. Their reads may "
        "miss what other processes wrote in the last `CC_NEAR_CACHE_MAX_STALENESS_MS`: do not name what decisions "
        "rest on. A measure never changes under its key.",
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
    candle_cache_max_bytes: int = Field(
        256 * 1024 * 1024,
        ge=0,
        description="Bound on the memory of the candle blocks that a process keeps for `read_candles`; 0 keeps none. "
        "A kept block never goes stale.",
    )
    partitions: int = Field(
        1, ge=1, le=4_096, description="Streams and hash slots the keys are spread over. The same on all hosts."
    )
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=PORT_MAX,
        description="Serve this process's metrics at /metrics of this port. Default: not at all.",
    )
    metrics_host: str = Field("127.0.0.1", description="Address to serve them on.")
    metrics_port_count: int = Field(
        1,
        ge=1,
        le=1_000,
        description="Take the first free port of so many, from `CC_METRICS_PORT` on: for several processes on a host.",
    )
    tracing: bool = Field(
        False,
        description=(
            "Make OpenTelemetry spans of reads and writes; needs the extra `otel` and the program's own set-up of it."
        ),
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

    @field_validator("tracing")
    @classmethod
    def _traceable(cls, value: bool) -> bool:
        if value and find_spec("opentelemetry") is None:
            raise ValueError("needs OpenTelemetry: pip install 'backtest-kit-mongo[otel]'")
        return value

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

    @field_validator("mongo_connection_string")
    @classmethod
    def _parsable(cls, value: SecretStr) -> SecretStr:
        _parsed(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Settings:
        """A certificate without TLS means that somebody believes to be protected who is not."""
        named = [name for name in _TLS_FILES if getattr(self, name) is not None]
        if named and not self.redis_tls:
            raise ValueError(f"{' and '.join(named)} given, but redis_tls is off")
        if (self.redis_tls_cert_file is None) != (self.redis_tls_key_file is None):
            raise ValueError("redis_tls_cert_file and redis_tls_key_file go together")
        return self

    @model_validator(mode="after")
    def _sentinel_or_cluster(self) -> Settings:
        if self.redis_sentinel and self.redis_cluster:
            raise ValueError("redis_sentinel and redis_cluster exclude each other: a cluster fails over by itself")
        return self

    @model_validator(mode="after")
    def _lease_outlives_mongo(self) -> Settings:
        if self.lease_ms - self.mongo_bound_ms < SPARE_MIN_MS:
            # MongoDB must not commit after the lease has ended (I1, I5b, I7).
            raise ValueError(
                f"mongo_timeout_ms ({self.mongo_bound_ms}) must be less than lease_ms ({self.lease_ms}), by "
                f"{SPARE_MIN_MS} at least"
            )
        return self

    @property
    def mongo_bound_ms(self) -> int:
        """Bound on each MongoDB operation."""
        return self.mongo_timeout_ms if self.mongo_timeout_ms is not None else self.lease_ms * 2 // 3

    @property
    def mongo_arrival_ms(self) -> float:
        """How long a command that writes may be on its way to MongoDB; what then remains of the lease is as much."""
        return (self.lease_ms - self.mongo_bound_ms) / 2

    @property
    def database(self) -> str:
        """The database that the connection string names."""
        return _parsed(self.mongo_connection_string.get_secret_value()).database or DEFAULT_DATABASE

    @property
    def mongo_address(self) -> str:
        """Hosts of MongoDB without user and password, for messages."""
        return _parsed(self.mongo_connection_string.get_secret_value()).address

    @property
    def redis_address(self) -> str:
        """Where Redis is, for messages."""
        if self.redis_cluster:
            return f"the cluster of {','.join(f'{host}:{port}' for host, port in self.redis_cluster)}"
        if self.redis_sentinel:
            asked = ",".join(f"{host}:{port}" for host, port in self.redis_sentinel)
            return f"{self.redis_sentinel_service} (by the Sentinels {asked})"
        return f"{self.redis_host}:{self.redis_port}"


class _Parsed(NamedTuple):
    """What a connection string says without asking DNS."""

    database: str | None
    address: str


@lru_cache(maxsize=8)
def _parsed(text: str) -> _Parsed:
    """Parse a connection string; `mongodb+srv` too, whose servers the driver asks DNS for when it connects.

    Raises:
        ValueError: what is wrong with it, without a part of it that may be secret.
    """
    is_srv = text.startswith(_SRV)
    head, mark, query = text.replace(_SRV, "mongodb://", 1).partition("?") if is_srv else text.partition("?")
    options = [pair for pair in re.split("[&;]", query) if not is_srv or not pair.lower().startswith(_SRV_ONLY)]
    try:
        found = parse_uri(head + mark + "&".join(options), validate=True, warn=False)
    except (PyMongoError, ValueError):
        # The parser's message may quote a part of the password.
        raise ValueError(_what_is_wrong(head, options)) from None
    except OSError as cause:
        raise ValueError(f"a file that it names cannot be read: {cause.filename}: {cause.strerror}") from None
    if not is_srv:
        return _Parsed(
            found["database"], ",".join(f"{host}:{port}" if port else host for host, port in found["nodelist"])
        )
    name = head.rpartition("@")[2].removeprefix("mongodb://").partition("/")[0]
    if ":" in name or "," in name or "." not in name:
        raise ValueError("mongodb+srv takes one name in DNS, with at least one dot, and no port")
    return _Parsed(found["database"], name)


def _what_is_wrong(head: str, options: list[str]) -> str:
    for pair in options:
        try:
            parse_uri(f"mongodb://host/?{pair}", validate=True, warn=False)
        except (PyMongoError, ValueError):
            return (
                f"its option {pair.partition('=')[0]:.40} is unknown or has a value that MongoDB's driver does not take"
            )
    try:
        parse_uri(head, validate=True, warn=False)
    except (PyMongoError, ValueError):
        return (
            "not a MongoDB connection string: expected mongodb://user:password@host:port/database, with special "
            "characters of user and password percent-encoded"
        )
    return f"its options conflict with each other: {', '.join(pair.partition('=')[0] for pair in options)}"


def load(**arguments: Any) -> Settings:
    """Settings from arguments (`redis_host=...` or `CC_REDIS_HOST=...`), environment and defaults.

    Raises:
        InvalidSetting: a name is unknown or a value does not fit; the message never shows a secret's value.
    """
    _name_unknown()
    named = {_field(name): value for name, value in arguments.items()}
    try:
        return Settings(**named)
    except ValidationError as cause:
        raise invalid(cause, "CC_") from None


ELSEWHERE = frozenset(
    {
        "CC_ANCHOR_COMMAND",
        "CC_ANCHOR_FILE",
        "CC_ANCHOR_INTERVAL_MS",
        "CC_ANCHOR_MISSED_MAX",
        "CC_ANCHOR_MONGO_CONNECTION_STRING",
        "CC_ANCHOR_SIGN_KEY",
        "CC_CANDLE_CACHE_DIR",
        "CC_CANDLE_CACHE_MB",
        "CC_INVALIDATION_REDIS",
        "CC_REPLICA_DIRECTORY",
        "CC_REPLICA_MONGO_CONNECTION_STRING",
        "CC_STRATEGY_DIR",
        "CC_STREAM_MAX_BYTES",
        "CC_STREAM_RETENTION_MS",
    }
)
"""Variables that other settings classes read, those of the worker and of sweeps."""
LIKENESS_MIN = 0.75
"""Below it a name is another program's: the engine has CC_ variables of its own."""


@lru_cache(maxsize=64)
def _named(unknown: str) -> None:
    """Once a process."""
    known = ELSEWHERE | {f"CC_{name.upper()}" for name in Settings.model_fields}
    near = difflib.get_close_matches(unknown.upper(), known, n=1, cutoff=LIKENESS_MIN)
    if near:
        logger.warning(
            "the environment variable %s is no setting and has no effect; did you mean %s?", unknown, near[0]
        )
    else:
        logger.info("the environment variable %s is no setting of backtest-kit-mongo", unknown)


def _name_unknown() -> None:
    """A mistyped name would otherwise leave its default in force, unheard."""
    known = ELSEWHERE | {f"CC_{name.upper()}" for name in Settings.model_fields}
    for name in os.environ:
        if name.upper().startswith("CC_") and name.upper() not in known:
            _named(name)


def invalid(cause: ValidationError, prefix: str) -> InvalidSetting:
    """What is wrong with which environment variables, without a value: it may be a secret."""
    errors = cause.errors(include_url=False, include_input=False, include_context=False)
    named = ((".".join(map(str, error["loc"])).upper(), error["msg"]) for error in errors)
    return InvalidSetting("; ".join(f"{prefix}{name}: {said}" if name else said for name, said in named))


def _address(text: str) -> tuple[str, int] | None:
    """Host and port; None if it is something else. An IPv6 address stands in brackets."""
    host, _, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not bare or (":" in bare and bare == host) or not port.isdecimal() or not 0 < int(port) <= PORT_MAX:
        return None
    return bare, int(port)


def _field(name: str) -> str:
    field = name.removeprefix("CC_").lower()
    if field not in Settings.model_fields:
        close = difflib.get_close_matches(field, Settings.model_fields, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(Settings.model_fields))}"
        raise InvalidSetting(f"unknown setting {name!r}{hint}")
    return field
