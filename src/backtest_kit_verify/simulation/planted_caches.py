"""Caches and Redis servers with one rule removed each, for `planted.py`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from backtest_kit_mongo.backends.memory_cache import MemoryCache, MemoryRedis
from backtest_kit_mongo.coherence import effects as fx
from backtest_kit_mongo.coherence.record import Key, Record

# -- LEASE


class LeaseKeepsEntry(MemoryCache):
    def lease(self, effect: fx.Lease) -> fx.Leased | None:
        entry = self._redis.entries.get(effect.key)
        leased = super().lease(effect)
        if entry:
            self._redis.entries[effect.key] = entry
        return leased


class LeaseKeepsRight(MemoryCache):
    def lease(self, effect: fx.Lease) -> fx.Leased | None:
        right = self._redis.rights.get(effect.key)
        leased = super().lease(effect)
        if right:
            self._redis.rights[effect.key] = right
        return leased


class LeaseTakesRightBesideOthers(MemoryCache):
    def lease(self, effect: fx.Lease) -> fx.Leased | None:
        leased = super().lease(effect)
        if leased and self._see_open():
            self._redis.rights[effect.key] = (self._redis.incarnation, leased.token)
        return leased


class LeaseTakesRightBeforeOpen(MemoryCache):
    def lease(self, effect: fx.Lease) -> fx.Leased | None:
        with always_open(self._redis):
            return super().lease(effect)


# -- READ


class ReadIgnoresLeases(MemoryCache):
    def read(self, effect: fx.CacheRead) -> Record | fx.Right:
        leases = self._redis.leases
        self._redis.leases = {}
        try:
            return super().read(effect)
        finally:
            self._redis.leases = leases


class ReadGivesRightBeforeOpen(MemoryCache):
    def read(self, effect: fx.CacheRead) -> Record | fx.Right:
        with always_open(self._redis):
            return super().read(effect)


@contextmanager
def always_open(redis: MemoryRedis) -> Iterator[None]:
    """Let one script believe that this incarnation was first seen long ago; the birth is recorded as it should be."""
    is_born = redis.born is not None and redis.born[0] == redis.incarnation
    born = redis.born if is_born else (redis.incarnation, redis.now_ms)
    redis.born = (redis.incarnation, -(10**9))
    yield
    redis.born = born


class EntriesWithoutIncarnation(MemoryCache):
    def _entry(self, key: Key) -> Record | None:
        return self._redis.entries.get(key, (0, None))[1]


# -- COMMIT and FILL


class CommitWhenNoOtherLease(MemoryCache):
    """The first draft of the protocol, without comparing revisions."""

    def commit(self, effect: fx.Commit) -> None:
        super().commit(effect)
        if not self._leased(effect.key) and self._is_newer(effect):
            self._redis.entries[effect.key] = (self._redis.incarnation, effect.entry)

    def _is_newer(self, effect: fx.Commit) -> bool:
        return True


class CommitWhenNewest(CommitWhenNoOtherLease):
    """The first draft: it looks right, and fails without any fault."""

    def _is_newer(self, effect: fx.Commit) -> bool:
        entry = self._entry(effect.key)
        return entry is None or entry.rev < effect.entry.rev


class CommitKeepsEarlyEntry(MemoryCache):
    """COMMIT installs nothing without a lease, and leaves what somebody else has cached meanwhile."""

    def commit(self, effect: fx.Commit) -> None:
        redis, key = self._redis, effect.key
        entries, rights = dict(redis.entries), dict(redis.rights)
        was_leased = effect.token in redis.leases.get(key, {})
        super().commit(effect)
        if not was_leased:
            redis.entries, redis.rights = entries, rights


class RightOfAnyIncarnation(MemoryCache):
    """COMMIT and FILL compare the token alone."""

    def _install(self, key: Key, token: str, record: Record) -> bool:
        if self._redis.rights.get(key, (0, ""))[1] == token:
            self._redis.rights[key] = (self._redis.incarnation, token)
        return super()._install(key, token, record)


class FillWithoutRight(MemoryCache):
    def fill(self, effect: fx.Fill) -> None:
        self._redis.rights[effect.record.key] = (self._redis.incarnation, effect.token)
        super().fill(effect)


# -- bypass


class DeferKeepsEntry(MemoryCache):
    def defer(self, effect: fx.Defer) -> None:
        entries = dict(self._redis.entries)
        super().defer(effect)
        self._redis.entries.update(entries)


class DeferKeepsRight(MemoryCache):
    def defer(self, effect: fx.Defer) -> None:
        rights = dict(self._redis.rights)
        super().defer(effect)
        self._redis.rights.update(rights)


# -- Redis itself


class IncarnationReused(MemoryRedis):
    def restart(self) -> None:
        return


class RestoreBeginsNoEra(MemoryRedis):
    def begin_era(self) -> None:
        return


class EntriesOutliveTheirEra(MemoryRedis):
    """READ compares the memory and not the era."""

    def begin_era(self) -> None:
        before = self.incarnation
        super().begin_era()
        for key, (stamp, record) in self.entries.items():
            self.entries[key] = (self.incarnation if stamp == before else stamp, record)


class RightsOutliveTheirEra(MemoryRedis):
    """COMMIT and FILL compare the memory and not the era."""

    def begin_era(self) -> None:
        before = self.incarnation
        super().begin_era()
        for key, (stamp, token) in self.rights.items():
            self.rights[key] = (self.incarnation if stamp == before else stamp, token)


class FlushKeepsBirth(MemoryRedis):
    def flush(self) -> None:
        born = self.born
        super().flush()
        self.born = born
