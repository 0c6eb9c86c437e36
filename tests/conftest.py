"""Real servers for tests that need them: one pair for each test process, started by the first test that asks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from backtest_kit_mongo.embedded import Endpoints, NotInstalledError, down, up


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    """A private mongod and redis-server. Where they cannot run, tests are skipped on a laptop and fail in CI."""
    # Each xdist worker has its own base directory, and so its own servers: none is stopped under another worker's tests.
    directory = tmp_path_factory.mktemp("servers")
    try:
        endpoints = up(directory, die_with_caller=True)
    except NotInstalledError as cause:
        if os.environ.get("CI"):
            pytest.fail(f"CI must test against real servers: {cause}", pytrace=False)
        pytest.skip(f"no servers: {cause}")
    yield endpoints
    down(directory)
    shutil.rmtree(directory, ignore_errors=True)  # Hundreds of megabytes, and pytest would keep those of three runs.


@pytest.fixture(scope="session")
def new_database(worker_id: str) -> Callable[[], str]:
    """Names of databases that nobody else uses."""
    numbers = count()
    return lambda: f"test_{worker_id}_{next(numbers)}"
