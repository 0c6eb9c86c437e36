"""Settings -> the shared cache, and what keeps it and its database together."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from pymongo import MongoClient

from backtest_kit_mongo.backends.mongo.identity import IdentityDocument, Start
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.backends.redis.cache import RedisCache
from backtest_kit_mongo.backends.redis.counts import CacheCounts
from backtest_kit_mongo.backends.redis.id_cache import RedisIdCache
from backtest_kit_mongo.backends.redis.identity import Identity, SharedIdentity
from backtest_kit_mongo.backends.redis.link import Link
from backtest_kit_mongo.backends.redis.options import CacheOptions
from backtest_kit_mongo.backends.redis.partitions import PartitionedCache
from backtest_kit_mongo.backends.redis.passing import Passing
from backtest_kit_mongo.coherence.bypass import serve_ms_of
from backtest_kit_mongo.coherence.events import Origin
from backtest_kit_mongo.coherence.record import Shape
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.settings import Settings


def identity_of(settings: Settings, client: Callable[[], MongoClient[dict[str, Any]]], link: Link) -> SharedIdentity:
    """What keeps a database and its Redis together.

    Args:
        client: called late; of the settings' MongoDB.
        link: to the settings' Redis.
    """
    document = identity_document(settings, client)
    who = f"{socket.gethostname()}/{os.getpid()}"
    start = Start(settings.partitions, settings.cache_mode, settings.lease_ms, version("backtest-kit-mongo"), who)
    return SharedIdentity(document, link, settings.database, start)


def identity_document(settings: Settings, client: Callable[[], MongoClient[dict[str, Any]]]) -> IdentityDocument:
    """MongoDB's half of it."""
    collections = [collection_of(domain) for domain in DOMAINS if domain.shape is not Shape.SERIES]
    return IdentityDocument(
        lambda: client().get_database(settings.database), collections, settings.mongo_bound_ms / 1000
    )


def make_cache(
    settings: Settings, identity: Identity, link: Link, trace: Callable[[], str] = str
) -> RedisCache | PartitionedCache:
    """The cache alone, which takes over the link."""
    options = CacheOptions(
        database=settings.database,
        partitions=settings.partitions,
        lease_ms=settings.lease_ms,
        write_ms=settings.mongo_bound_ms,
        ttl_ms=settings.cache_ttl_ms,
        retry_ms=settings.redis_retry_ms,
        bypass=settings.on_redis_down == "bypass",
        origin=Origin(socket.gethostname(), os.getpid()),
        trace=trace,
    )

    def passing(scope: Callable[[], str]) -> Passing | None:
        if not isinstance(identity, SharedIdentity):
            return None
        return Passing(identity.flags, scope, serve_ms_of(settings.lease_ms), identity.end)

    kind = RedisCache if settings.cache_mode == "document" else RedisIdCache
    if not settings.redis_cluster:
        return kind(link, options, identity=identity, passing=passing(lambda: "*/0"))
    counts = CacheCounts(time.monotonic)

    def make(health_key: str) -> RedisCache:
        partition = health_key.partition("}")[0].removeprefix("{bk:")
        of_partition = passing(lambda: f"{partition}/{identity.partitions}")
        return kind(link, options, identity=identity, health_key=health_key, counts=counts, passing=of_partition)

    return PartitionedCache(settings.database, identity, make, counts, settings.redis_retry_ms / 1000)
