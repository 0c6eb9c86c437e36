"""The synchronous driver, and the `Store` that domain instances talk to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from backtest_kit_mongo.backends.ports import Cache, Near, Truth
from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence import plans
from backtest_kit_mongo.coherence.record import Change, Key, Record
from backtest_kit_mongo.drivers.flights import Flights

R = TypeVar("R")
Perform = Callable[[fx.Effect[Any]], Any]


def drive(plan: fx.Plan[R], perform: Perform) -> R:
    """Run a plan to its end. Any exception, KeyboardInterrupt too, is thrown into the plan, which owns the clean-up."""
    step: Callable[[Any], fx.Effect[Any]] = plan.send
    argument: Any = None
    while True:
        try:
            effect = step(argument)
        except StopIteration as done:
            answer: R = done.value
            return answer
        try:
            step, argument = plan.send, perform(effect)
        except BaseException as error:
            step, argument = plan.throw, error


def _dropping(near: Near, perform: Perform) -> Perform:
    """Perform a step of a write, then forget the own copies of its keys, whatever came of it (N3)."""

    def performed(effect: Any) -> Any:
        try:
            return perform(effect)
        finally:
            near.drop(effect.keys if isinstance(effect, fx.Defer) else (effect.key,))

    return performed


class Store:
    """One truth and one cache behind the verbs that domains need. Thread-safe.

    Opening is lazy and repeated until it succeeds: a failed first connection is retried by the next call.
    """

    def __init__(self, name: str, truth: Truth, cache: Cache, near: Near | None = None) -> None:
        self.name = name
        self.truth = truth
        self.cache = cache
        self.near = near
        self._near_domains = frozenset() if near is None else near.domains
        self._handlers: dict[type[fx.Effect[Any]], Callable[[Any], Any]] = {
            fx.Find: Flights(truth.find).find,
            fx.Upsert: truth.upsert,
            fx.SoftRemove: truth.remove,
            fx.Rows: truth.rows,
            fx.Merge: truth.merge,
            fx.Append: truth.append,
            fx.Lease: cache.lease,
            fx.Abort: cache.abort,
            fx.Commit: cache.commit,
            fx.Publish: cache.publish,
            fx.Defer: cache.defer,
            fx.CacheRead: cache.read,
            fx.Fill: cache.fill,
        }
        if near is not None:
            self._handlers |= {fx.NearBegin: near.begin, fx.NearEnd: near.end}
            for kind in (fx.Lease, fx.Commit, fx.Defer):
                self._handlers[kind] = _dropping(near, self._handlers[kind])
        self._opened = False
        self._open_lock = threading.Lock()
        self._snapshots: dict[Key, plans.Snapshot | None] = {}

    def __repr__(self) -> str:
        return f"<store {self.name}>"

    def open(self) -> None:
        """Connect unless connected.

        Raises:
            EnvironmentFault: a server cannot be used; the next call tries again.
        """
        if self._opened:
            return
        with self._open_lock:
            if not self._opened:
                self.truth.open()
                self.cache.open()
                self._opened = True

    def close(self) -> None:
        with self._open_lock:
            if self.near is not None:
                self.near.close()
            self.cache.close()
            self.truth.close()
            self._opened = False
            self._snapshots.clear()

    def _perform(self, effect: fx.Effect[Any]) -> Any:
        return self._handlers[type(effect)](effect)

    def read(self, key: Key) -> Record:
        near = self.near
        if near is not None and key.domain in self._near_domains:
            return near.get(key) or self._read_near(key)
        self.open()
        return drive(plans.read(key), self._perform)

    def _read_near(self, key: Key) -> Record:
        self.open()
        return drive(plans.read_near(key), self._perform)

    def write(self, change: Change) -> Record:
        self.open()
        return drive(plans.write(change), self._perform)

    def remove(self, key: Key) -> Record | None:
        self.open()
        return drive(plans.remove(key), self._perform)

    def merge(self, scope: Key, changes: Sequence[Change]) -> int:
        """Write the rows that differ; returns how many did."""
        self.open()
        merged = drive(plans.merge(scope, changes, self._snapshots.get(scope)), self._perform)
        self._snapshots[scope] = merged.snapshot
        return merged.written

    def append(self, scope: Key, rows: Sequence[dict[str, Any]], step_ms: int) -> tuple[int, ...]:
        """Insert rows of a series; returns the times that were new."""
        self.open()
        return drive(plans.append(scope, tuple(rows), step_ms), self._perform)

    def scan(
        self, scope: Key, *, when: int | None = None, limit: int | None = None, keys_only: bool = False
    ) -> Iterator[Record]:
        self.open()
        return self.truth.scan(scope, when=when, limit=limit, keys_only=keys_only)

    def window(self, scope: Key, since: int, until: int) -> list[dict[str, Any]]:
        self.open()
        return self.truth.window(scope, since, until)
