"""The embedded redis-server: an append-only file fsynced every second, no snapshots, and nothing evicted."""

from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError

from backtest_kit_mongo.connect import redis_at, transport

from .binaries import find_redis_server
from .processes import HOST, NotReadyError, Program

__all__ = ["REDIS", "keep_identity"]

CLIENT_TIMEOUT_S = 2.0


def _arguments(data: Path, port: int) -> list[str]:
    return [
        *("--port", str(port), "--bind", HOST, "--dir", str(data), "--daemonize", "no"),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        # The change feed lives in the same memory as the cache: an evicted stream would be lost events.
        *("--maxmemory-policy", "noeviction"),
    ]


def _client(port: int) -> Redis:
    return redis_at(HOST, port, transport(CLIENT_TIMEOUT_S * 1000))


def _ask(port: int) -> str:
    try:
        with _client(port) as client:
            return str(cast("dict[str, Any]", client.info("server"))["redis_version"])
    except RedisError as error:
        raise NotReadyError(str(error)) from error


def _settle(port: int) -> None:
    """INFO is answered even while the append-only file is loading; PING only after that."""
    try:
        with _client(port) as client:
            client.ping()
    except RedisError as error:
        raise NotReadyError(str(error)) from error


def keep_identity(port: int, name: str) -> None:
    """Store under this name which memory this is; it has another identity after a restart. Left out if it is away."""
    with suppress(RedisError), _client(port) as client:
        client.set(name, str(cast("dict[str, Any]", client.info("replication"))["master_replid"]))


REDIS = Program(
    key="redis",
    executable="redis-server",
    find=find_redis_server,
    arguments=_arguments,
    ask=_ask,
    settle=_settle,
    errors=lambda lines: lines,
)
