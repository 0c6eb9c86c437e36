"""Simulation time that cannot be forgotten: while it is set, no adapter reads what was written later.

    with bk.simulation_time(moment):
        strategy(...)          # reads without `when=` are as of `moment`, writes are stamped with it

A block within a block may go back in time, not on. It reaches what the block starts: tasks, threads
(`threading.Thread`, `ThreadPoolExecutor`, so `asyncio.to_thread` too), and child processes that are forked. A thread
that was started before the block, by whoever, knows no time; while a block is open its reads are refused, unless it
says `with bk.simulation_time(None)`. Not reached: processes started by `spawn` or a shell, `BaseCRUD`, `get_mongo()`
and `get_redis()`, the change feed and the audit log.

What a read does at simulation time T:

| read | what was written after T |
|---|---|
| one row, no `when=` | `LookAhead`: the row that was there at T is gone, and its successor may not be seen |
| one row, `when=` at most T | hidden, as always: the answer is that of an empty place |
| a list | left out, and reported once in the log |
| candles | those that close after T are not there; what opens later, or a window that ends later, is `LookAhead` |
| `when=` after T | `LookAhead` |

A row carries the `when` of its write. Rows of domains that have none (signal, schedule, storage, notification, log) are
dated by the stamp of an own write, else by their own times (`timestamp`, `pendingAt`, ...). What has no date at all, as
what the npm package stores of measures and strategies, is visible. Soft removal is not dated.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.thread import _worker as _pool_worker
from contextvars import ContextVar, Token
from datetime import datetime
from types import TracebackType
from typing import Any, Final
from weakref import WeakKeyDictionary

from backtest_kit_mongo import locks
from backtest_kit_mongo.coherence.moments import iso, moment_ms
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.errors import InvalidKey, LookAhead

__all__ = [
    "SimulationTime",
    "hidden_from",
    "refuse",
    "report_hidden",
    "simulation_now",
    "simulation_time",
    "stamp",
    "stamped",
]

logger = locks.logger(__name__)


class SimulationTime:
    """A block with a simulation time; `move` sets the time of all that runs in it.

    Attributes:
        moment: epoch milliseconds, or None: no simulation time, said on purpose.
    """

    __slots__ = ("_guards_threads", "_outer", "_tokens", "moment")

    def __init__(self, moment: int | datetime | None, *, guards_threads: bool = True) -> None:
        self.moment = None if moment is None else moment_ms(moment, "simulation time")
        self._guards_threads = guards_threads and moment is not None
        self._tokens: list[Token[SimulationTime]] = []
        self._outer: SimulationTime | None = None

    def move(self, moment: int | datetime) -> None:
        """Go on to another time. Threads and tasks that were started in the block go with it.

        Raises:
            LookAhead: it lies after the time of the block around this one.
        """
        later = moment_ms(moment, "simulation time")
        _require_within(later, self._outer)
        self.moment = later

    def __enter__(self) -> SimulationTime:
        global _open_blocks
        _install()
        self._outer = _scope()
        _require_within(self.moment, self._outer)
        self._tokens.append(_current.set(self))
        if self._guards_threads:
            with _lock:
                _open_blocks += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _open_blocks
        if self._guards_threads:
            with _lock:
                _open_blocks -= 1
        _current.reset(self._tokens.pop())
        self._outer = None


def simulation_time(moment: int | datetime | None, *, guards_threads: bool = True) -> SimulationTime:
    """A block in which every adapter reads as of `moment` and every write is stamped with it.

    Args:
        moment: epoch milliseconds or a datetime with a zone. None: this thread has no simulation time, and
            that is meant.
        guards_threads: while the block is open, refuse reads of threads that know no simulation time. Right for a
            backtest; a live process, whose data cannot lie in the future, may switch it off.

    Raises:
        InvalidKey: `moment` is neither, or cannot have been meant (see `moment_ms`).
        LookAhead: when it is entered: it lies after the time of the block around it. What is meant to leave that time
            says `simulation_time(None)`.
    """
    return SimulationTime(moment, guards_threads=guards_threads)


_UNSAID: Final = SimulationTime(None)
"""Nobody said anything about time here."""
_current: ContextVar[SimulationTime] = ContextVar("backtest_kit_simulation_time", default=_UNSAID)
_started_in: WeakKeyDictionary[threading.Thread, SimulationTime] = WeakKeyDictionary()
"""By thread, the block that it was started in: on Python before 3.14 a new thread starts with an empty context."""
_open_blocks = 0
_lock = locks.Lock()
_reported: set[Key] = set()


def _require_within(moment: int | None, outer: SimulationTime | None) -> None:
    """A block in a block may go back in time, not on: that would be a way to look ahead."""
    if moment is not None and outer is not None and outer.moment is not None and moment > outer.moment:
        raise refuse("simulation_time", f"{moment} ({iso(moment)}) was asked for", outer.moment, "Nothing was read.")


def _scope() -> SimulationTime:
    scope = _current.get()
    if scope is _UNSAID and _started_in:
        return _started_in.get(threading.current_thread(), scope)
    return scope


def simulation_now(what: object = "this read") -> int | None:
    """The simulation time in force here, epoch milliseconds; None outside of one.

    Raises:
        LookAhead: this thread knows no simulation time while another one is in a block.
    """
    scope = _current.get()
    if scope is _UNSAID:
        scope = _scope()
        if scope is _UNSAID and _open_blocks:
            raise LookAhead(
                f"{what}: thread {threading.current_thread().name!r} knows no simulation time, and another thread of "
                "this process is in a simulated moment. It was started before, so whom it works for is unknown. Start "
                "it inside, or say `with bk.simulation_time(moment)` in it (None: on purpose without). Nothing was "
                "read or written."
            )
    return scope.moment


def stamp(what: object, when: int | None) -> int | None:
    """The time that a write is stored with: the simulation time, whatever earlier time was given.

    Raises:
        LookAhead: `when` lies after the simulation time. Nothing was written.
    """
    scope = _current.get()
    if scope is _UNSAID and not _open_blocks and not _started_in:
        return when  # Nobody in this process speaks of simulation time: the usual case of a live one.
    now = simulation_now(what)
    if now is None:
        return when
    if when is not None and when > now:
        raise refuse(what, f"written with when={when} ({iso(when)})", now, "Nothing was written.")
    return now


def stamped(when: int | datetime | None) -> int | datetime:
    """The `when` of a write, the simulation time in force if none was given.

    Raises:
        InvalidKey: there is neither.
    """
    moment = simulation_now("this write") if when is None else when
    if moment is None:
        raise InvalidKey(
            "a write needs `when` (epoch milliseconds or a datetime), or a simulation time in force. Nothing was "
            "written."
        )
    return moment


def hidden_from(record: Record, now: int) -> int | None:
    """The time of a record that was written after `now`; None if it may be seen."""
    moment = record.when
    if moment is None and record.key.domain.dated_by and isinstance(record.payload, dict):
        found = [record.payload.get(name) for name in record.key.domain.dated_by]
        moment = max((int(one) for one in found if isinstance(one, (int, float)) and one == one), default=None)
    return moment if moment is not None and moment > now else None


def refuse(what: object, happening: str, now: int, end: str = "Nothing was read.") -> LookAhead:
    """The error that names what was read too early."""
    return LookAhead(f"{what}: {happening}, but the simulation time is {now} ({iso(now)}). {end}")


def report_hidden(scope: Key, count: int, example: Key, now: int) -> None:
    """Say once for each list of the process that rows of it are not shown."""
    if scope not in _reported:
        _reported.add(scope)
        logger.warning(
            ("%s: %d row(s) written after simulation time %d (%s) are left out of the list, for example %s; not said "
                "again"),
            scope, count, now, iso(now), example,
        )  # fmt: skip


# -- what new threads inherit


def _install() -> None:
    """Wrap, once, the two doors through which Python code reaches another thread. Without a block they do what they
    did.
    """
    with _lock:
        if getattr(threading.Thread.start, "passes_simulation_time", False):
            return
        start, submit = threading.Thread.start, ThreadPoolExecutor.submit

        def start_in_block(self: threading.Thread) -> None:
            # A pool's thread works for whoever submits, not for whoever happened to start it.
            if getattr(self, "_target", None) is not _pool_worker and (scope := _scope()) is not _UNSAID:
                _started_in[self] = scope
            start(self)

        def submit_in_block(
            self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **named: Any
        ) -> Future[Any]:
            if (scope := _scope()) is _UNSAID:
                return submit(self, fn, *args, **named)
            return submit(self, _within, scope, fn, *args, **named)

        start_in_block.passes_simulation_time = True  # type: ignore[attr-defined]
        threading.Thread.start = start_in_block  # type: ignore[method-assign]
        ThreadPoolExecutor.submit = submit_in_block  # type: ignore[assignment, method-assign]


def _within(scope: SimulationTime, fn: Callable[..., Any], /, *args: Any, **named: Any) -> Any:
    token = _current.set(scope)
    try:
        return fn(*args, **named)
    finally:
        _current.reset(token)
