"""The only wiring place: settings -> backend -> store -> registries."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

import redis
from pydantic import SecretStr
from pymongo import MongoClient

from backtest_kit_mongo import inheritance, locks, metrics, stores
from backtest_kit_mongo.adapters import choices
from backtest_kit_mongo.adapters.registries import REGISTRIES
from backtest_kit_mongo.backends.mongo.documents import MongoTruth
from backtest_kit_mongo.backends.mongo.reader import MongoReader
from backtest_kit_mongo.backends.near_cache import NearCache, NearOptions
from backtest_kit_mongo.backends.redis.cluster import link_over
from backtest_kit_mongo.backends.redis.identity import Identity
from backtest_kit_mongo.backends.redis.passing import Serving
from backtest_kit_mongo.caches import identity_of, make_cache
from backtest_kit_mongo.domains.table import BY_NAME, DOMAINS, SCHEDULE, SIGNAL
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import AlreadySetUp, BacktestKitError, NotSetUp
from backtest_kit_mongo.modes import Choices, forget
from backtest_kit_mongo.ports import NoCache
from backtest_kit_mongo.reachability import require_servers
from backtest_kit_mongo.servers import redis_client
from backtest_kit_mongo.settings import Settings, load, merged

logger = locks.logger(__name__)

OPEN_REDIS: dict[str, Any] = {
    "redis_user": "", "redis_password": SecretStr(""), "redis_sentinel": (), "redis_cluster": (), "redis_tls": False,
    "redis_tls_ca_file": None, "redis_tls_cert_file": None, "redis_tls_key_file": None,
}  # fmt: skip
"""A Redis that answers whoever reaches it, directly and in the clear."""
_lock = locks.Lock()
_config: dict[str, Any] = {}
"""What `set_config` and `setup` were given."""
_settings: Settings | None = None
"""The settings in use; None until `install` or `setup`, or until those of this process's parent are taken over."""
_redis: redis.Redis | None = None
_is_busy = False
"""A thread is in `setup()`."""


def make_store(settings: Settings) -> Store:
    """A store over MongoDB and Redis; connects on first use."""
    truth = MongoTruth(
        settings.mongo_connection_string.get_secret_value(),
        settings.database,
        DOMAINS,
        timeout_ms=settings.mongo_bound_ms,
        arrival_ms=settings.mongo_arrival_ms,
        candle_cache_max_bytes=settings.candle_cache_max_bytes,
        foreign_writers=settings.cache_mode == "id",
    )
    store_kind: type[Store] = Store
    trace: Callable[[], str] = str
    if settings.tracing:
        from backtest_kit_mongo import tracing

        store_kind, trace = tracing.TracedStore, tracing.traceparent
    link = link_over(redis_client(settings))
    identity = identity_of(settings, lambda: truth.client, link)
    cache = make_cache(settings, identity, link, trace)
    near = _make_near(settings, identity, cache.serving)
    return store_kind(f"mongodb ({settings.cache_mode} cache)", truth, cache, near)


def make_reader(settings: Settings) -> Store:
    """A store that only looks at MongoDB: it asks no Redis, builds no index and refuses no database."""
    uri, bound_ms = settings.mongo_connection_string.get_secret_value(), settings.mongo_bound_ms
    truth = MongoReader(uri, settings.database, DOMAINS, bound_ms, settings.mongo_arrival_ms, foreign_writers=True)
    return Store(f"MongoDB at {settings.mongo_address}", truth, NoCache())


def _make_near(settings: Settings, identity: Identity, serving: Callable[[str], Serving]) -> NearCache | None:
    if not settings.near_cache or settings.cache_mode == "id":
        return None  # In mode `id` nothing but MongoDB is believed.
    options = NearOptions(
        database=settings.database,
        domains=frozenset(BY_NAME[name] for name in settings.near_cache),
        staleness_ms=settings.near_cache_max_staleness_ms,
        bytes_max=settings.near_cache_max_bytes,
        retry_ms=settings.redis_retry_ms,
    )
    client = redis_client(settings)
    return NearCache(client, link_over(client), options, identity, serving)


def _name_of(settings: Settings) -> str:
    return f"MongoDB at {settings.mongo_address}, database {settings.database}, {settings.cache_mode} cache"


def _make_live(settings: Settings) -> Store:
    """This process's store. A forked child makes its own, and so serves its own metrics."""
    if settings.metrics_port is not None:
        metrics.serve(settings.metrics_host, settings.metrics_port, settings.metrics_port_count)
    return make_store(settings)


