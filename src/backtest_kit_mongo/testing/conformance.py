"""The conformance suite: what every backend must do, over the domain table. A backend passes it or is not one.

A test module binds it in one line and one fixture, which makes an empty store for each class:

    from backtest_kit_mongo.testing.conformance import *

    @pytest.fixture(scope="class")
    def store() -> Store:
        return Store("mine", MyTruth(), NoCache())

Where data outlive a store, override `twin` as well: a second, independent store of the same data, as another process would have. Then every
round trip is also read back through it.

    @pytest.fixture(scope="class")
    def twin(store: Store) -> Store: ...

A class shares one store; each test works under keys of its own. `TestAnEmptyStore` needs a store that nobody has written to.
"""

from __future__ import annotations

from backtest_kit_mongo.testing.suites.candles import (
    TestCandleWindows,
    TestFirstWriteWins,
    TestUnclosedCandles,
    TestWrongCandles,
    TestWrongWindows,
)
from backtest_kit_mongo.testing.suites.documents import TestADocument, TestAnEmptyStore, TestNothingIsShared
from backtest_kit_mongo.testing.suites.fixtures import tag, twin
from backtest_kit_mongo.testing.suites.keys import TestCollisions, TestHostileKeys, TestSeriesKeys
from backtest_kit_mongo.testing.suites.lists import (
    TestAnEmptyList,
    TestLedgers,
    TestListMethods,
    TestLists,
    TestTheLog,
)
from backtest_kit_mongo.testing.suites.look_ahead import TestDomainsWithoutTime, TestLookAhead, TestLookAheadInLists
from backtest_kit_mongo.testing.suites.refusals import TestWrongKeys, TestWrongPayloads, TestWrongRows, TestWrongTimes
from backtest_kit_mongo.testing.suites.removal import TestRemovedMemory, TestSoftRemoval
from backtest_kit_mongo.testing.suites.values import TestDates, TestFreeFormValues, TestLifetimes

__all__ = [
    "TestADocument",
    "TestAnEmptyList",
    "TestAnEmptyStore",
    "TestCandleWindows",
    "TestCollisions",
    "TestDates",
    "TestDomainsWithoutTime",
    "TestFirstWriteWins",
    "TestFreeFormValues",
    "TestHostileKeys",
    "TestLedgers",
    "TestLifetimes",
    "TestListMethods",
    "TestLists",
    "TestLookAhead",
    "TestLookAheadInLists",
    "TestNothingIsShared",
    "TestRemovedMemory",
    "TestSeriesKeys",
    "TestSoftRemoval",
    "TestTheLog",
    "TestUnclosedCandles",
    "TestWrongCandles",
    "TestWrongKeys",
    "TestWrongPayloads",
    "TestWrongRows",
    "TestWrongTimes",
    "TestWrongWindows",
    "tag",
    "twin",
]
