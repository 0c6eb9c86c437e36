"""MongoDB with Redis in both cache modes, over real servers, read back by a second store as by another host."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Literal

import pytest

from backtest_kit_mongo.coherence.effects import CacheRead
from backtest_kit_mongo.coherence.record import Record
from backtest_kit_mongo.domains.checks import make_change, make_key
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.settings import load
from backtest_kit_mongo.setup import make_store
from backtest_kit_mongo.testing.conformance import *  # noqa: F403

pytestmark = pytest.mark.live

Mode = Literal["document", "id"]
Connect = Callable[[Mode, str], Store]
"""Makes one more store over the database of this name."""


# For the session: the suite's classes are spread over processes, so what ends with the module would be made anew for
# each class.
@pytest.fixture(scope="session")
def connect(servers: Endpoints) -> Iterator[Connect]:
    stores: list[Store] = []

    def make(mode: Mode, database: str) -> Store:
        settings = load(
            mongo_connection_string=servers.mongo_connection_string(database),
            redis_host=servers.redis_host,
            redis_port=servers.redis_port,
            cache_mode=mode,
            near_cache="",  # The suite's stores stand for processes, and ask for what only the shared entry promises.
            lease_ms=3_000,
            on_redis_down="fail",
        )
        stores.append(make_store(settings))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture(scope="session")
def pair(connect: Connect, new_database: Callable[[], str]) -> Callable[[Mode], tuple[Store, Store]]:
    """Two stores of one database, the same two whenever a mode comes again."""

    @cache
    def make(mode: Mode) -> tuple[Store, Store]:
        database = new_database()
        store = connect(mode, database)
        if mode == "document":
            _wait_until_open(store)
        return store, connect(mode, database)

    return make


def _wait_until_open(store: Store) -> None:
    """For one lease time after Redis was first seen nothing is cached, so the suite would test little of the cache."""
    key = make_key(STATE, ("warm", "up"))
    store.write(make_change(key, {"data": None}, 0))
    deadline_s = time.monotonic() + 30
    while not isinstance(store.cache.read(CacheRead(key)), Record):
        assert time.monotonic() < deadline_s, "the cache never opened"
        store.read(key)


@pytest.fixture(scope="class", params=["document", "id"])
def mode(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="class")
def store(pair: Callable[[Mode], tuple[Store, Store]], mode: Mode) -> Store:
    return pair(mode)[0]


@pytest.fixture(scope="class")  # type: ignore[no-redef]
def twin(pair: Callable[[Mode], tuple[Store, Store]], mode: Mode) -> Store:
    return pair(mode)[1]


@pytest.fixture(scope="class")  # type: ignore[no-redef]
def empty_store(connect: Connect, mode: Mode, new_database: Callable[[], str]) -> Iterator[Store]:
    store = connect(mode, new_database())
    yield store
    store.close()
