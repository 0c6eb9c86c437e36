"""The suite over a domain that was added at run time. Not collected by itself: `test_eighteenth.py` runs it in a
process of its own, because it changes the table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conformance.eighteenth_domain import VERDICT  # First: the suite takes the table as it is then.

from backtest_kit_mongo.backends.files.documents import FileTruth
from backtest_kit_mongo.backends.memory import MemoryTruth
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.ports import NoCache
from backtest_kit_mongo.settings import load
from backtest_kit_mongo.setup import make_store
from backtest_kit_mongo.testing.suites.documents import TestADocument, TestAnEmptyStore, TestNothingIsShared
from backtest_kit_mongo.testing.suites.fixtures import tag
from backtest_kit_mongo.testing.suites.keys import TestCollisions, TestHostileKeys
from backtest_kit_mongo.testing.suites.lists import TestListMethods, TestLists
from backtest_kit_mongo.testing.suites.look_ahead import TestLookAhead, TestLookAheadInLists
from backtest_kit_mongo.testing.suites.refusals import TestWrongKeys, TestWrongPayloads, TestWrongTimes
from backtest_kit_mongo.testing.suites.removal import TestSoftRemoval

__all__ = [
    "TestADocument", "TestAnEmptyStore", "TestCollisions", "TestHostileKeys", "TestListMethods", "TestLists",
    "TestLookAhead",
    "TestLookAheadInLists", "TestNothingIsShared", "TestSoftRemoval", "TestWrongKeys", "TestWrongPayloads",
    "TestWrongTimes", "tag",
]  # fmt: skip

SERVERS = "EIGHTEENTH_SERVERS"


@pytest.fixture(scope="session")
def makers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], Store]]:
    files = tmp_path_factory.mktemp("files")
    settings = load(**json.loads(os.environ[SERVERS]), near_cache=VERDICT.name, lease_ms=3_000)
    return {
        "memory": lambda: Store("memory", MemoryTruth(), NoCache()),
        "files": lambda: Store("files", FileTruth(Path(files)), NoCache()),
        "servers": lambda: make_store(settings),
    }


@pytest.fixture(scope="session", params=["memory", "files", "servers"])
def store(request: pytest.FixtureRequest, makers: dict[str, Callable[[], Store]]) -> Iterator[Store]:
    made = makers[request.param]()
    yield made
    made.close()


@pytest.fixture(scope="session")
def twin(store: Store, makers: dict[str, Callable[[], Store]]) -> Iterator[Store]:
    made = store if store.name == "memory" else makers["files" if store.name == "files" else "servers"]()
    yield made
    made.close()


@pytest.fixture
def empty_store(store: Store) -> Store:
    """Nothing is written where the tests of an empty one look."""
    return store
