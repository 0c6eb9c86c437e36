"""One database a module, emptied after each test: making collections and indexes costs more than the tests
themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pymongo
import pytest
from pymongo.database import Database
from tests.audit.support import Worker

from backtest_kit_mongo.embedded import Endpoints


@pytest.fixture(scope="module")
def module_database(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[Database[dict[str, Any]]]:
    with pymongo.MongoClient[dict[str, Any]](servers.mongo_url, tz_aware=True) as client:
        yield client[f"{new_database()}_audit"]


@pytest.fixture
def database(module_database: Database[dict[str, Any]]) -> Iterator[Database[dict[str, Any]]]:
    yield module_database
    for name in module_database.list_collection_names():
        module_database[name].delete_many({})


@pytest.fixture
def worker(database: Database[dict[str, Any]]) -> Worker:
    return Worker(database)
