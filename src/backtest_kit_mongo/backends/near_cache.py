"""The near cache of a process: `Copies` with a lock and a clock, and the thread that listens to Redis for it.

The rules and the guarantee are in `coherence/near.py`; its parameters D and the bound on memory are the settings
CC_NEAR_CACHE_MAX_STALENESS_MS and CC_NEAR_CACHE_MAX_BYTES.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import redis

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.redis.errors import Outdated
from backtest_kit_mongo.backends.redis.identity import Identity
from backtest_kit_mongo.backends.redis.link import UNREACHABLE, Argument, Link, RedisLink, Script
from backtest_kit_mongo.backends.redis.passing import Serving
from backtest_kit_mongo.coherence.keys import Channels, channels, names, parse_entry_name
from backtest_kit_mongo.coherence.near import Copies, Fetch, NearBegin, NearEnd
from backtest_kit_mongo.coherence.record import Domain, Key, Record

logger = locks.logger(__name__)

CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""A clock that goes on while the machine sleeps: otherwise a laptop that wakes up would take old copies for fresh."""
HEARTBEATS_PER_STALENESS = 4
"""One lost or late heartbeat must not make all copies unservable."""
DEAF_S = 5.0
"""Without a heartbeat for so long, and for several times the staleness bound, another connection is made: the node of a
cluster through which this process listens may be cut off from the others."""


boot_s: Callable[[], float] = partial(time.clock_gettime, CLOCK)
"""Seconds of that clock."""


@dataclass(frozen=True, slots=True)
class NearOptions:
    """What is copied and for how long.

    Attributes:
        staleness_ms: D of the guarantee.
        bytes_max: bound on the memory of all copies.
        retry_ms: pause before listening again after the connection was lost.
    """

    database: str
    domains: frozenset[Domain]
    staleness_ms: int
    bytes_max: int
    retry_ms: int


class NearCache:
    """Copies of this process, thread-safe. Listening begins with the first read that may leave a copy."""

    def __init__(
        self,
        client: redis.Redis,
        link: Link,
        options: NearOptions,
        identity: Identity,
        serving: Callable[[str], Serving],
        *,
        clock_s: Callable[[], float] = boot_s,
    ) -> None:
        self._options = options
        self._identity = identity
        self._clock_s = clock_s
        self._lock = locks.Lock()
        self._copies = Copies(options.bytes_max, options.staleness_ms / 1000)
        self._subscriber = _Subscriber(client, link, options, identity, serving, self._copies, self._lock, clock_s)

    def __len__(self) -> int:
        return len(self._copies)

    @property
    def bytes(self) -> int:
        """What the copies take, at most."""
        return self._copies.bytes

    @property
    def hit_count(self) -> int:
        return self._copies.hit_count

    @property
    def domains(self) -> frozenset[Domain]:
        return self._options.domains

    @property
    def staleness_s(self) -> float:
        return self._options.staleness_ms / 1000

    def get(self, key: Key) -> Record | None:
        return self._copies.get(key, self._clock_s())

    def begin(self, effect: NearBegin) -> Fetch:
        self._subscriber.listen()
        options, key = self._options, effect.key
        channel = names(options.database, self._identity.partitions, key.domain.name, key.parts).channel
        with self._lock:
            return self._copies.begin(channel, key)

    def end(self, effect: NearEnd) -> None:
        with self._lock:
            self._copies.end(effect.fetch, effect.record, is_entry=effect.is_entry)

    def drop(self, keys: Iterable[Key]) -> None:
        with self._lock:
            for key in keys:
                self._copies.drop(key)

    def close(self) -> None:
        """Stop listening. Whoever reads later begins to listen again."""
        self._subscriber.close()


