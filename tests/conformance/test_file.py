"""The file backend, read back by a second store as by another process. Whatever the keys, nothing is written outside its directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backtest_kit_mongo.backends.file import FileTruth
from backtest_kit_mongo.backends.ports import NoCache
from backtest_kit_mongo.drivers.sync import Store
from backtest_kit_mongo.testing.conformance import *  # noqa: F403


@pytest.fixture(scope="class")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    around = tmp_path_factory.mktemp("files")
    yield around / "dump"
    assert {path.name for path in around.iterdir()} <= {"dump"}


@pytest.fixture(scope="class")
def store(dump: Path) -> Store:
    return Store("files", FileTruth(dump), NoCache())


@pytest.fixture(scope="class")
def twin(dump: Path) -> Store:
    return Store("the same files", FileTruth(dump), NoCache())
