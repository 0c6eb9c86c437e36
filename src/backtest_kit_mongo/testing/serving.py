"""Adapters over another store for the length of a test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any

import pymongo

from backtest_kit_mongo.adapters.registries import REGISTRIES
from backtest_kit_mongo.backends.memory import MemoryTruth
from backtest_kit_mongo.backends.persist.wrapper import needed
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.ports import NoCache
from backtest_kit_mongo.settings import Settings, load
from backtest_kit_mongo.setup import OPEN_REDIS, set_config, setup, shutdown
from backtest_kit_mongo.testing.servers import Servers

_numbers = count()


def memory_store() -> Store:
    """A new one, with nothing in it."""
    return Store("memory", MemoryTruth(), NoCache())


@contextmanager
def serving(store: Store) -> Iterator[Store]:
    """All adapters use the store within the block, and after it what they used before. The store is then closed."""
    with ExitStack() as stack:
        stack.callback(store.close)
        for registry in REGISTRIES:
            stack.enter_context(registry.serving(store))
        yield store


@contextmanager
def fresh_settings(servers: Servers) -> Iterator[Settings]:
    """Settings of a database of its own, whatever the environment says of other servers; dropped after the block."""
    database = f"bkm_test_{os.getpid()}_{next(_numbers)}"
    try:
        yield load(
            **{
                **OPEN_REDIS,
                "mongo_connection_string": servers.mongo_connection_string(database),
                "redis_host": servers.redis_host,
                "redis_port": servers.redis_port,
                "embedded": False,
                "metrics_port": None,
            }
        )
    finally:
        with pymongo.MongoClient[dict[str, object]](servers.mongo_url) as client:
            client.drop_database(database)


@contextmanager
def values_served(maker: Any, servers: Callable[[], Servers], postgres: Callable[[], str]) -> Iterator[None]:
    """This process is set up for what a class of values needs within the block, with data of its own.

    Args:
        servers, postgres: asked for private ones, if they are needed.
    """
    needs = needed(maker)
    config: dict[str, Any] = {"postgres_connection_string": postgres()} if "postgres" in needs else {}
    with ExitStack() as stack:
        stack.callback(shutdown)
        if needs & {"mongo", "redis"}:
            settings = stack.enter_context(fresh_settings(servers()))
            setup({name: getattr(settings, name) for name in settings.model_fields_set} | config)
        else:
            set_config(**config)
        yield