def set_config(**config: Any) -> None:
    """Choose settings without connecting; later calls of this and of `setup()` add to them. Names as in
    `settings.load`.

    Raises:
        InvalidSetting: a name is unknown or a value does not fit.
        AlreadySetUp: other settings are in use.
    """
    with _lock.quietly():
        wanted = {**_config, **config}
        settings = resolve(load(**wanted)) if _settings is not None else load(**wanted)
        if _settings is not None and settings != _settings:
            raise AlreadySetUp(
                "setup() was called before with other settings, and they are in use. Call shutdown() first to change "
                "them."
            )
        _config.update(config)
        if _settings is None:
            stores.settle(live=False, refusal="set_config() was called, but neither setup() nor install().")


def get_config() -> Settings:
    """The settings in force; before `setup()` those that it would use."""
    inheritance.accept()
    return _settings or _loaded(
        tuple(sorted(_config.items())),
        tuple((name, os.environ[name]) for name in os.environ if name[:3].upper() == "CC_"),
    )


@lru_cache(maxsize=1)
def _loaded(config: tuple[tuple[str, Any], ...], environment: object) -> Settings:
    return load(**dict(config))


def install() -> None:
    """Let MongoDB and Redis serve all adapters, except those that were set to use something else. Connects on first
    use; `setup()` does so at once.
    """
    with _lock.quietly():
        settings = get_config()
        if _settings is None:
            _install_later(resolve(settings))


def _install_later(settings: Settings) -> None:
    stores.configure_live(lambda: _make_live(settings), _name_of(settings))
    _install(settings)


def _install(settings: Settings) -> None:
    global _settings
    _settings = settings
    stores.settle(live=True)
    inheritance.mark(settings.mongo_address)
    written = stores.written_to_files()
    left = [
        registry.name
        for domain, registry in zip(DOMAINS, REGISTRIES, strict=True)
        if registry.choice is None and domain.name in written
    ]
    if left:
        logger.warning(
            "adapters were used before setup(): what was written to files below %s stays there and is not copied: %s",
            stores.DUMP_DIRECTORY.absolute(), ", ".join(left),
        )  # fmt: skip
    kept = [registry.name for registry in REGISTRIES if registry.choice is not None]
    if kept:
        logger.warning("not in MongoDB, because they were set to use something else: %s", ", ".join(kept))
    for registry in REGISTRIES:
        if registry.choice is None:
            registry.clear()


def _estate() -> inheritance.Estate:
    """What processes that this one starts inherit."""
    chosen = choices.of(REGISTRIES)
    if _settings is None and not chosen and not _config and not stores.files_are_meant():
        return {}
    plain = {} if _settings is None else {name: _plain(value) for name, value in _settings}
    config = {name: _plain(value) for name, value in _config.items()}
    return {"settings": plain, "config": config, "choices": chosen, "files_are_meant": stores.files_are_meant()}


