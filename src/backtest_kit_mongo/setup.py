"""The only wiring place: settings -> backend -> store -> registries."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
import time
from dataclasses import replace
from typing import Any

import pymongo
import redis
from pydantic import SecretStr
from pymongo import MongoClient
from redis.backoff import NoBackoff
from redis.retry import Retry

from backtest_kit_mongo import metrics, stores
from backtest_kit_mongo.adapters.registries import REGISTRIES
from backtest_kit_mongo.backends.mongo.documents import MongoTruth
from backtest_kit_mongo.backends.near_cache import NearCache, NearOptions
from backtest_kit_mongo.backends.redis.cache import CacheOptions, RedisCache, RedisIdCache
from backtest_kit_mongo.backends.redis.cluster import ClusterClient, link_over
from backtest_kit_mongo.backends.redis.counts import CacheCounts
from backtest_kit_mongo.backends.redis.link import UNREACHABLE, Link
from backtest_kit_mongo.backends.redis.nodes import ClusterNodes
from backtest_kit_mongo.backends.redis.partitions import PartitionedCache
from backtest_kit_mongo.backends.redis.sentinel import client_of_primary
from backtest_kit_mongo.coherence.events import Origin
from backtest_kit_mongo.coherence.keys import streams
from backtest_kit_mongo.domains.table import BY_NAME, DOMAINS
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import AlreadySetUp, NotSetUp, ServerUnreachable
from backtest_kit_mongo.settings import Settings, load

logger = logging.getLogger(__name__)

WAYS_OUT = (
    "Two ways out: `bkm up` starts private servers on this machine and prints the settings for them (or call setup(embedded=True)); "
    "`docker compose up -d --wait` starts the ones of the compose file. Otherwise check CC_MONGO_CONNECTION_STRING, CC_REDIS_HOST and "
    "CC_REDIS_PORT."
)
OPEN_REDIS: dict[str, Any] = {
    "redis_user": "", "redis_password": SecretStr(""), "redis_sentinel": (), "redis_cluster": (), "redis_tls": False,
    "redis_tls_ca_file": None, "redis_tls_cert_file": None, "redis_tls_key_file": None,
}  # fmt: skip
"""A Redis that answers whoever reaches it, directly and in the clear."""
_lock = threading.RLock()
_config: dict[str, Any] = {}
"""What `set_config` and `setup` were given."""
_settings: Settings | None = None
"""The settings in use; None until `install` or `setup`."""


def redis_client(settings: Settings) -> redis.Redis:
    """A client that never retries by itself: a retry needs a fresh token, so it is made where tokens are.

    With CC_REDIS_SENTINEL each of its new connections goes to whom the Sentinels then name as the primary; with
    CC_REDIS_CLUSTER each command goes to the node of its key.
    """
    transport = {
        "socket_timeout": settings.redis_timeout_ms / 1000,
        "socket_connect_timeout": settings.redis_timeout_ms / 1000,
        "retry": Retry(NoBackoff(), 0),
        **_tls(settings),
    }
    options: dict[str, Any] = {
        **transport,
        "username": settings.redis_user or None,
        "password": settings.redis_password.get_secret_value() or None,
        "client_name": "backtest-kit-mongo",
    }
    if settings.redis_cluster:
        seeds = settings.redis_cluster
        patience_s = settings.redis_timeout_ms / 1000
        nodes = ClusterNodes(seeds, lambda host, port: redis.Redis(host=host, port=port, **options), patience_s)
        return ClusterClient(nodes, seeds[0])
    if not settings.redis_sentinel:
        return redis.Redis(host=settings.redis_host, port=settings.redis_port, **options)
    password = settings.redis_sentinel_password.get_secret_value() or None
    of_sentinels = {**transport, "password": password}
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
    # Older releases of the library do not check the name unless told to: any certificate of the authority would do.
    return {"ssl": True, "ssl_check_hostname": True, "ssl_min_version": ssl.TLSVersion.TLSv1_2, **named}


def make_store(settings: Settings) -> Store:
    """A store over MongoDB and Redis; connects on first use."""
    truth = MongoTruth(
        settings.mongo_connection_string.get_secret_value(),
        settings.database,
        DOMAINS,
        timeout_ms=settings.mongo_bound_ms,
        candle_cache_max_bytes=settings.candle_cache_max_bytes,
    )
    options = CacheOptions(
        database=settings.database,
        partitions=settings.partitions,
        lease_ms=settings.lease_ms,
        write_ms=settings.mongo_bound_ms,
        ttl_ms=settings.cache_ttl_ms,
        retry_ms=settings.redis_retry_ms,
        bypass=settings.on_redis_down == "bypass",
        origin=Origin(socket.gethostname(), os.getpid()),
    )
    store_kind = Store
    if settings.tracing:
        from backtest_kit_mongo import tracing

        options, store_kind = replace(options, trace=tracing.traceparent), tracing.TracedStore
    cache = _make_cache(settings, link_over(redis_client(settings)), options)
    return store_kind(f"mongodb ({settings.cache_mode} cache)", truth, cache, _make_near(settings))


def _make_cache(settings: Settings, link: Link, options: CacheOptions) -> RedisCache | PartitionedCache:
    kind = RedisCache if settings.cache_mode == "document" else RedisIdCache
    if not settings.redis_cluster:
        return kind(link, options)
    counts = CacheCounts(time.monotonic)
    spots = streams(settings.database, settings.partitions)
    return PartitionedCache(
        settings.database, [kind(link, options, spot=spot, counts=counts) for spot in spots], counts
    )


def _make_near(settings: Settings) -> NearCache | None:
    if not settings.near_cache or settings.cache_mode == "id":
        return None  # In mode `id` nothing but MongoDB is believed.
    options = NearOptions(
        database=settings.database,
        partitions=settings.partitions,
        domains=frozenset(BY_NAME[name] for name in settings.near_cache),
        staleness_ms=settings.near_cache_max_staleness_ms,
        bytes_max=settings.near_cache_max_bytes,
        retry_ms=settings.redis_retry_ms,
    )
    client = redis_client(settings)
    return NearCache(client, link_over(client), options)


def _make_live(settings: Settings) -> Store:
    """This process's store. A forked child makes its own, and so serves its own metrics."""
    if settings.metrics_port is not None:
        metrics.serve(settings.metrics_host, settings.metrics_port, settings.metrics_port_count)
    return make_store(settings)


