"""The stores of this process:

files, memory, nothing, and the live one that `setup()` makes. Registries ask here, late, for the current one.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from backtest_kit_mongo.backends.dummy import DummyTruth
from backtest_kit_mongo.backends.files.documents import FileTruth
from backtest_kit_mongo.backends.memory import MemoryTruth
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import NotSetUp
from backtest_kit_mongo.ports import NoCache

DUMP_DIRECTORY = Path("dump")
"""Relative on purpose, as in the original: it follows the working directory."""

_lock = threading.Lock()
_live_factory: Callable[[], Store] | None = None
_live: Store | None = None


@lru_cache(maxsize=1)
def file_store() -> Store:
    """The process-wide file backend."""
    return Store("files", FileTruth(DUMP_DIRECTORY), NoCache())


@lru_cache(maxsize=1)
def memory_store() -> Store:
    """The process-wide memory backend."""
    return Store("memory", MemoryTruth(), NoCache())


@lru_cache(maxsize=1)
def dummy_store() -> Store:
    """The backend that keeps nothing."""
    return Store("dummy", DummyTruth(), NoCache())


def configure_live(factory: Callable[[], Store] | None) -> None:
    """Say how the live store is made; the previous one is closed."""
    global _live, _live_factory
    with _lock:
        previous, _live, _live_factory = _live, None, factory
    if previous is not None:
        previous.close()


def live_store() -> Store:
    """MongoDB and Redis as configured; made by the first call.

    Raises:
        NotSetUp: nothing was configured.
    """
    global _live
    with _lock:
        if _live is None:
            if _live_factory is None:
                raise NotSetUp("no MongoDB is configured: call backtest_kit_mongo.setup() first")
            _live = _live_factory()
        return _live


def live_store_if_open() -> Store | None:
    """The live store; None if nobody has used it yet."""
    return _live


def _forget_after_fork() -> None:
    # Sockets and locks of the parent must not be used by the child: it makes its own store on first use.
    global _live, _lock
    _lock = threading.Lock()
    _live = None


def _close_at_exit() -> None:
    # What a bypassed Redis missed is delivered now or never.
    with _lock:
        store = _live
    if store is not None:
        store.close()


atexit.register(_close_at_exit)
os.register_at_fork(after_in_child=_forget_after_fork)
