"""Fixtures of the worker's tests: a database and a feed of their own on the tests' servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest
import redis
from tests.integration.support import settings_for, store_for
from tests.worker.feed_support import OwnRedis
from tests.worker.replica_support import Bed, bed_on

from backtest_kit_mongo.coherence.keys import streams
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_worker.deployment import Deployment, connect


@pytest.fixture
def database(new_database: Callable[[], str]) -> str:
    return f"{new_database()}_worker"


@pytest.fixture
def store(servers: Endpoints, database: str) -> Iterator[Store]:
    with store_for(servers, database) as opened:
        yield opened


@pytest.fixture(scope="session")
def mongo_client(servers: Endpoints) -> Iterator[pymongo.MongoClient[dict[str, Any]]]:
    with pymongo.MongoClient[dict[str, Any]](servers.mongo_url, tz_aware=True) as client:
        yield client


@pytest.fixture
def mongo(mongo_client: pymongo.MongoClient[dict[str, Any]], database: str) -> Any:
    return mongo_client[database]


@pytest.fixture
def client(servers: Endpoints) -> Iterator[Any]:
    with redis.Redis(port=servers.redis_port) as opened:
        yield opened


@pytest.fixture
def stream(database: str) -> str:
    return streams(database, 1)[0]


@pytest.fixture
def deployment(servers: Endpoints, database: str) -> Iterator[Deployment]:
    opened = connect(settings_for(servers, database), block_ms=100)
    yield opened
    opened.close()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    """A redis-server that the test may kill, cut and restart."""
    server = OwnRedis(tmp_path)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def shared_replicas(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[Bed]:
    with bed_on(servers, f"{new_database()}_replicas") as opened:
        yield opened


@pytest.fixture
def bed(shared_replicas: Bed, tmp_path: Path) -> Bed:
    """Sources and targets of replicas, empty. Tests of recovery have one of their own."""
    return shared_replicas.cleaned(tmp_path / "replica")
