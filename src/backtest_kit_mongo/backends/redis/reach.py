"""Whether a Redis can be used, and what it has missed while it could not.

Two things are kept apart. *Down*: nobody answers, so reads and writes go past Redis (bypass). *Owing*: keys were
written past it, or what was to be announced could not be announced; their entries are not read by this client before
they are deleted. Both end by themselves: the keeper's thread tries, so a process that does nothing more delivers all
the same.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import redis

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.redis.counts import CacheCounts
from backtest_kit_mongo.backends.redis.errors import Outdated, Refused, is_unreachable
from backtest_kit_mongo.backends.redis.identity import HEARTBEAT_S, Identity
from backtest_kit_mongo.backends.redis.link import Link, Script
from backtest_kit_mongo.backends.redis.missed import Missed
from backtest_kit_mongo.backends.redis.passing import Passing
from backtest_kit_mongo.backends.redis.safety import unsafe_reason
from backtest_kit_mongo.coherence.effects import CacheDown
from backtest_kit_mongo.coherence.events import Event
from backtest_kit_mongo.coherence.keys import Names
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.errors import BacktestKitError

logger = locks.logger(__name__)
R = TypeVar("R")
FAULTS: Final = (redis.RedisError, OSError, BacktestKitError)
CLOSE_S: Final = 2.0
"""How long a process that ends goes on trying to deliver what it owes."""
_PAUSE_S: Final = 0.05


class Reach:
    """Of one Redis, or of the part of a cluster that has `health_key`. Thread-safe.

    Args:
        relay: the script that deletes what may be old; `publish`: the one that appends events.
        names_of: the names of a key in force.
        shares: how many of these share the bounds on what is kept.
    """

    def __init__(
        self,
        link: Link,
        identity: Identity,
        relay: Script,
        publish: Script,
        names_of: Callable[[Key], Names],
        counts: CacheCounts,
        *,
        retry_s: float,
        health_key: str = "",
        shares: int = 1,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = link
        self._identity = identity
        self._relay, self._publish = relay, publish
        self._names_of = names_of
        self._counts = counts
        self._retry_s = retry_s
        self._health_key = health_key
        self._monotonic_s = monotonic_s
        self._lock = locks.Lock()
        self._retry_at_s = 0.0
        self.missed = Missed(shares)
        self.passing: Passing | None = None
        self.is_down = False
        self.is_troubled = False
        """Down or owing: two reasons to look closer, in one attribute, because every hit asks for it."""

    def guarded(self, send: Callable[[], R]) -> R:
        """Send; once more on a new connection if the first was dead, and once more in another era.

        Raises:
            Refused: Redis answered with an error.
            CacheDown: nobody answers; it may or may not have been executed.
        """
        if self.is_troubled:
            self.require_up()
        try:
            try:
                return self._sent(send)
            except Outdated:
                self._identity.renew()
                return self._sent(send)
        except FAULTS as cause:
            if not is_unreachable(cause):
                raise Refused(str(cause)) from cause
            self.went_down(cause)
            raise CacheDown from cause

    def _sent(self, send: Callable[[], R]) -> R:
        try:
            return send()
        except redis.ConnectionError as cause:
            if not is_unreachable(cause):
                raise
            # Most likely a pooled connection that the server closed long ago.
            self._link.drop_idle()
            return send()

    def require_up(self) -> None:
        """Return if Redis may be used, after telling it what it has missed; tried at most every `retry_s`.

        Raises:
            CacheDown: it is still down.
        """
        if self._lock.is_mine:
            raise CacheDown  # A signal handler, in the middle of a delivery.
        with self._lock.quietly():
            if self._monotonic_s() >= self._retry_at_s:
                self._come_back()
            if self.is_down:
                raise CacheDown

    def _come_back(self) -> None:
        try:
            self._catch_up()
        except FAULTS as cause:
            logger.debug("Redis cannot be given yet what it has missed: %s", cause)
            self._retry_at_s = self._monotonic_s() + self._retry_s
            if is_unreachable(cause):
                self._mark(is_down=True)
            elif self.is_down and not isinstance(cause, Unsafe | BacktestKitError):
                # It answers, so it may answer others with hits: no write may go past it any more.
                self._mark(is_down=False)
            return
        if self.is_down:
            logger.warning("Redis is back; everything it missed was delivered")
        self._mark(is_down=False)

    def _mark(self, *, is_down: bool) -> None:
        if self.is_down != is_down:
            (self._counts.went_down if is_down else self._counts.came_back)(self)
        self.is_down = is_down
        self.is_troubled = is_down or bool(self.missed)

    def went_down(self, cause: BaseException) -> None:
        with self._lock.quietly():
            if not self.is_down:
                logger.warning("Redis cannot be reached, going on with MongoDB alone (slower, never wrong): %s", cause)
            self._retry_at_s = self._monotonic_s() + self._retry_s
            self._mark(is_down=True)
            self._link.drop_idle()

    def _catch_up(self) -> None:
        """Deliver what was missed, under the lock: an entry that survived a bypassed write must go before any entry is
        read again.
        """
        if self.is_down:
            self._identity.renew()
        self.missed.deliver(self._link, self._relay, self._publish, self._names_of, self._identity.partitions)
        if self.is_down and (reason := unsafe_reason(self._link.at(self._health_key).execute("INFO", "MEMORY"))):
            raise Unsafe(reason)

    def keep(self, keys: Iterable[Key], events: Iterable[tuple[str, Event]]) -> None:
        """Keep what could not be announced, and announce it now if Redis came back or failed only this once: the entry
        must be gone before this write returns.
        """
        is_delivering = self._lock.is_mine  # This is a signal handler; what was interrupted goes on delivering.
        with self._lock.quietly():
            self.missed.add(keys, events)
            self.is_troubled = True
            if not self.is_down and not is_delivering:
                self._come_back()

    def keep_events(self, events: Iterable[tuple[str, Event]]) -> None:
        """Events for which the feed had no room; the timer tries again."""
        with self._lock.quietly():
            if not self.missed.events:
                logger.warning("the change feed has no room in Redis: events are kept here, and appended when it has")
                self._retry_at_s = self._monotonic_s() + self._retry_s
            self.missed.add((), events)
            self.is_troubled = True

    def owes(self, key: Key) -> bool:
        """Whether the key's entry may be older than what this client wrote."""
        return key in self.missed.keys

    def tend(self) -> None:
        """What the keeper does: come back without being asked."""
        if self.is_troubled:
            with self._lock.quietly():
                if self._monotonic_s() >= self._retry_at_s:
                    self._come_back()
        if self.passing is not None and self.passing.is_held:
            if not self.is_down and (overdue := self.passing.overdue()):
                self.keep(overdue, ())
            self.passing.tend(lambda: not self.is_down and not self.missed)

    @property
    def must_tend(self) -> bool:
        """Whether something is to be done soon."""
        return self.is_troubled or (self.passing is not None and self.passing.is_held)

    def close(self) -> None:
        """Deliver what is owed, now: tried until `CLOSE_S` has passed, whatever was tried last."""
        end_s = time.monotonic() + CLOSE_S
        while self.missed:
            with self._lock.quietly():
                self._come_back()
            if not self.missed:
                break
            if time.monotonic() >= end_s:
                logger.error(
                    "closing while Redis cannot be informed: %d changes were not announced; they are in MongoDB, and "
                    "other hosts may serve older entries of %d documents until those are written again or recovered",
                    len(self.missed.events), len(self.missed.keys),
                )  # fmt: skip
                return
            time.sleep(_PAUSE_S)
        if self.passing is not None:
            self.passing.tend(lambda: not self.is_down and not self.missed)


