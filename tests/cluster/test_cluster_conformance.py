"""What touches the cache of the conformance suite, over a cluster, read back by a second store as by another host."""

from __future__ import annotations

import pytest

from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.testing.conformance import (
    TestADocument,
    TestListWrites,
    TestRemovedMemory,
    TestRowsThatOthersWrote,
    TestSoftRemoval,
    tag,
)

pytestmark = pytest.mark.live

__all__ = [
    "TestADocument",
    "TestListWrites",
    "TestRemovedMemory",
    "TestRowsThatOthersWrote",
    "TestSoftRemoval",
    "tag",
]


@pytest.fixture(scope="class")
def store(pair: tuple[Store, Store]) -> Store:
    return pair[0]


@pytest.fixture(scope="class")
def twin(pair: tuple[Store, Store]) -> Store:
    return pair[1]
