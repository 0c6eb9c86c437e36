"""The stores of this process: files, memory, nothing, and the live one that `setup()` makes.

Registries ask here, late, for the current one, and for the default, which is never chosen silently: a program that has
servers configured in any way gets them or an error, and one that has none is informed once where its files are.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from backtest_kit_mongo import inheritance, locks
from backtest_kit_mongo.backends.dummy import DummyTruth
from backtest_kit_mongo.backends.files.documents import FileTruth
from backtest_kit_mongo.backends.memory import MemoryTruth
from backtest_kit_mongo.backends.persist.base import BASE_DIR, PersistBase
from backtest_kit_mongo.backends.persist.wrapper import Wrapper as Wrapper
from backtest_kit_mongo.backends.persist.wrapper import lists_keys
from backtest_kit_mongo.drivers.counts import DEFERRED, UNKNOWN, WRITTEN
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import NotSetUp
from backtest_kit_mongo.locks import Lock
from backtest_kit_mongo.ports import NoCache

DUMP_DIRECTORY = Path("dump")
"""Relative on purpose, as in the original: it follows the working directory."""

logger = locks.logger(__name__)

_lock = Lock()
_live_factory: Callable[[], Store] | None = None
_live: Store | None = None
_live_name = ""
_is_live_default = False
_refusal: str | None = None
"""Why files would be wrong although `setup()` is not in force."""
_is_reported = False
_memory_is_inherited = False
"""And nobody has said so yet."""


def new_file_store(directory: Path) -> Store:
    """Files below a directory."""
    return Store("files", FileTruth(directory), NoCache())


def new_memory_store() -> Store:
    """Memory with nothing in it."""
    return Store("memory", MemoryTruth(), NoCache())


def new_persist_store(maker: Any, base_dir: str) -> Store:
    """Over a class like `PersistBase`."""
    from backtest_kit_mongo.backends.persist.truth import PersistTruth  # Late: it needs NumPy.

    truth = PersistTruth(maker, base_dir, lists=lists_keys(maker))
    return Store(name_of(maker), truth, NoCache())


@cache
def persist_store(maker: Any) -> Store:
    """The process-wide store over such a class."""
    return new_persist_store(maker, BASE_DIR)


def name_of(maker: Any) -> str:
    """An implementation in words: where it is defined, or of what it is made."""
    return f"{maker.__module__}.{maker.__qualname__}" if hasattr(maker, "__qualname__") else repr(maker)


def persist_name(maker: Any) -> str:
    """A class of values in words, with where it keeps them."""
    is_files = isinstance(maker, type) and issubclass(maker, PersistBase) and maker._path is PersistBase._path
    where = Path(BASE_DIR).absolute() if is_files and maker.read_value is PersistBase.read_value else BASE_DIR
    return f"{name_of(maker)}, base_dir {where}"


@lru_cache(maxsize=1)
def file_store() -> Store:
    """The process-wide file backend."""
    return new_file_store(DUMP_DIRECTORY)


def memory_store() -> Store:
    """The process-wide memory backend."""
    global _memory_is_inherited
    if _memory_is_inherited:
        _memory_is_inherited = False
        logger.warning(
            "the process that started this one keeps data in memory (use_memory()). A memory store cannot be shared: "
            "from here on this process has its own, neither sees what the other writes, and it is gone when this "
            "process ends"
        )
    return _memory_store()


@lru_cache(maxsize=1)
def _memory_store() -> Store:
    return new_memory_store()


def inherit_memory() -> None:
    """The process that started this one keeps data in a memory that this one does not have."""
    global _memory_is_inherited
    _memory_is_inherited = True


@lru_cache(maxsize=1)
def dummy_store() -> Store:
    """The backend that keeps nothing."""
    return Store("dummy", DummyTruth(), NoCache())


def files_name() -> str:
    """The file backend in words."""
    return f"files below {DUMP_DIRECTORY.absolute()}"


def default_name() -> str:
    """In words what serves adapters for which nobody chose anything."""
    if _is_live_default:
        return _live_name
    if refusal := _refusal or _refusal_of_environment():
        return f"nothing until setup() is called, which every use says: {refusal}"
    return f"{files_name()}, because setup() was not called"


def default_store() -> Store:
    """The store of adapters for which nobody chose one.

    Raises:
        NotSetUp: servers are configured, but not in use.
    """
    global _is_reported
    if _is_live_default:
        return live_store()
    if refusal := _refusal or _refusal_of_environment():
        raise NotSetUp(
            f"{refusal} Nothing was read or written. Call backtest_kit_mongo.setup() in this process first; or, if "
            "files below ./dump are what you want, use_json() of each adapter says so."
        )
    if not _is_reported:
        _is_reported = True
        logger.warning(
            "setup() was not called: adapters keep files below %s. use_json() says that this is meant",
            DUMP_DIRECTORY.absolute(),
        )
    return file_store()


_files_written: Counter[str] = Counter()
"""Writes by domain that `written_to_files` has informed of."""


def written_to_files() -> frozenset[str]:
    """The domains of which files below ./dump were written since this was asked last."""
    writes = list(file_store().counts.writes.items())
    now = Counter(
        {
            domain.name: sum(tally.outcomes[outcome] for outcome in (WRITTEN, DEFERRED, UNKNOWN))
            for domain, tally in writes
        }
    )
    since = now - _files_written
    _files_written.update(since)
    return frozenset(since)


def mean_files() -> None:
    """Files are meant where nothing else is: no warning."""
    global _is_reported
    _is_reported = True


def files_are_meant() -> bool:
    """Whether this process has said where its files are, or need not."""
    return _is_reported


def _refusal_of_environment() -> str | None:
    for name, means_servers in (("CC_MONGO_CONNECTION_STRING", bool), ("CC_EMBEDDED", _is_on)):
        if means_servers(os.environ.get(name, "")):
            return f"{name} is set, but setup() was not called in this process."
    if address := os.environ.get(inheritance.MARK):
        return (
            f"The program that started this process keeps its data in MongoDB at {address}, but setup() was not "
            "called here."
        )
    return None


def _is_on(value: str) -> bool:
    return value.strip().lower() in ("1", "true", "t", "yes", "y", "on")


def settle(*, live: bool, refusal: str | None = None) -> None:
    """Say what the default is from now on: the live store, or, unless there is a reason against it, files."""
    global _is_live_default, _refusal, _is_reported
    _refusal, _is_reported, _is_live_default = refusal, False, live


def configure_live(factory: Callable[[], Store] | None, name: str = "") -> None:
    """Say how the live store is made, and what it is in words; the previous one is closed."""
    global _live, _live_factory, _live_name
    with _lock:
        previous, _live, _live_factory, _live_name = _live, None, factory, name
    if previous is not None:
        previous.close()


def live_store() -> Store:
    """MongoDB and Redis as configured; made by the first call.

    Raises:
        NotSetUp: nothing was configured.
    """
    global _live
    with _lock.quietly():
        if _live is None:
            if _live_factory is None:
                raise NotSetUp("no MongoDB is configured: call backtest_kit_mongo.setup() first")
            _live = _live_factory()
            _close_with_child()
        return _live


def _close_with_child() -> None:
    """A child of `multiprocessing` ends without atexit, with finalizers of its own."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None and sys.modules["multiprocessing"].parent_process() is not None:
        util.Finalize(None, _close_at_exit, exitpriority=0)


def live_store_if_open() -> Store | None:
    """The live store; None if nobody has used it yet."""
    return _live


def _forget_after_fork() -> None:
    # Sockets of the parent must not be used by the child: it makes its own store on first use.
    global _live
    _live = None
    if _memory_store.cache_info().currsize:
        inherit_memory()


def _close_at_exit() -> None:
    # What a bypassed Redis missed is delivered now or never.
    with _lock:
        store = _live
    if store is not None:
        store.close()


atexit.register(_close_at_exit)
os.register_at_fork(after_in_child=_forget_after_fork)
