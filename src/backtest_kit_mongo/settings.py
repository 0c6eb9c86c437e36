"""All settings in one frozen object: what this process wants, and a section of each server, which stands in the
server's directory. Arguments win over environment variables, which win over defaults; an unknown name is refused.

Every field `name` is the environment variable `CC_NAME`. Values that are secret never show in a repr or a log.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final

from platformdirs import user_data_path
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import NoDecode

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.mongo.settings import MongoSettings
from backtest_kit_mongo.backends.postgres.settings import PostgresSettings
from backtest_kit_mongo.backends.redis.settings import RedisSettings
from backtest_kit_mongo.backends.settings import PORT_MAX
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.errors import InvalidSetting

logger = locks.logger(__name__)


class Settings(MongoSettings, RedisSettings, PostgresSettings):
    """Where the servers are and how the store behaves. Times are milliseconds."""

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
        description="How long a copy may be served without a word from the shared cache.",
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
    retention: Annotated[tuple[tuple[str, float], ...], NoDecode] = Field(
        (),
        description=(
            "How long `bkm prune` keeps domains, in days since the last write, as `log=30,notification=90`; the others "
            "for ever."
        ),
    )
    tracing: bool = Field(
        False,
        description=(
            "Make OpenTelemetry spans of reads and writes; needs the extra `otel` and the program's own set-up of it."
        ),
    )
    embedded: bool = Field(False, description="Use private servers on this machine.")
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

    @field_validator("retention", mode="before")
    @classmethod
    def _days(cls, value: Any) -> Any:
        return tuple(retention_days(value).items()) if isinstance(value, str) else value

    @field_validator("tracing")
    @classmethod
    def _traceable(cls, value: bool) -> bool:
        if value and find_spec("opentelemetry") is None:
            raise ValueError("needs OpenTelemetry: pip install 'backtest-kit-mongo[otel]'")
        return value


DAYS_MAX: Final = 36_600
"""A century: what is to be kept longer is kept for ever."""


def retention_days(written: str) -> dict[str, float]:
    """Days by domain, from `log=30,notification=90`.

    Raises:
        InvalidSetting: a domain is unknown, has no keys of its own or is there twice, or a number is none.
    """
    found: dict[str, float] = {}
    can = [domain.name for domain in DOMAINS if not domain.fields]  # Candles have `bkm candles remove`.
    for one in filter(None, map(str.strip, written.split(","))):
        name, _, days = one.partition("=")
        if name in found:
            raise InvalidSetting(f"{name} is there twice: {found[name]:g} and {days} days")
        try:
            found[name] = float(days)
        except ValueError:
            raise InvalidSetting(f"{one!r} is not DOMAIN=DAYS, as log=30") from None
        if name not in can or not 0 < found[name] <= DAYS_MAX:
            raise InvalidSetting(
                f"{one!r}: a domain of {', '.join(can)}, and a number of days above 0, up to {DAYS_MAX:,}"
            )
    return found


def load(**arguments: Any) -> Settings:
    """Settings from arguments (`redis_host=...` or `CC_REDIS_HOST=...`), environment and defaults.

    Raises:
        InvalidSetting: a name is unknown or a value does not fit; the message never shows a secret's value.
    """
    _name_unknown()
    named: dict[str, Any] = {}
    for name, value in arguments.items():
        if named.setdefault(field := _field(name), value) is not value:
            raise InvalidSetting(f"{field} is given twice, with and without CC_")
    try:
        return Settings(**named)
    except ValidationError as cause:
        raise invalid(cause, "CC_") from None


def merged(given: Mapping[str, Any] | None, config: dict[str, Any]) -> dict[str, Any]:
    """
    Raises:
        InvalidSetting: it is no mapping of names, or a name is given twice.
    """
    if not all(isinstance(name, str) for name in given or {}):
        raise InvalidSetting("setup() takes a mapping of settings by name")
    if twice := sorted({*(given or {})} & {*config}):
        raise InvalidSetting(f"given twice: {', '.join(twice)}")
    return {**(given or {}), **config}


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


def _field(name: str) -> str:
    field = name.removeprefix("CC_").lower()
    if field not in Settings.model_fields:
        close = difflib.get_close_matches(field, Settings.model_fields, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(Settings.model_fields))}"
        raise InvalidSetting(f"unknown setting {name!r}{hint}")
    return field
