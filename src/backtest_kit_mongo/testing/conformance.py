"""The conformance suite: what every backend must do, over the domain table. A backend passes it or is not one.

By itself, for a maker that needs no arguments and returns an empty store (called for each class of tests):

    pytest --pyargs backtest_kit_mongo.testing.conformance --bkm-store=my_package.backend:make_store

Among other tests, a module binds it with one line and one fixture:

    from backtest_kit_mongo.testing.conformance import *

    @pytest.fixture(scope="class")
    def store() -> Store:
        return Store("mine", MyTruth(), NoCache())

Two more fixtures may be overridden:

    twin          where data outlive a store: a second, independent store of the same data, as another process would
    have. Round trips are then
                  also read back through it.
    empty_store   where stores are costly and `store` is shared by the whole module: one that nobody has written to.

Each test works under keys of its own.
"""

from __future__ import annotations

from backtest_kit_mongo.testing.suites.candles import (
    TestCandleWindows,
    TestFirstWriteWins,
    TestUnclosedCandles,
    TestWrongCandles,
    TestWrongWindows,
)
from backtest_kit_mongo.testing.suites.columns import TestCandleColumns, TestCandleConflicts, TestWrongColumns
from backtest_kit_mongo.testing.suites.documents import TestADocument, TestAnEmptyStore, TestNothingIsShared
from backtest_kit_mongo.testing.suites.fixtures import empty_store, store, tag, twin  # noqa: F401 - not for binding
from backtest_kit_mongo.testing.suites.inventory import TestInventory
from backtest_kit_mongo.testing.suites.keys import TestCollisions, TestHostileKeys, TestSeriesKeys
from backtest_kit_mongo.testing.suites.lists import (
    TestAnEmptyList,
    TestListMethods,
    TestLists,
    TestListWrites,
    TestReadsOfSome,
    TestRowsThatOthersWrote,
    TestRowWrites,
    TestTheLog,
)
from backtest_kit_mongo.testing.suites.look_ahead import TestDomainsWithoutTime, TestLookAhead, TestLookAheadInLists
from backtest_kit_mongo.testing.suites.refusals import TestWrongKeys, TestWrongPayloads, TestWrongRows, TestWrongTimes
from backtest_kit_mongo.testing.suites.removal import TestRemovedMemory, TestSoftRemoval
from backtest_kit_mongo.testing.suites.steps import TestSteps
from backtest_kit_mongo.testing.suites.values import TestDates, TestFreeFormValues, TestLifetimes, TestTypesOfOthers

__all__ = [
    "TestADocument",
    "TestAnEmptyList",
    "TestAnEmptyStore",
    "TestCandleColumns",
    "TestCandleConflicts",
    "TestCandleWindows",
    "TestCollisions",
    "TestDates",
    "TestDomainsWithoutTime",
    "TestFirstWriteWins",
    "TestFreeFormValues",
    "TestHostileKeys",
    "TestInventory",
    "TestListWrites",
    "TestLifetimes",
    "TestListMethods",
    "TestLists",
    "TestLookAhead",
    "TestLookAheadInLists",
    "TestNothingIsShared",
    "TestRemovedMemory",
    "TestRowsThatOthersWrote",
    "TestReadsOfSome",
    "TestRowWrites",
    "TestSeriesKeys",
    "TestSoftRemoval",
    "TestSteps",
    "TestTheLog",
    "TestTypesOfOthers",
    "TestUnclosedCandles",
    "TestWrongCandles",
    "TestWrongColumns",
    "TestWrongKeys",
    "TestWrongPayloads",
    "TestWrongRows",
    "TestWrongTimes",
    "TestWrongWindows",
    "empty_store",
    "tag",
    "twin",
]