def set_config(**config: Any) -> None:
    """Choose settings without connecting; later calls of this and of `setup()` add to them. Names as in `settings.load`.

    Raises:
        InvalidSetting: a name is unknown or a value does not fit.
        AlreadySetUp: other settings are in use.
    """
    with _lock:
        wanted = {**_config, **config}
        settings = resolve(load(**wanted)) if _settings is not None else load(**wanted)
        if _settings is not None and settings != _settings:
            raise AlreadySetUp(
                "setup() was called before with other settings, and they are in use. Call shutdown() first to change them."
            )
        _config.update(config)


def get_config() -> Settings:
    """The settings in force; before `setup()` those that it would use."""
    return _settings or load(**_config)


def install() -> None:
    """Point all 17 registries at MongoDB and Redis. Connects on first use; `setup()` does so at once."""
    with _lock:
        if _settings is None:
            settings = resolve(get_config())
            stores.configure_live(lambda: _make_live(settings))
            _install(settings)


def _install(settings: Settings) -> None:
    global _settings
    used = sum(registry.context_count for registry in REGISTRIES)
    if used:
        logger.warning(
            "%d contexts were used before setup(); what they wrote stays where it is and is not copied", used
        )
    for registry in REGISTRIES:
        registry.use_store(stores.live_store)
    _settings = settings


def setup(**config: Any) -> Settings:
    """Make everything the strategy remembers durable in MongoDB, cached in Redis and published. Returns the settings in
    force.

    Calling it again with the same settings does nothing. `embedded=True` (or CC_EMBEDDED=1) starts private servers on
    this machine.

    Raises:
        InvalidSetting: a name is unknown or a value does not fit; nothing was connected.
        AlreadySetUp: other settings are in use.
        ServerUnreachable: a server cannot be reached; the message says which, where and what to do. Registries are
        unchanged.
        LegacyIndex, UnsafeServer: a server is reached but would break a promise; the message has the command that fixes
        it.
    """
    with _lock:
        before = dict(_config)
        set_config(**config)
        if _settings is not None:
            stores.live_store().open()
            return _settings
        try:
            settings = resolve(get_config())
            _require_servers(settings)
            stores.configure_live(lambda: _make_live(settings))
            stores.live_store().open()
        except BaseException:
            # The registries were not touched, and what failed is not kept: the next call starts from what was chosen
            # before this one.
            stores.configure_live(None)
            metrics.close()
            _config.clear()
            _config.update(before)
            raise
        _install(settings)
        return settings


