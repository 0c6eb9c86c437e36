"""Both servers of the settings, for whoever looks at them from outside of a store: commands, the worker, consumers."""

from __future__ import annotations

import ssl
from contextlib import ExitStack
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import redis
from pymongo import MongoClient
from pymongo.database import Database

from backtest_kit_mongo.backends.redis.cluster import ClusterClient
from backtest_kit_mongo.backends.redis.nodes import ClusterNodes
from backtest_kit_mongo.backends.redis.sentinel import client_of_primary
from backtest_kit_mongo.coherence.keys import streams
from backtest_kit_mongo.connect import mongo_client, redis_at, transport
from backtest_kit_mongo.settings import Settings

__all__ = ["Servers", "redis_client"]


class Servers:
    """MongoDB and Redis, each opened when it is first asked for, both closed once. Clients are thread-safe.

    Args:
        appname: who asks, in MongoDB's log.
        find_ms, operation_ms: see `connect.mongo_client`.
        block_ms: how long a blocking read of the feed may take beyond `redis_timeout_ms`.
    """

    def __init__(
        self,
        settings: Settings,
        appname: str = "backtest-kit-mongo",
        *,
        find_ms: int | None = None,
        operation_ms: int | None = None,
        block_ms: int = 0,
        document_class: type[Any] = dict,
    ) -> None:
        self.settings = settings
        self._appname, self._document_class = appname, document_class
        self._find_ms, self._operation_ms = find_ms, operation_ms
        self._block_ms = block_ms
        self._opened = ExitStack()

    @cached_property
    def mongo(self) -> MongoClient[Any]:
        uri = self.settings.mongo_connection_string.get_secret_value()
        client = mongo_client(
            uri,
            self._appname,
            find_ms=self._find_ms,
            operation_ms=self._operation_ms,
            document_class=self._document_class,
        )
        self._opened.callback(client.close)
        return client

    @cached_property
    def redis(self) -> redis.Redis:
        """Never retries by itself: what was executed must be known."""
        patient_ms = self.settings.redis_timeout_ms + self._block_ms
        client = redis_client(self.settings.model_copy(update={"redis_timeout_ms": patient_ms}))
        self._opened.callback(client.close)
        return client

    @property
    def database(self) -> Database[Any]:
        return self.mongo[self.settings.database]

    @property
    def streams(self) -> tuple[str, ...]:
        """The feed's streams, one per partition."""
        return streams(self.settings.database, self.settings.partitions)

    def close(self) -> None:
        """Close what was opened; calling it again does nothing."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def redis_client(settings: Settings) -> redis.Redis:
    """A client that never retries by itself: a retry needs a fresh token, so it is made where tokens are.

    With CC_REDIS_SENTINEL each of its new connections goes to whom the Sentinels then name as the primary; with
    CC_REDIS_CLUSTER each command goes to the node of its key.
    """
    common = {**transport(settings.redis_timeout_ms), **_tls(settings)}
    options: dict[str, Any] = {
        **common,
        "username": settings.redis_user or None,
        "password": settings.redis_password.get_secret_value() or None,
        "client_name": "backtest-kit-mongo",
    }
    if settings.redis_cluster:
        seeds = settings.redis_cluster
        patience_s = settings.redis_timeout_ms / 1000
        return ClusterClient(
            ClusterNodes(seeds, lambda host, port: redis_at(host, port, options), patience_s), seeds[0]
        )
    if not settings.redis_sentinel:
        return redis_at(settings.redis_host, settings.redis_port, options)
    of_sentinels = {**common, "password": settings.redis_sentinel_password.get_secret_value() or None}
    return client_of_primary(settings.redis_sentinel, settings.redis_sentinel_service, of_sentinels, options)


def _tls(settings: Settings) -> dict[str, Any]:
    """The client library's names for it; nothing without TLS."""
    if not settings.redis_tls:
        return {}
    files = {
        "ssl_ca_certs": settings.redis_tls_ca_file,
        "ssl_certfile": settings.redis_tls_cert_file,
        "ssl_keyfile": settings.redis_tls_key_file,
    }
    named = {name: str(path) for name, path in files.items() if path is not None}
    # Older releases of the library do not check the name unless set to: any certificate of the authority would do.
    return {"ssl": True, "ssl_check_hostname": True, "ssl_min_version": ssl.TLSVersion.TLSv1_2, **named}
