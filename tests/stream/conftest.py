"""A desk for each test, over the tests' own servers: one database for each number of partitions, emptied in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pymongo
import pytest
import redis
from tests.integration.support import settings_for, store_for
from tests.stream.support import Desk

from backtest_kit_mongo.embedded import Endpoints


@pytest.fixture(scope="session")
def desks(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[Callable[[int], Desk]]:
    with ExitStack() as stack:
        made: dict[int, Desk] = {}

        def desk(partitions: int) -> Desk:
            if partitions not in made:
                database = f"{new_database()}_stream"
                store = stack.enter_context(store_for(servers, database, partitions=partitions))
                mongo = stack.enter_context(pymongo.MongoClient[dict[str, Any]](servers.mongo_url, tz_aware=True))
                client = stack.enter_context(redis.Redis(port=servers.redis_port))
                settings = settings_for(servers, database, partitions=partitions)
                made[partitions] = Desk(settings, store, mongo[database], client)
            return made[partitions]

        yield desk


@pytest.fixture
def partitions() -> int:
    return 1


@pytest.fixture
def desk(desks: Callable[[int], Desk], partitions: int) -> Iterator[Desk]:
    chosen = desks(partitions)
    chosen.clear()
    yield chosen
    for feed in chosen.feeds:
        feed.close()
    chosen.feeds.clear()