def resolve(settings: Settings) -> Settings:
    """With `embedded`, start or find the private servers and name them; otherwise the settings as they are."""
    if not settings.embedded:
        return settings
    from backtest_kit_mongo import embedded

    running = embedded.up(settings.embedded_dir)
    return settings.model_copy(
        update={
            "mongo_connection_string": SecretStr(running.mongo_connection_string(settings.database)),
            "redis_host": running.redis_host,
            "redis_port": running.redis_port,
            # What the environment says of another Redis does not hold for a private one.
            **OPEN_REDIS,
        }
    )


def _require_servers(settings: Settings) -> None:
    """Say at once, and for both servers, what cannot be reached.

    Raises:
        ServerUnreachable: MongoDB, or Redis under CC_ON_REDIS_DOWN=fail. Otherwise a missing Redis is only reported: a
        bot that restarts
            while the cache is away must come up.
    """
    missing = []
    bound_ms = min(settings.mongo_bound_ms, 5_000)
    probe: MongoClient[dict[str, Any]] = MongoClient(
        settings.mongo_connection_string.get_secret_value(), serverSelectionTimeoutMS=bound_ms
    )
    try:
        with pymongo.timeout(bound_ms / 1000):
            probe.admin.command("ping")
    except pymongo.errors.ConnectionFailure:
        missing.append(f"MongoDB at {settings.mongo_address} did not answer within {bound_ms} ms.")
    except pymongo.errors.OperationFailure as cause:
        missing.append(
            f"MongoDB at {settings.mongo_address} refused: {(cause.details or {}).get('errmsg', 'unauthorized')}."
        )
    finally:
        probe.close()
    client = redis_client(settings)
    redis_missing = ""
    try:
        client.ping()
    except (*UNREACHABLE, redis.ResponseError) as cause:
        redis_missing = f"Redis at {settings.redis_address} did not answer: {cause}."
    finally:
        client.close()
    if redis_missing and (missing or settings.on_redis_down == "fail"):
        missing.append(redis_missing)
    if missing:
        raise ServerUnreachable(f"{' '.join(missing)} Nothing was written. {WAYS_OUT}")
    if redis_missing:
        logger.error(
            "%s Going on without the cache, slower but never wrong; change events are kept for later. %s",
            redis_missing,
            WAYS_OUT,
        )


def shutdown() -> None:
    """Close the connections and point the registries back at files. For tests and for changing settings."""
    global _settings
    with _lock:
        _settings = None
        _config.clear()
        stores.configure_live(None)
        metrics.close()
        for registry in REGISTRIES:
            registry.use_json()


def _live() -> Store:
    if _settings is None:
        raise NotSetUp("call setup() first")
    return stores.live_store()


def get_mongo() -> MongoClient[dict[str, Any]]:
    """The MongoClient in use, for a user's own collections.

    Raises:
        NotSetUp: `setup()` or `install()` was not called.
    """
    truth = _live().truth
    assert isinstance(truth, MongoTruth)
    return truth.client


def get_redis() -> redis.Redis:
    """A new Redis client with the settings in force; close it after use.

    Raises:
        NotSetUp: `setup()` or `install()` was not called.
    """
    if _settings is None:
        raise NotSetUp("call setup() first")
    return redis_client(get_config())


def set_logger(target: logging.Logger | logging.Handler) -> None:
    """Send this package's log to a handler, or to another logger's handlers.

    Silent by default beyond warnings, as logging is.
    """
    package = logging.getLogger("backtest_kit_mongo")
    handlers = target.handlers if isinstance(target, logging.Logger) else [target]
    package.handlers = list(handlers)
    package.setLevel(target.level or logging.INFO)
    package.propagate = False