def _plain(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _succeed(estate: inheritance.Estate) -> None:
    """Go on as the process did that started this one."""
    with _lock.quietly():
        choices.choose(REGISTRIES, estate["choices"])
        if estate["files_are_meant"]:
            stores.mean_files()
        if _settings is not None or _config or _is_busy:
            return
        if estate["settings"]:
            _config.update(estate["settings"])
            _install_later(load(**_config))
        elif estate["config"]:
            set_config(**estate["config"])


def setup(
    given: Mapping[str, Any] | None = None,
    /,
    *,
    modes: Mapping[str, Mapping[str, str]] | None = None,
    backends: Mapping[str, Any] | None = None,
    **config: Any,
) -> Settings:
    """Make everything the strategy remembers durable in MongoDB, cached in Redis and published. Returns the settings in
    force.

    Calling it again with the same values does nothing. `embedded=True` (or CC_EMBEDDED=1) starts private servers on
    this machine. Adapters that were set to use something else keep it. Processes that `multiprocessing` starts inherit
    all of this, however it starts them.

    Args:
        given: the same as a mapping: `setup({"redis_host": "cache"})`.
        modes: which domain is kept where in which mode of a strategy, where that is to change: see `modes.py`.
        backends: by domain, what shall serve it: `mongo`, `files`, `memory`, `dummy`, a class as
            `use_persist_<domain>_adapter` takes it, or a `Store`. Domains that are not named stay in MongoDB.

    Raises:
        InvalidSetting: a name is unknown or a value does not fit; nothing was connected.
        AlreadySetUp: other values are in use. Nothing was changed.
        ServerUnreachable: a server cannot be reached; the message says which, where and what to do. Adapters refuse to
            work until it succeeds.
        LegacyIndex, UnsafeServer: a server is reached but would break a promise; the message has the command that fixes
        it.
    """
    global _is_busy
    whole = merged(given, config)
    wanted = Choices(
        whole.pop("modes", None) if modes is None else modes,
        whole.pop("backends", None) if backends is None else backends,
    )
    with _lock.quietly():
        _is_busy = bool(whole)  # Who gives settings does not want inherited ones.
        inheritance.accept()
        before = dict(_config)
        try:
            wanted.check(is_set_up=_settings is not None)
            set_config(**whole)
            _is_busy = True
            if _settings is None:
                _open(resolve(load(**_config)), wanted)
            else:
                stores.live_store().confirm()
        except BaseException:
            # What failed is not kept: the next call starts from what was chosen before this one.
            _config.clear()
            _config.update(before)
            raise
        finally:
            _is_busy = False
        return get_config()


def _open(settings: Settings, wanted: Choices) -> None:
    stores.settle(live=False, refusal="setup() failed.")
    try:
        stores.configure_live(lambda: _make_live(settings), _name_of(settings))
        store = stores.live_store()
        require_servers(settings, _mongo(store), redis_client(settings))
        store.open()
        _warn_of_files(store)
    except BaseException:
        stores.configure_live(None)
        metrics.close()
        raise
    wanted.choose()
    _install(settings)


def _warn_of_files(store: Store) -> None:
    """A program that kept its positions in files, and now finds none of them in MongoDB, would open them anew."""
    if not stores.DUMP_DIRECTORY.is_dir():
        return
    with suppress(BacktestKitError):  # It is only looked at, to help.
        for domain in (SIGNAL, SCHEDULE):
            held = sum(not entry.is_empty for entry in stores.file_store().browse(domain))
            if held and next(store.browse(domain), None) is None:
                logger.warning(
                    "%d documents of %s are in files below %s, and MongoDB has none: a strategy does not see "
                    "them from here on. Stop it, and `bkm migrate %s` brings them (docs/data.md)",
                    held, domain.name, stores.DUMP_DIRECTORY.absolute(), stores.DUMP_DIRECTORY.absolute(),
                )  # fmt: skip


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


def shutdown() -> None:
    """Close the connections and begin anew, as if nothing had been set up or chosen. For tests and for changing
    settings.
    """
    global _settings, _redis
    with _lock.quietly():
        if _redis is not None:
            _redis.close()
        _settings = _redis = None
        _config.clear()
        stores.settle(live=False)
        stores.configure_live(None)
        stores.written_to_files()  # What was written so far has been reported, or is not to be.
        inheritance.mark(None)
        metrics.close()
        for registry in REGISTRIES:
            registry.use_default()
        forget()


def _live() -> Store:
    inheritance.accept()
    if _settings is None:
        raise NotSetUp("call setup() first")
    return stores.live_store()


def get_mongo() -> MongoClient[dict[str, Any]]:
    """The MongoClient in use, for a user's own collections.

    Raises:
        NotSetUp: `setup()` or `install()` was not called.
    """
    return live_truth().client


def live_truth() -> MongoTruth:
    """MongoDB in use; raises as `get_mongo` does."""
    return _mongo(_live())


def _mongo(store: Store) -> MongoTruth:
    assert isinstance(store.truth, MongoTruth)
    return store.truth


def get_redis() -> redis.Redis:
    """The Redis client of this process, with the settings in force; `shutdown()` closes it. Another program that closes
    it costs a connection, no more.

    Raises:
        NotSetUp: `setup()` or `install()` was not called.
    """
    global _redis
    settings = get_config()
    if _settings is None:
        raise NotSetUp("call setup() first")
    with _lock:
        if _redis is None:
            _redis = redis_client(settings)
        return _redis


def _after_fork() -> None:
    global _is_busy, _redis
    _redis = None  # Its sockets are the parent's.
    if _is_busy and _settings is None:
        _is_busy = False
        stores.settle(live=False, refusal="This process was forked while another thread was in setup().")


inheritance.hand_down(_estate, _succeed)
os.register_at_fork(after_in_child=_after_fork)
