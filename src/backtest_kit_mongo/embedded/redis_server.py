"""The embedded redis-server: an append-only file fsynced every second, no snapshots, and nothing evicted."""

from pathlib import Path
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError

from .binaries import find_redis_server
from .processes import HOST, Answer, NotReadyError, Program, require_listener

__all__ = ["REDIS"]

CLIENT_TIMEOUT_S = 2.0


def _arguments(data: Path, port: int) -> list[str]:
    return [
        *("--port", str(port), "--bind", HOST, "--dir", str(data), "--daemonize", "no"),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        # The change feed lives in the same memory as the cache: an evicted stream would be lost events.
        *("--maxmemory-policy", "noeviction"),
    ]


def _ask(port: int) -> Answer:
    require_listener(port)
    try:
        with Redis(host=HOST, port=port, socket_timeout=CLIENT_TIMEOUT_S) as client:
            info = cast("dict[str, Any]", client.info("server"))
    except RedisError as error:
        raise NotReadyError(str(error)) from error
    return Answer(pid=int(info["process_id"]), version=str(info["redis_version"]))


def _settle(port: int) -> None:
    """INFO is answered even while the append-only file is loading; PING only after that."""
    try:
        with Redis(host=HOST, port=port, socket_timeout=CLIENT_TIMEOUT_S) as client:
            client.ping()
    except RedisError as error:
        raise NotReadyError(str(error)) from error


REDIS = Program(
    key="redis", executable="redis-server", find=find_redis_server, arguments=_arguments, ask=_ask, settle=_settle
)
