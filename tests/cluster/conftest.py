"""One cluster for the tests of a process, and one database whose cache is open in every partition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pymongo
import pytest
from tests.cluster.support import PARTITIONS, Cluster
from tests.integration.support import LEASE_MS, eventually, settings_for, store_for

from backtest_kit_mongo.coherence.effects import CacheRead
from backtest_kit_mongo.coherence.keys import names
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.domains.checks import make_change, make_key
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.servers import redis_client
from backtest_kit_mongo.settings import Settings

MakeStore = Callable[..., Store]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.stop()


@pytest.fixture(scope="session")
def database(new_database: Callable[[], str]) -> str:
    return f"{new_database()}_cluster"


@pytest.fixture(scope="session")
def options(cluster: Cluster) -> dict[str, Any]:
    return {"redis_cluster": cluster.seeds, "partitions": PARTITIONS, "lease_ms": LEASE_MS, "redis_retry_ms": 50}


@pytest.fixture(scope="session")
def settings(servers: Endpoints, options: dict[str, Any], database: str) -> Settings:
    return settings_for(servers, database, **options)


@pytest.fixture(scope="session")
def placed_keys(database: str) -> list[Key]:
    """A document in each partition."""
    found: dict[str, Key] = {}
    number = 0
    while len(found) < PARTITIONS:
        key = make_key(STATE, ("spot", f"b{number}"))
        found.setdefault(names(database, PARTITIONS, "state", key.parts).stream, key)
        number += 1
    return [found[stream] for stream in sorted(found)]


@pytest.fixture(scope="session")
def stores(servers: Endpoints, options: dict[str, Any], database: str) -> Iterator[MakeStore]:
    """Stores of the database, as different processes would have them."""
    with ExitStack() as stack:

        def make(**more: Any) -> Store:
            store = stack.enter_context(store_for(servers, database, **{**options, **more}))
            store.open()
            return store

        yield make


@pytest.fixture(scope="session")
def pair(stores: MakeStore, placed_keys: list[Key]) -> tuple[Store, Store]:
    """Two stores over a cache that is open everywhere."""
    pair = stores(), stores()
    for key in placed_keys:
        pair[0].write(make_change(key, {"data": 0}, 0))
    eventually(lambda: all_hit(pair, placed_keys))
    return pair


def all_hit(stores: Iterable[Store], keys: Sequence[Key]) -> bool:
    """Each is read, hit or not, so that all partitions are seen, and so open, at the same time."""
    return {is_hit(store, key) for store in stores for key in keys} == {True}


def is_hit(store: Store, key: Key) -> bool:
    store.read(key)
    return isinstance(store.cache.read(CacheRead(key)), Record)


@pytest.fixture
def mongo(servers: Endpoints, database: str) -> Iterator[Any]:
    with pymongo.MongoClient[dict[str, Any]](servers.mongo_url, tz_aware=True) as client:
        yield client[database]


@pytest.fixture
def client(settings: Settings) -> Iterator[Any]:
    with redis_client(settings) as opened:
        yield opened
