"""The cache's scripts as plain Python: the model that the Lua scripts are compared with, and the cache of unit tests.

One object is one Redis. `restart` and `flush` do to it what faults do; time is a parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from backtest_kit_mongo.coherence.effects import (
    Abort,
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
from backtest_kit_mongo.coherence.invariants import require
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.coherence.steps import AbortAll, CommitAll, LeaseAll, lease_ms_of
from backtest_kit_mongo.ports import Cache


@dataclass(slots=True)
class MemoryRedis:
    """What one Redis holds. `now_ms` is its own clock.

    Attributes:
        incarnation: of the cache: raised by whatever ends the memory or the era, and so never reused.
        era: of the database, as far as this Redis knows; a client that believes in another one is refused.
        numbers: counts the invalidations of each domain.
        listeners: hear them, as (number, key).
    """

    incarnation: int = 1
    era: int = 0
    entries: dict[Key, tuple[int, Record]] = field(default_factory=dict)
    rights: dict[Key, tuple[int, str]] = field(default_factory=dict)
    leases: dict[Key, dict[str, int]] = field(default_factory=dict)
    born: tuple[int, int] | None = None
    stream: list[Published] = field(default_factory=list)
    now_ms: int = 0
    numbers: dict[str, int] = field(default_factory=dict)
    listeners: list[Callable[[int, Key], None]] = field(default_factory=list)

    def invalidate(self, key: Key) -> None:
        number = self.numbers[key.domain.name] = self.numbers.get(key.domain.name, 0) + 1
        for hear in self.listeners:
            hear(number, key)

    def restart(self) -> None:
        """A new incarnation; what it still holds is what the fault left."""
        self.incarnation += 1

    def begin_era(self) -> None:
        """The database is not what it was: nothing that is held here says anything of it any more."""
        self.incarnation += 1
        self.era += 1

    def flush(self) -> None:
        self.entries.clear()
        self.rights.clear()
        self.leases.clear()
        self.stream.clear()
        self.numbers.clear()
        self.born = None

    def check(self) -> None:
        """The invariants that can be seen from Redis alone.

        Raises:
            InvariantViolation: one of I8, I9, I10 does not hold.
        """
        stamps = [stamp for stamp, _ in (*self.entries.values(), *self.rights.values())]
        require("I8", all(stamp <= self.incarnation for stamp in stamps), f"{stamps} at {self.incarnation}")
        if self.incarnation in stamps:
            born = self.born is not None and self.born[0] == self.incarnation
            require("I10", born, f"incarnation {self.incarnation} was never seen")


class Outdated(Exception):
    """The client believes in another era of the database than this Redis is in. Nothing was done."""


class MemoryCache(Cache):
    """One client of a `MemoryRedis`.

    Attributes:
        era: the one that it believes in; None: whatever this Redis is in.

    Args:
        tokens: fresh tokens, for example a counter.
        lease_ms: T of the protocol.
        write_ms: how long after LEASE the truth may still commit; less than `lease_ms`.
        open_ms: how long a new incarnation stays closed, and the longest that any lease lasts; by default `lease_ms`.
    """

    def __init__(
        self, redis: MemoryRedis, tokens: Iterator[str], lease_ms: int, write_ms: int, open_ms: int | None = None
    ) -> None:
        self._redis = redis
        self._tokens = tokens
        self._lease_ms = lease_ms
        self._write_ms = write_ms
        self._open_ms = lease_ms if open_ms is None else open_ms
        self.era: int | None = None

    def open(self) -> None:
        return

    def confirm(self) -> None:
        return

    def close(self) -> None:
        return

    def _confirm(self) -> None:
        if self.era is not None and self.era != self._redis.era:
            raise Outdated

    def _see_open(self) -> bool:
        redis = self._redis
        if redis.born is None or redis.born[0] != redis.incarnation or redis.born[1] > redis.now_ms:
            redis.born = (redis.incarnation, redis.now_ms)
            return False
        return redis.now_ms - redis.born[1] > self._open_ms

    def heartbeat(self, domain: str) -> tuple[str, int]:
        """The identity of this Redis, which FLUSHALL changes too, and the number that a domain's invalidations
        reached.
        """
        self._confirm()
        self._see_open()
        return str(self._redis.born), self._redis.numbers.get(domain, 0)

    def _leased(self, key: Key) -> bool:
        now_ms = self._redis.now_ms
        last_ms = now_ms + self._open_ms
        held = self._redis.leases.get(key, {})
        alive = {token: min(end_ms, last_ms) for token, end_ms in held.items() if end_ms >= now_ms}
        self._redis.leases[key] = alive
        return bool(alive)

    def _entry(self, key: Key) -> Record | None:
        stamp, record = self._redis.entries.get(key, (0, Record(key)))
        return record if stamp == self._redis.incarnation else None

    def _install(self, key: Key, token: str, record: Record) -> bool:
        if self._redis.rights.get(key) != (self._redis.incarnation, token):
            return False
        self._redis.entries[key] = (self._redis.incarnation, record)
        del self._redis.rights[key]
        self._redis.check()
        return True

    def lease(self, effect: Lease) -> Leased | None:
        self._confirm()
        token = next(self._tokens)
        prior = self._entry(effect.key) if effect.want_prior else None
        self._lease_key(effect.key, token, self._lease_ms)
        return Leased(token, (self._redis.now_ms + self._write_ms) / 1000, prior)

    def partition_of(self, key: Key) -> str:
        return ""

    def lease_all(self, effect: LeaseAll) -> Leased | None:
        self._confirm()
        token = next(self._tokens)
        for key in effect.keys:
            self._lease_key(key, token, lease_ms_of(self._lease_ms, self._write_ms, effect.lifetime_ms))
        return Leased(token, (self._redis.now_ms + self._write_ms / 2) / 1000)

    def _lease_key(self, key: Key, token: str, lease_ms: int) -> None:
        redis = self._redis
        is_open = self._see_open()
        sole = not self._leased(key)
        redis.leases[key][token] = redis.now_ms + lease_ms
        redis.entries.pop(key, None)
        redis.invalidate(key)
        if sole and is_open:
            redis.rights[key] = (redis.incarnation, token)
        else:
            redis.rights.pop(key, None)
        redis.check()

    def abort(self, effect: Abort) -> None:
        self._redis.leases.get(effect.key, {}).pop(effect.token, None)

    def abort_all(self, effect: AbortAll) -> None:
        for key in effect.keys:
            self.abort(Abort(key, effect.token))

    def commit(self, effect: Commit) -> None:
        self._confirm()
        self._commit_key(effect.key, effect.token, effect.entry, effect.published)

    def commit_all(self, effect: CommitAll) -> None:
        self._confirm()
        for one in effect.done:
            self._commit_key(one.key, effect.token, one.entry, one.published)

    def _commit_key(self, key: Key, token: str, entry: Record | None, published: Iterable[Published]) -> None:
        alive = self._redis.leases.get(key, {}).pop(token, None) is not None
        if not alive:
            self._redis.entries.pop(key, None)
            self._redis.rights.pop(key, None)
            self._redis.invalidate(key)
        elif entry is not None:
            self._install(key, token, entry)
        self._redis.stream.extend(published)

    def publish(self, effect: Publish) -> None:
        self._redis.stream.extend(effect.published)

    def defer(self, effect: Defer) -> None:
        for key in effect.keys:
            self.relay(key)
        self._redis.stream.extend(effect.published)

    def relay(self, key: Key, rev: int | None = None) -> None:
        """A change was seen in MongoDB's own log, or was made past Redis; None: whatever the entry's revision is."""
        record = self._redis.entries.get(key, (0, Record(key)))[1]
        if rev is None or record.rev < rev:
            self._redis.entries.pop(key, None)
        self._redis.rights.pop(key, None)
        self._redis.invalidate(key)

    def read(self, effect: CacheRead) -> Record | Right:
        self._confirm()
        key = effect.key
        found = self._entry(key)
        if found is not None:
            return found
        is_open = self._see_open()
        if self._leased(key) or not is_open:
            return Right("")
        stamp, token = self._redis.rights.get(key, (0, ""))
        if stamp != self._redis.incarnation:
            token = next(self._tokens)
            self._redis.rights[key] = (self._redis.incarnation, token)
            self._redis.check()
        return Right(token)

    def fill(self, effect: Fill) -> None:
        self._confirm()
        self._install(effect.record.key, effect.token, effect.record)


def counter(prefix: str = "t") -> Iterator[str]:
    """Tokens t1, t2, ...: unique in one test."""
    number = 0
    while True:
        number += 1
        yield f"{prefix}{number}"
