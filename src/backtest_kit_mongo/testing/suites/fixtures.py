"""Fixtures that the suite brings along."""

from __future__ import annotations

from itertools import count

import pytest

from backtest_kit_mongo.drivers.sync import Store

_tags = count()


@pytest.fixture
def tag() -> str:
    """Key parts that start with it belong to this test alone: no test of the process had the same, and none is another's beginning."""
    return f"t{next(_tags)}."


@pytest.fixture
def twin(store: Store) -> Store:
    """A second store of the same data, as another process would have. Override it where the data outlive a store."""
    return store


@pytest.fixture
def empty_store(store: Store) -> Store:
    """A store that nobody has written to. Override it where `store` is shared by several classes."""
    return store
