"""The locks of this package, and its loggers: nothing of the user's ever runs under a lock.

A log handler may write through an adapter, and a signal handler may read the very key that its thread is reading. So:

* A thread that holds a lock may take it again.
* What is logged under a lock reaches the handlers after the lock is free, from the thread that logged it: locks under
  which anything may be logged are taken with `quietly`. An architecture test lets no other locks and no other loggers
  in, and the test suite looks at every record for a lock held by its thread.
* A forked child finds every lock free, whoever held it in the parent.
"""

from __future__ import annotations

import logging
import os
import threading
from _thread import RLock
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol
from weakref import ref

from backtest_kit_mongo.errors import InvalidSetting

FORK_WAIT_S: Final = 5.0
"""A fork waits no longer for a lock."""
_all: Final[set[ref[Lock]]] = set()
_over_forks: Final[set[ref[Lock]]] = set()
_forking: Final[list[Lock]] = []


class Lock(RLock):  # type: ignore[misc]  # Final for type checkers only.
    """A re-entrant lock.

    The interpreter's own: taken and released in one step each, so that Ctrl-C cannot leave it taken.

    Args:
        over_forks: a fork waits until it is free, so that a child finds whole what it guards.
    """

    __slots__ = ()

    def __init__(self, *, over_forks: bool = False) -> None:
        super().__init__()
        _all.add(ref(self, _all.discard))
        if over_forks:
            _over_forks.add(ref(self, _over_forks.discard))

    @property
    def is_mine(self) -> bool:
        """Whether this thread holds it."""
        return bool(self._is_owned())  # type: ignore[attr-defined]  # As `threading.Condition` asks.

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Hold it, and be `quiet`."""
        with quiet(), self:
            yield


class _Kept(threading.local):
    records: list[logging.LogRecord] | None = None


_kept = _Kept()


@contextmanager
def quiet() -> Iterator[None]:
    """What this thread logs within the block reaches the handlers when the outermost such block has ended."""
    if _kept.records is not None:
        yield
        return
    kept: list[logging.LogRecord] = []
    _kept.records = kept
    try:
        yield
    finally:
        _kept.records = None
        for record in kept:
            logging.getLogger(record.name).handle(record)


def logger(name: str) -> logging.Logger:
    """The logger of a module."""
    found = logging.getLogger(name)
    found.addFilter(_later)
    return found


def _later(record: logging.LogRecord) -> bool:
    """Keep a record that is made under a lock."""
    if _kept.records is None:
        return True
    _kept.records.append(record)
    return False


class Speaker(Protocol):
    """A logger as the original takes it. `log` gets what is worse than a warning."""

    def log(self, text: str, /) -> object: ...
    def debug(self, text: str, /) -> object: ...
    def info(self, text: str, /) -> object: ...
    def warn(self, text: str, /) -> object: ...


class _Spoken(logging.Handler):
    def __init__(self, speaker: Speaker) -> None:
        super().__init__()
        says = ((logging.DEBUG, speaker.debug), (logging.INFO, speaker.info), (logging.WARNING, speaker.warn))
        self._says, self._log = says, speaker.log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            say = next((say for level, say in self._says if record.levelno <= level), self._log)
            say(self.format(record))
        except Exception:
            self.handleError(record)


class _Handed(logging.Handler):
    """On to another logger, whose level, filters and handlers, its parents' too, hold."""

    def __init__(self, target: logging.Logger) -> None:
        super().__init__()
        self._target = target

    def emit(self, record: logging.LogRecord) -> None:
        if self._target.isEnabledFor(record.levelno):
            self._target.handle(record)


def set_logger(target: logging.Logger | logging.Handler | Speaker) -> None:
    """Send this package's log to a handler, to another logger, or to an object with the methods `log`, `debug`, `info`
    and `warn`, which get a text.

    Silent by default beyond warnings, as logging is.

    Raises:
        InvalidSetting: it is none of these; nothing changed.
    """
    package = logging.getLogger("backtest_kit_mongo")
    handler: logging.Handler
    if isinstance(target, logging.Logger):
        if f"{target.name}.".startswith(f"{package.name}."):
            raise InvalidSetting(f"set_logger: {target.name} is this package's own logger. Nothing changed.")
        handler, level = _Handed(target), target.getEffectiveLevel()
    elif isinstance(target, logging.Handler):
        handler, level = target, target.level or logging.INFO
    else:
        lacking = [name for name in ("log", "debug", "info", "warn") if not callable(getattr(target, name, None))]
        if lacking:
            raise InvalidSetting(
                "set_logger takes a logging.Logger, a logging.Handler or an object with the methods log, debug, info "
                f"and warn, not {type(target).__name__}, which has no {', '.join(lacking)}. Nothing changed."
            )
        handler, level = _Spoken(target), logging.DEBUG
    package.handlers = [handler]
    package.setLevel(level)
    package.propagate = False


def held() -> list[Lock]:
    """Locks that this thread holds: for tests."""
    return [lock for lock in _alive(_all) if lock.is_mine]


def _alive(locks: set[ref[Lock]]) -> list[Lock]:
    return [lock for found in list(locks) if (lock := found()) is not None]


def _before_fork() -> None:
    _forking[:] = [lock for lock in _alive(_over_forks) if lock.acquire(timeout=FORK_WAIT_S)]


def _after_in_parent() -> None:
    while _forking:
        _forking.pop().release()


def _after_in_child() -> None:
    _forking.clear()
    _kept.records = None
    for lock in _alive(_all):
        lock._at_fork_reinit()  # type: ignore[attr-defined]  # As `logging` and `threading` do with theirs.


os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
