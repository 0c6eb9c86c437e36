"""A backend is a class: a dict behind the ports passes the suite. `test_plugin.py` runs it by `--bkm-store`."""

from __future__ import annotations

import pytest
from tests.conformance.dict_backend import make_store

from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.testing.suites.candles import TestCandleWindows, TestFirstWriteWins, TestUnclosedCandles
from backtest_kit_mongo.testing.suites.columns import TestCandleColumns, TestCandleConflicts
from backtest_kit_mongo.testing.suites.documents import TestADocument, TestAnEmptyStore, TestNothingIsShared
from backtest_kit_mongo.testing.suites.fixtures import empty_store, tag, twin
from backtest_kit_mongo.testing.suites.inventory import TestInventory
from backtest_kit_mongo.testing.suites.lists import TestAnEmptyList, TestLists, TestRowsThatOthersWrote, TestTheLog
from backtest_kit_mongo.testing.suites.look_ahead import TestLookAhead, TestLookAheadInLists
from backtest_kit_mongo.testing.suites.removal import TestRemovedMemory, TestSoftRemoval
from backtest_kit_mongo.testing.suites.steps import TestSteps

__all__ = [
    "TestSteps",
    "TestADocument", "TestAnEmptyList", "TestAnEmptyStore", "TestCandleColumns", "TestCandleConflicts",
    "TestCandleWindows", "TestFirstWriteWins", "TestInventory", "TestLists", "TestLookAhead", "TestLookAheadInLists",
    "TestNothingIsShared", "TestRemovedMemory", "TestRowsThatOthersWrote", "TestSoftRemoval", "TestTheLog",
    "TestUnclosedCandles", "empty_store", "tag", "twin",
]  # fmt: skip


@pytest.fixture(scope="class")
def store() -> Store:
    return make_store()
