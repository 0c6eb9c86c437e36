"""Real servers for tests that need them: one pair for each test process, started by the first test that asks."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from itertools import count
from pathlib import Path

import hypothesis
import psutil
import pytest

import backtest_kit_mongo
from backtest_kit_mongo import locks
from backtest_kit_mongo.testing.servers import Servers

pytest_plugins = ["backtest_kit_pytest", "pytester"]

MEMORY = Path("/dev/shm")
ROOM_MIN = 8 << 30
"""Bytes. Data of a dozen servers at a time, and as much again."""


def _has_room() -> bool:
    return MEMORY.is_dir() and min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available) > ROOM_MIN


# Servers flush each write to the disk, which would be half of the time; processes are killed here, never a machine.
if "TMPDIR" not in os.environ and _has_room():
    os.environ["TMPDIR"], tempfile.tempdir = str(MEMORY), None


# Half of what it takes to collect the tests is to rewrite their assertions, and half of what it takes to start another
# interpreter is to compile the product: once is enough.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# How long an example takes says how busy the machine is, and nothing about what is tested; and each run is the same.
hypothesis.settings.register_profile("any machine", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("any machine")

LONG = (
    "chaos/test_chaos", "coherence/test_simulation", "demo/", "engine/test_bots", "integration/test_cut_off",
    "runs/test_campaign", "security/test_tls", "worker/test_re", "worker/test_worker",
)  # fmt: skip
"""Modules that take long with few tests. Begun last, they would leave the other processes with nothing to do."""


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Each process begins elsewhere, so that it finds most modules compiled by the others."""
    report = yield
    if isinstance(collector, pytest.Directory):
        first = len(report.result) * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
        first //= int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        report.result = [*report.result[first:], *report.result[:first]]
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: (not item.nodeid.removeprefix("tests/").startswith(LONG), item.path))


def pytest_collection_finish() -> None:
    """What has been imported and collected lives to the end, so the garbage collector need not look through it each
    time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def servers(bkm_servers: Servers) -> Servers:
    """A private mongod and redis-server, or with `--containers` those of Docker. Where they cannot run, tests are
    skipped on a laptop and fail in CI.
    """
    return bkm_servers


@pytest.fixture(scope="session")
def new_database(worker_id: str) -> Callable[[], str]:
    """Names of databases that nobody else uses."""
    numbers = count()
    return lambda: f"test_{worker_id}_{next(numbers)}"


class _UnderALock(logging.Handler):
    """Collects what is logged by a thread that holds a lock: a handler that writes through an adapter could hang
    there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if locks.held():
            self.found.append(f"{record.pathname}:{record.lineno}")


_under_a_lock = _UnderALock()
logging.getLogger("backtest_kit_mongo").addHandler(_under_a_lock)


@pytest.fixture(autouse=True)
def _nothing_is_logged_under_a_lock() -> Iterator[None]:
    yield
    found, _under_a_lock.found = _under_a_lock.found, []
    assert not found


@pytest.fixture(scope="module", autouse=True)
def _what_a_module_sets_up_ends_with_it() -> Iterator[None]:
    """A store that is left open asks its servers on and on, and other tests hear what it logs. Commands that are called
    in this process count on its end.
    """
    yield
    if sys.modules["backtest_kit_mongo.setup"]._settings is not None:
        backtest_kit_mongo.shutdown()
