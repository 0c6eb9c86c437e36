"""Real servers for tests that need them: one pair for each test process, started by the first test that asks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from backtest_kit_mongo.testing.servers import Servers

pytest_plugins = ["backtest_kit_pytest", "pytester"]


@pytest.fixture(scope="session")
def servers(bkm_servers: Servers) -> Servers:
    """A private mongod and redis-server, or with `--containers` those of Docker. Where they cannot run, tests are skipped
    on a laptop and fail in CI.
    """
    return bkm_servers


@pytest.fixture(scope="session")
def new_database(worker_id: str) -> Callable[[], str]:
    """Names of databases that nobody else uses."""
    numbers = count()
    return lambda: f"test_{worker_id}_{next(numbers)}"
