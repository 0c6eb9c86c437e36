"""The file backend, read back by a second store as by another process. Whatever the keys, nothing is written outside
its directory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backtest_kit_mongo.backends.files.documents import FileTruth
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.ports import NoCache
from backtest_kit_mongo.testing.conformance import *  # noqa: F403


@pytest.fixture(scope="class")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    around = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        # The suite cannot cut the power, so waiting for the disk would prove nothing and take most of the time.
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield around / "dump"
    assert {path.name for path in around.iterdir()} <= {"dump"}


@pytest.fixture(scope="class")
def store(dump: Path) -> Store:
    return Store("files", FileTruth(dump), NoCache())


@pytest.fixture(scope="class")  # type: ignore[no-redef]
def twin(dump: Path) -> Store:
    return Store("the same files", FileTruth(dump), NoCache())
