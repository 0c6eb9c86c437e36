"""A dump that does not exist yet, and a store over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from backtest_kit_mongo.drivers.store import Store
from tests.backends.support import store_of


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    return tmp_path / "dump"


@pytest.fixture
def store(dump: Path) -> Store:
    return store_of(dump)
