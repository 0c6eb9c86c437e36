"""The only place that makes clients of MongoDB, Redis and PostgreSQL; a test forbids others. Those of the first two
connect on first use.

What is the same for every client is said here once: times have zones, MongoDB's log shows who asks (`appname`), and a
client of Redis never repeats a command by itself, because a repeat needs a fresh token and is made where tokens are.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from importlib import import_module
from time import monotonic
from typing import Any, Final, TypeVar

import redis
from pymongo import MongoClient
from pymongo.errors import ConfigurationError
from pymongo.write_concern import WriteConcern
from redis.backoff import NoBackoff
from redis.retry import Retry

from backtest_kit_mongo.errors import InvalidSetting, ServerUnreachable

__all__ = ["DURABLE", "mongo_at", "mongo_client", "postgres_at", "redis_at", "redis_named", "transport"]

DURABLE: Final = WriteConcern("majority", j=True)
"""What was acknowledged outlives any one server: a majority has it in its journal."""


def mongo_client(
    uri: str,
    appname: str,
    *,
    find_ms: int | None = None,
    operation_ms: int | None = None,
    socket_ms: int | None = None,
    document_class: type[Any] = dict,
    listeners: Sequence[Any] = (),
) -> MongoClient[Any]:
    """A client for a connection string; the names of `mongodb+srv` are asked for here, once.

    Args:
        find_ms: how long to look for a server that can do it; None: the driver's 30 s, or what the string says.
        operation_ms: how long an operation may take, all attempts together; None: as long as it needs.
        socket_ms: how long an answer may be silent; None: for ever.
        document_class: what documents are decoded to.
        listeners: of the driver's events.

    Raises:
        ServerUnreachable: DNS does not know the name, or does not answer.
    """
    is_srv = uri.startswith("mongodb+srv:")
    options: dict[str, Any] = {
        "serverSelectionTimeoutMS": find_ms,
        "timeoutMS": operation_ms,
        "socketTimeoutMS": socket_ms,
        "event_listeners": list(listeners) or None,
        # It bounds DNS too, by 20 s if nobody says otherwise.
        "connectTimeoutMS": find_ms if is_srv and "connecttimeoutms" not in uri.lower() else None,
    }
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return MongoClient(uri, document_class=document_class, tz_aware=True, appname=appname, **given)
    except ConfigurationError as cause:
        if not is_srv:
            raise
        name = uri.rpartition("@")[2].removeprefix("mongodb+srv://").partition("/")[0]
        raise ServerUnreachable(
            f"MongoDB: the name {name} could not be resolved (DNS). Nothing was read or written: {cause}"
        ) from cause


def mongo_at(host: str, port: int, timeout_ms: int, **tls: Any) -> MongoClient[dict[str, Any]]:
    """Of this one server, whatever set it belongs to: to ask how it is. Nothing is tried twice. `tls`: the driver's
    options of that name.
    """
    return MongoClient(
        host,
        port,
        directConnection=True,
        retryReads=False,
        serverSelectionTimeoutMS=timeout_ms,
        connectTimeoutMS=timeout_ms,
        socketTimeoutMS=timeout_ms,
        **tls,
    )


def transport(timeout_ms: float) -> dict[str, Any]:
    """The library's options that every connection to a Redis or a Sentinel has."""
    timeout_s = timeout_ms / 1000
    return {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "retry": Retry(NoBackoff(), 0)}


def redis_at(host: str, port: int, options: Mapping[str, Any]) -> redis.Redis:
    """Of one server; `options` are the library's, from `transport`."""
    return redis.Redis(host=host, port=port, **options)


def redis_named(url: str, timeout_ms: float) -> redis.Redis:
    """Of the server that a redis:// or rediss:// URL names."""
    client: redis.Redis = redis.Redis.from_url(url, **transport(timeout_ms))
    return client


def postgres_at(uri: str, appname: str, timeout_ms: int) -> Any:
    """A connection (psycopg's) to the PostgreSQL of a connection string that takes writes; each statement is a
    transaction of its own, and takes no longer than the timeout.

    Raises:
        InvalidSetting: psycopg is not installed, or the string is none.
        ServerUnreachable: nothing was read or written.
    """
    try:
        psycopg: Any = import_module("psycopg")
    except ImportError as cause:
        raise InvalidSetting(
            f"PostgreSQL needs psycopg: pip install 'backtest-kit-mongo[postgres]' ({cause})"
        ) from None
    try:
        given = psycopg.conninfo.conninfo_to_dict(uri)
    except psycopg.Error:
        # The parser's message may quote a part of the password.
        raise InvalidSetting(
            "CC_POSTGRES_CONNECTION_STRING is no connection string of PostgreSQL: expected "
            "postgresql://user:password@host:5432/database, with special characters percent-encoded"
        ) from None
    options = {
        "connect_timeout": max(2, -(-timeout_ms // 1000)), "tcp_user_timeout": timeout_ms, "client_encoding": "utf8",
        "application_name": appname, "target_session_attrs": "read-write", **given,
    }  # fmt: skip
    try:
        return _bounded(psycopg.Connection, timeout_ms / 1000).connect(**options, autocommit=True)
    except psycopg.Error as cause:
        said = "".join(char if char.isprintable() else " " for char in str(cause))[:400]
        raise ServerUnreachable(f"PostgreSQL cannot be reached, nothing was read or written: {said}") from cause


def _bounded(kind: Any, timeout_s: float) -> Any:
    """A class of connections whose statements end in time, whatever the server and the network do."""

    class Bounded(kind):  # type: ignore[misc]  # Known when the library is there.
        def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
            return super().wait(_until(gen, monotonic() + timeout_s), *args, **options)

    return Bounded


R = TypeVar("R")


def _until(waiting: Generator[Any, Any, R], end_s: float) -> Generator[Any, Any, R]:
    """The same, unless it still waits then; the library asks several times a second."""
    try:
        wanted = next(waiting)
        while True:
            ready = yield wanted
            if not ready and monotonic() > end_s:
                raise TimeoutError("the server did not answer in time")
            wanted = waiting.send(ready)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
