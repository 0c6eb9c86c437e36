"""Servers that integration tests may kill and restart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.integration.support import store_for

from backtest_kit_mongo import embedded
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.testing.servers import READY_S

Endpoints = embedded.Endpoints


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory, servers: embedded.Endpoints) -> Iterator[embedded.Endpoints]:
    """A MongoDB and a Redis of these tests alone: other tests must not see them die."""
    directory = tmp_path_factory.mktemp("own")
    yield embedded.up(directory, die_with_caller=True, timeout_s=READY_S)
    embedded.down(directory)


@pytest.fixture
def directory(own: Endpoints) -> Path:
    return own.directory


@pytest.fixture
def database(new_database: Callable[[], str]) -> str:
    return f"{new_database()}_faults"


@pytest.fixture
def store(own: Endpoints, database: str) -> Iterator[Store]:
    embedded.start_redis(own.directory)
    with store_for(own, database) as opened:
        yield opened


@pytest.fixture
def client(own: Endpoints) -> Iterator[Any]:
    with redis.Redis(port=own.redis_port) as opened:
        yield opened