def after(fault: BaseException, send: Callable[[], R]) -> Callable[[], R]:
    """`send`, of which a first attempt has failed already."""
    failed = [fault]

    def again() -> R:
        if failed:
            raise failed.pop()
        return send()

    return again


class Unsafe(redis.ResponseError):
    """Redis came back with a configuration that may lose leases."""


class Keeper:
    """The thread that comes back and sends heartbeats for a cache, so that neither waits for the next use. It ends with
    its cache.

    Args:
        pause_s: between two rounds while something is wrong; otherwise a round is a heartbeat.
    """

    def __init__(self, identity: Identity, pause_s: float) -> None:
        self._identity = identity
        self._pause_s = max(_PAUSE_S, min(pause_s, HEARTBEAT_S))
        self._stop = threading.Event()
        self._lock = locks.Lock()
        self._thread: threading.Thread | None = None

    def start(self, cache: Any) -> None:
        """Tend a cache's `reaches` until it is closed, or forgotten by everybody else."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            self._stop = threading.Event()
            arguments = (self._stop, weakref.ref(cache), self._identity, self._pause_s)
            self._thread = threading.Thread(target=_keep, args=arguments, name="cache-keeper", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:
                self._thread = None  # The interpreter is ending; what is owed is delivered at close.

    def stop(self) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
            self._stop.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5)


def _keep(stop: threading.Event, cache: Any, identity: Identity, pause_s: float) -> None:
    next_heartbeat_s = time.monotonic() + HEARTBEAT_S
    troubled = False
    while not stop.wait(pause_s if troubled else max(_PAUSE_S, next_heartbeat_s - time.monotonic())):
        tended = cache()
        if tended is None:
            return
        try:
            for reach in tended.reaches:
                reach.tend()
            troubled = any(reach.must_tend for reach in tended.reaches)
            if time.monotonic() >= next_heartbeat_s:
                next_heartbeat_s = time.monotonic() + HEARTBEAT_S
                if not all(reach.is_down for reach in tended.reaches):
                    identity.heartbeat()
        except FAULTS as cause:
            logger.debug("the cache's era could not be confirmed; tried again: %s", cause)
        except Exception:
            logger.exception("the cache's keeper goes on after an error that it does not know")
        del tended
