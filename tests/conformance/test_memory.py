"""The memory backend is a product, so it passes the suite like any other."""

from __future__ import annotations

import pytest

from backtest_kit_mongo.backends.memory import MemoryTruth
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.ports import NoCache
from backtest_kit_mongo.testing.conformance import *  # noqa: F403


@pytest.fixture(scope="class")
def store() -> Store:
    return Store("memory", MemoryTruth(), NoCache())
