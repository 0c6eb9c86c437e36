"""Handlers of the user never run under a lock of the package, and what interrupts a thread never hangs it."""

from __future__ import annotations

import linecache
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import backtest_kit_mongo as bk
from backtest_kit_mongo import locks
from backtest_kit_mongo.adapters.registries import PersistStateRegistry
from backtest_kit_mongo.backends.files.documents import FileTruth
from backtest_kit_mongo.backends.memory import MemoryTruth
from backtest_kit_mongo.backends.redis.cache import RedisCache
from backtest_kit_mongo.backends.redis.cluster import link_over
from backtest_kit_mongo.backends.redis.options import CacheOptions
from backtest_kit_mongo.coherence.effects import Find
from backtest_kit_mongo.coherence.events import Origin
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.drivers import single_flight
from backtest_kit_mongo.drivers.single_flight import SingleFlight
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.ports import NoCache

KEY = Key(STATE, ("signal", "a"))


class Writer(logging.Handler):
    """Writes each record of its thread through an adapter, as a bot that keeps its log in the database does."""

    def __init__(self, states: PersistStateRegistry) -> None:
        super().__init__()
        self.states = states
        self.heard: list[str] = []
        self.thread = threading.get_ident()
        self.addFilter(lambda record: record.thread == self.thread)  # Not what others have left behind.

    def emit(self, record: logging.LogRecord) -> None:
        assert not locks.held()
        self.heard.append(record.getMessage())
        self.states.write_state_data({"data": self.heard[-1]}, "log", str(len(self.heard)), when=1)
        assert self.states.read_state_data("log", str(len(self.heard)))


@pytest.fixture
def listening() -> Iterator[Callable[[Store], tuple[PersistStateRegistry, Writer]]]:
    package = logging.getLogger("backtest_kit_mongo")
    handlers = []

    def listen(store: Store) -> tuple[PersistStateRegistry, Writer]:
        states = PersistStateRegistry()
        states.use_store(lambda: store)
        handlers.append(Writer(states))
        package.addHandler(handlers[-1])
        return states, handlers[-1]

    yield listen
    for handler in handlers:
        package.removeHandler(handler)


def test_a_log_handler_may_write_through_an_adapter_when_redis_goes(listening: Any) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        client = redis.Redis(port=nobody.getsockname()[1], retry=Retry(NoBackoff(), 0))
        options = CacheOptions("x", 1, 1_000, 500, 1_000, 1, True, Origin("host", 1))
        cache = RedisCache(link_over(client), options)
        store = Store("bypassing", MemoryTruth(), cache)
        states, writer = listening(store)
        states.write_state_data({"data": 1}, "s", "b", when=1)
        store.close()
    assert ["cannot be reached" in said or "closing while" in said for said in writer.heard] == [True, True]


def test_a_log_handler_may_write_to_the_directory_that_is_being_written(listening: Any, tmp_path: Path) -> None:
    states, writer = listening(Store("files", FileTruth(tmp_path), NoCache()))
    states.write_state_data({"data": 1}, "log", "1", when=1)
    (file,) = tmp_path.rglob("1.json")
    file.write_text("no json")
    states.write_state_data({"data": 2}, "log", "1", when=1)
    assert "unreadable" in writer.heard[0]


def test_a_signal_handler_may_read_what_its_thread_is_reading() -> None:
    def find(effect: Find) -> Record:
        if not found:
            found.append(1)
            os.kill(os.getpid(), signal.SIGUSR1)  # Python runs the handler before the next line of this thread.
        found.append(2)
        return Record(effect.key, len(found))

    found: list[int] = []
    shared_finds = SingleFlight(find)
    before = signal.signal(signal.SIGUSR1, lambda *_: found.append(shared_finds.find(Find(KEY)).rev))
    try:
        assert shared_finds.find(Find(KEY)).rev == 4
        assert found == [1, 2, 2, 2]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_ctrl_c_at_any_line_of_a_find_leaves_nobody_waiting() -> None:
    lines = 0
    while _interrupted_at(lines):
        lines += 1
    assert lines > 20


def _interrupted_at(line: int) -> bool:
    """Interrupt a find at one of its lines; then others read. Whether it was interrupted at all."""
    shared_finds = SingleFlight(lambda effect: Record(effect.key, 1), wait_s=0.05)
    left = line

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != single_flight.__file__:
            return None
        # The interpreter looks for signals after calls, not between a block's last line and the release of its lock.
        is_leaving = (
            "with self._lock" in linecache.getline(frame.f_code.co_filename, frame.f_lineno)
            and shared_finds._lock.is_mine
        )
        if event == "line" and not is_leaving:
            if left == 0:
                left = -1
                raise KeyboardInterrupt
            left -= 1
        return trace

    traced = sys.gettrace()
    sys.settrace(trace)
    try:
        shared_finds.find(Find(KEY))
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(traced)
    found: list[Record] = []
    reader = threading.Thread(target=lambda: found.append(shared_finds.find(Find(KEY))), daemon=True)
    reader.start()
    reader.join(10)
    assert found, f"hangs after an interrupt at line {line}"
    assert shared_finds.find(Find(KEY)).rev == 1
    return left == -1


def test_a_logger_that_cannot_serve_is_refused_before_it_is_installed() -> None:
    package = logging.getLogger("backtest_kit_mongo")
    before = package.handlers[:], package.level, package.propagate
    with pytest.raises(bk.InvalidSetting, match="Handler"):
        bk.set_logger(print)  # type: ignore[arg-type]
    with pytest.raises(bk.InvalidSetting, match="own logger"):
        bk.set_logger(logging.getLogger("backtest_kit_mongo.setup"))
    assert (package.handlers, package.level, package.propagate) == before


class Spoken(list[tuple[str, str]]):
    """A logger as the original takes it."""

    def __getattr__(self, level: str) -> Callable[[str], None]:
        if level not in ("log", "debug", "info", "warn"):
            raise AttributeError(level)
        return lambda text: self.append((level, text))


def test_a_logger_of_the_users_gets_what_is_said(caplog: pytest.LogCaptureFixture) -> None:
    package = logging.getLogger("backtest_kit_mongo")
    before = package.handlers, package.level, package.propagate
    try:
        spoken = Spoken()
        bk.set_logger(spoken)
        for level in ("debug", "info", "warning", "error"):
            getattr(logging.getLogger("backtest_kit_mongo.setup"), level)("%s", level)
        assert spoken == [("debug", "debug"), ("info", "info"), ("warn", "warning"), ("log", "error")]
        theirs = logging.getLogger("a bot")  # It has no handlers of its own: its parents' serve.
        theirs.setLevel(logging.WARNING)
        bk.set_logger(theirs)
        logging.getLogger("backtest_kit_mongo.setup").info("quiet")
        logging.getLogger("backtest_kit_mongo.setup").warning("loud")
        assert [record.getMessage() for record in caplog.records] == ["loud"]
    finally:
        package.handlers, package.level, package.propagate = before
