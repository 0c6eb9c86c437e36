"""Redis as the coherent cache and the change feed. The scripts in `lua/` are the protocol's steps; this file sends
them.

`RedisCache` holds whole documents (cache mode `document`). `RedisIdCache` keeps the npm package's `_id` keys up to date
and answers no read (cache mode `id`): Node processes write such a database without leases, so nothing but MongoDB can
be believed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.redis.counts import CacheCounts
from backtest_kit_mongo.backends.redis.entry import INCARNATION_CHARS, Tokens, parse_entry, record_header
from backtest_kit_mongo.backends.redis.link import UNREACHABLE, Argument, Link, Script
from backtest_kit_mongo.backends.redis.missed import Missed
from backtest_kit_mongo.backends.redis.safety import unsafe_reason
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.effects import (
    Abort,
    CacheDown,
    CacheRead,
    Commit,
    Defer,
    Fill,
    Lease,
    Leased,
    Publish,
    Published,
    Right,
)
from backtest_kit_mongo.coherence.events import Event, Origin
from backtest_kit_mongo.coherence.keys import Names, id_cache_name, names
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.errors import CorruptData, ServerUnreachable, UnsafeServer

logger = locks.logger(__name__)

Call = tuple[Script, tuple[str, ...], Iterable[Argument]]
"""A script, its keys and its arguments."""


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """What the cache needs to know of the settings. Times are milliseconds.

    Attributes:
        trace: the trace that the write at hand belongs to, as a W3C `traceparent`; empty for none.
    """

    database: str
    partitions: int
    lease_ms: int
    write_ms: int
    ttl_ms: int
    retry_ms: int
    bypass: bool
    origin: Origin
    trace: Callable[[], str] = str


class RedisCache:
    """The coherent cache of documents, and the feed. Thread-safe.

    While Redis cannot be reached it is bypassed: reads and writes go to MongoDB, and what the cache missed is kept.
    Before it is used again the entries of every key written meanwhile are deleted and the kept events are appended.

    Args:
        spot: a key on the server that this cache depends on, where keys are spread over several.
        counts: shared by the caches of one store.
    """

    def __init__(
        self,
        link: Link,
        options: CacheOptions,
        *,
        script: Callable[[str], Script] = Script,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        monotonic_s: Callable[[], float] = time.monotonic,
        spot: str = "",
        counts: CacheCounts | None = None,
    ) -> None:
        self._link = link
        self._spot = spot
        self._options = options
        self._wall_ms = wall_ms
        self._monotonic_s = monotonic_s
        self._tokens = Tokens()
        self._read, self._lease, self._commit, self._fill, self._relay = (
            script(name) for name in ("read", "lease", "commit", "fill", "relay")
        )
        self._lock = locks.Lock()
        self._retry_at_s: float | None = None
        self._missed = Missed(options.partitions if spot else 1)
        self.counts = counts if counts is not None else CacheCounts(monotonic_s)

    # -- availability

    def open(self) -> None:
        """Check that Redis answers and may be trusted with leases.

        Raises:
            UnsafeServer: its eviction policy may drop leases.
            ServerUnreachable: it cannot be reached and `on_redis_down` is `fail`.
        """
        try:
            memory = self._link.at(self._spot).execute("INFO", "MEMORY")
        except redis.AuthenticationError as cause:
            raise ServerUnreachable(f"Redis refused the credentials: {cause}") from cause
        except UNREACHABLE as cause:
            if not self._options.bypass:
                raise ServerUnreachable(
                    f"Redis cannot be reached and CC_ON_REDIS_DOWN is `fail`; nothing was written: {cause}"
                ) from cause
            self._went_down(cause)
            return
        if reason := unsafe_reason(memory):
            raise UnsafeServer(reason)

    def close(self) -> None:
        if self._missed:
            try:
                self._require_up()
            except CacheDown:
                logger.error(
                    "closing while Redis is away: %d changes were not announced; they are in MongoDB, and other hosts may serve older "
                    "entries of %d documents until those are written again or recovered",
                    len(self._missed.events), len(self._missed.keys),
                )  # fmt: skip
        self._link.close()

    @property
    def _is_down(self) -> bool:
        return self._retry_at_s is not None

    def _require_up(self) -> None:
        """Return if Redis may be used; otherwise try to come back, at most every `retry_ms`."""
        if not self._is_down:
            return
        if self._lock.is_mine:
            raise CacheDown  # A signal handler, in the middle of a delivery.
        with self._lock.quietly():
            retry_at_s = self._retry_at_s
            if retry_at_s is None:
                return
            if self._monotonic_s() < retry_at_s:
                raise CacheDown
            try:
                self._catch_up()
            except (*UNREACHABLE, redis.RedisError) as cause:
                logger.debug("Redis cannot be used yet: %s", cause)
                self._retry_at_s = self._monotonic_s() + self._options.retry_ms / 1000
                raise CacheDown from cause
            self._retry_at_s = None
            self.counts.came_back(self)
            logger.warning("Redis is back; everything it missed was delivered")

    def _went_down(self, cause: Exception) -> None:
        with self._lock.quietly():
            if self._retry_at_s is None:
                logger.warning("Redis cannot be reached, going on with MongoDB alone (slower, never wrong): %s", cause)
            self._retry_at_s = self._monotonic_s() + self._options.retry_ms / 1000
            self.counts.went_down(self)
            self._link.drop_idle()

    def _catch_up(self) -> None:
        """Deliver what was missed, under the lock: an entry that survived a bypassed write must go before any entry is
        read again.
        """
        self._missed.deliver(self._link, self._relay, self._names)
        if reason := unsafe_reason(self._link.at(self._spot).execute("INFO", "MEMORY")):
            raise redis.ResponseError(reason)

    def _attempt(self, build: Callable[[], Call]) -> Any:
        """Run a script; once more on a new connection if the first was dead. Each attempt is built anew, with a fresh
        token.

        Raises:
            CacheDown: Redis cannot be used; the script may or may not have been executed.
        """

        def send() -> Any:
            script, keys, arguments = build()
            return self._link.run(script, keys, list(arguments))

        return self._guarded(send)

    def _guarded(self, send: Callable[[], Any]) -> Any:
        """Whatever is wrong with Redis (away, read-only, full, short of replicas, a replica itself), it is bypassed: a
        write that MongoDB has acknowledged must not fail because of its cache.
        """
        self._require_up()
        try:
            try:
                return send()
            except redis.ConnectionError:
                # Most likely a pooled connection that the server closed long ago.
                self._link.drop_idle()
                return send()
        except (*UNREACHABLE, redis.RedisError) as cause:
            self._went_down(cause)
            raise CacheDown from cause

    def _names(self, key: Key) -> Names:
        return names(self._options.database, self._options.partitions, key.domain.name, key.parts)

    # -- writers

    def lease(self, effect: Lease) -> Leased | None:
        token, deadline_s = "", 0.0

        def build() -> Call:
            nonlocal token, deadline_s
            token = self._tokens.fresh()
            # Counted from before LEASE is sent, so it lies before the lease's own end on any clock.
            deadline_s = self._monotonic_s() + self._options.write_ms / 1000
            return (
                self._lease,
                self._names(effect.key),
                (token, self._options.lease_ms, self._options.ttl_ms, int(effect.want_prior)),
            )

        try:
            prior = self._attempt(build)
        except CacheDown as cause:
            return self._without_lease(cause)
        return Leased(token, deadline_s, None if prior is None else self._readable(effect.key, prior))

    def _readable(self, key: Key, entry: bytes) -> Record | None:
        """The entry as a record. One that cannot be read is as good as none: Redis is only a cache."""
        try:
            return parse_entry(key, entry)
        except CorruptData as cause:
            logger.error("%s", cause)
            return None

    def _without_lease(self, cause: CacheDown) -> Leased | None:
        if not self._options.bypass:
            raise ServerUnreachable(
                "Redis cannot be reached and CC_ON_REDIS_DOWN is `fail`; nothing was written"
            ) from cause
        return None

    def abort(self, effect: Abort) -> None:
        self._send([["ZREM", self._names(effect.key).leases, effect.token]])

    def commit(self, effect: Commit) -> None:
        def build() -> Call:
            head = (effect.token, self._options.ttl_ms, record_header(effect.entry), effect.body)
            return self._commit, self._names(effect.key), (*head, *self._event_arguments(effect.published, effect.body))

        installed, _ = self._attempt(build)
        if not installed:
            self.counts.lease_conflicts += 1

    def _event_arguments(self, published: Iterable[Published], shared: bytes) -> Iterator[bytes]:
        for change in published:
            event = self._event(change)
            yield event.header()
            yield b"" if event.body == shared else event.body

    def _event(self, change: Published) -> Event:
        record = change.record
        return Event(
            domain=record.key.domain.name,
            key=record.key.parts,
            document=record.id,
            rev=record.rev,
            operation=change.operation,
            when=record.when,
            written_ms=self._wall_ms(),
            origin=self._options.origin,
            body=change.body,
            trace=self._options.trace(),
        )

    def publish(self, effect: Publish) -> None:
        self._send([self._append_command(self._names(effect.scope).stream, change) for change in effect.published])

    def _append_command(self, stream: str, change: Published) -> list[Argument]:
        event = self._event(change)
        return ["XADD", stream, "*", "e", event.header(), "p", event.body]

    def _send(self, commands: list[list[Argument]]) -> None:
        self._guarded(lambda: self._link.execute_many(commands))

    def defer(self, effect: Defer) -> None:
        events = [
            # The stream that COMMIT would have used: a ledger's rows belong to the partition of their scope.
            (self._names(effect.keys[0] if effect.keys else change.record.key).stream, self._event(change))
            for change in effect.published
        ]
        is_delivering = self._lock.is_mine  # This is a signal handler; what was interrupted goes on delivering.
        with self._lock.quietly():
            self._missed.add(effect.keys, events)
            if self._retry_at_s is None and not is_delivering:
                # Redis came back, or failed only this once: the entry must be gone before this write returns.
                try:
                    self._catch_up()
                except (*UNREACHABLE, redis.RedisError):
                    self._retry_at_s = self._monotonic_s()
                    self.counts.went_down(self)

    # -- readers

    def read(self, effect: CacheRead) -> Record | Right:
        options, key_names = self._options, self._names(effect.key)

        def build() -> Call:
            return self._read, key_names[:4], (self._tokens.fresh(), options.lease_ms, options.ttl_ms)

        try:
            answer = self._attempt(build)
        except CacheDown:
            return Right("", is_bypass=True)
        if isinstance(answer, bytes):
            self.counts.saw(key_names.born, answer[:INCARNATION_CHARS])
            record = self._readable(effect.key, answer)
            if record is not None:
                return record
            with suppress(CacheDown):
                self._send([["DEL", key_names.entry]])
            return Right("")
        return Right(answer[0].decode())

    def fill(self, effect: Fill) -> None:
        record = effect.record
        body = pack(record.payload)

        def build() -> Call:
            return (
                self._fill,
                self._names(record.key)[:2],
                (effect.token, self._options.ttl_ms, record_header(record), body),
            )

        if not self._attempt(build):
            self.counts.fills_refused += 1


class RedisIdCache(RedisCache):
    """The npm package's own cache keys, written for its sake, and the feed."""

    def lease(self, effect: Lease) -> Leased | None:
        try:
            self._require_up()
        except CacheDown as cause:
            return self._without_lease(cause)
        return Leased("", self._monotonic_s() + self._options.write_ms / 1000)

    def abort(self, effect: Abort) -> None:
        return

    def commit(self, effect: Commit) -> None:
        stream = self._names(effect.key).stream
        commands = [self._append_command(stream, change) for change in effect.published]
        if effect.key.domain.cached:
            commands.append(["SET", id_cache_name(effect.key), effect.entry.id])
        if commands:
            self._send(commands)

    def read(self, effect: CacheRead) -> Record | Right:
        return Right("")

    def fill(self, effect: Fill) -> None:
        return