class _Subscriber:
    """The thread that hears invalidations and asks for heartbeats.

    The client library reconnects and subscribes again by itself; what was said meanwhile is noticed by its number.
    """

    def __init__(
        self,
        client: redis.Redis,
        link: Link,
        options: NearOptions,
        identity: Identity,
        serving: Callable[[str], Serving],
        copies: Copies,
        lock: locks.Lock,
        clock_s: Callable[[], float],
    ) -> None:
        self._client: Any = client  # The library's `pubsub` has no types.
        self._link = link
        self._identity = identity
        self._serving = serving
        self._copies = copies
        self._lock = lock
        self._clock_s = clock_s
        self._retry_s = options.retry_ms / 1000
        self._heartbeat_s = options.staleness_ms / 1000 / HEARTBEATS_PER_STALENESS
        self._heartbeat = Script("heartbeat")
        self._database = options.database
        self._domains = {domain.name: domain for domain in options.domains}
        self._name = os.urandom(12).hex()
        self._channels: tuple[Channels, ...] = ()
        self._by_heartbeat: dict[bytes, Channels] = {}
        self._heartbeat_heard_s = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def listen(self) -> None:
        """Start the thread unless it runs."""
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    # Each thread has its own event: a new one must not be stopped by what was meant for the one before.
                    self._stop = threading.Event()
                    self._thread = threading.Thread(
                        target=self._run, args=(self._stop,), name="near-cache", daemon=True
                    )
                    try:
                        self._thread.start()
                    except (
                        RuntimeError
                    ):  # Python is ending and starts no thread: then nothing is confirmed, and so nothing kept.
                        self._thread = None

    def close(self) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
            self._stop.set()
        if thread is not None:
            thread.join(timeout=5)
            self._link.close()

    def _run(self, stop: threading.Event) -> None:
        is_reported = False
        while not stop.is_set():
            try:
                with self._client.pubsub() as subscription:
                    self._hear(subscription, stop)
                is_reported = False
            except Exception as cause:
                # Also what nobody should ever send on these channels: it must not end the thread for good.
                if not is_reported:
                    logger.warning("the near cache is off until Redis can be heard (reads go to Redis): %s", cause)
                    is_reported = True
                stop.wait(self._retry_s)
            finally:
                with self._lock:
                    self._copies.lost()

    def _hear(self, subscription: Any, stop: threading.Event) -> None:
        # Anew each time: another process's start may have put another number of partitions in force.
        self._channels = channels(self._database, self._identity.partitions, sorted(self._domains), self._name)
        self._by_heartbeat = {found.heartbeats.encode(): found for found in self._channels}
        wanted = [name for found in self._channels for name in (found.heartbeats, *found.invalidations)]
        subscription.subscribe(*wanted)
        confirmed = 0
        next_heartbeat_s = 0.0
        self._heartbeat_heard_s = self._clock_s()
        while not stop.is_set():
            now_s = self._clock_s()
            if confirmed >= len(wanted) and now_s >= next_heartbeat_s:
                self._ask(now_s)
                next_heartbeat_s = now_s + self._heartbeat_s
                if now_s - self._heartbeat_heard_s > max(DEAF_S, 4 * HEARTBEATS_PER_STALENESS * self._heartbeat_s):
                    raise redis.ConnectionError("heartbeats are asked for and never heard")
            message = subscription.get_message(timeout=max(0.001, min(self._heartbeat_s, next_heartbeat_s - now_s)))
            if message is None:
                continue
            if message["type"] == "message":
                self._take(message["channel"], message["data"])
            elif message["type"] == "subscribe":
                confirmed += 1

    def _ask(self, now_s: float) -> None:
        """Ask for heartbeats. The question carries the time of asking, so it need not be kept here. Copies that depend
        on a node that is away are not confirmed, and the others go on.
        """
        heard, lost = False, dict[RedisLink, Exception]()
        for found in self._channels:
            node = self._link.at(found.born)
            if node in lost:
                continue
            try:
                self._ask_node(found, now_s)
                heard = True
            except Outdated:
                self._identity.renew()
                raise
            except (*UNREACHABLE, redis.RedisError) as cause:
                lost[node] = cause
        if lost and not heard:
            raise next(iter(lost.values()))

    def _ask_node(self, found: Channels, now_s: float) -> None:
        """As for READ: where no token lives, copies are not confirmed before a look for flags has found none."""
        serving = self._serving(found.born)
        keys = [found.born, self._identity.name(found.born), serving.token, *found.numbers]
        arguments: list[Argument] = [self._identity.era, found.heartbeats, now_s.hex(), serving.serve_ms]
        unserved = self._link.run(self._heartbeat, keys, [*arguments, b""])
        if unserved is not None:
            self._heartbeat_heard_s = now_s  # It is answered, if only so.
            if serving.is_free():
                self._link.run(self._heartbeat, keys, [*arguments, unserved[0]])

    def _take(self, channel: bytes, said: bytes) -> None:
        found: Channels | None = self._by_heartbeat.get(channel)
        if found is None:
            number, name = said.decode().split(" ", 1)
            key = parse_entry_name(name, self._database, self._domains)
            if key is None:
                raise ValueError(f"not the name of an entry: {name:.100}")
            with self._lock:
                self._copies.heard(channel.decode(), int(number), key)
            return
        asked, incarnation, *numbers = said.decode().split(" ")
        self._heartbeat_heard_s = self._clock_s()
        with self._lock:
            for heard, number in zip(found.invalidations, numbers, strict=True):
                self._copies.confirmed(heard, float.fromhex(asked), incarnation, int(number))
