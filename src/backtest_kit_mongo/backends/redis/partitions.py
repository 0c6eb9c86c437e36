"""The cache over a cluster: each partition is bypassed by itself.

A node that fails takes its partitions' incarnation with it, so what was written past it is in no entry that can be read
later. The entries on the other nodes stay valid; a write past those would leave old entries for others to read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from backtest_kit_mongo.backends.redis.cache import RedisCache
from backtest_kit_mongo.backends.redis.counts import CacheCounts
from backtest_kit_mongo.backends.redis.identity import Identity
from backtest_kit_mongo.backends.redis.passing import Serving
from backtest_kit_mongo.backends.redis.reach import Keeper, Reach
from backtest_kit_mongo.coherence.effects import Abort, CacheRead, Commit, Defer, Fill, Lease, Leased, Publish, Right
from backtest_kit_mongo.coherence.keys import names, streams
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.coherence.steps import AbortAll, CommitAll, LeaseAll
from backtest_kit_mongo.ports import CacheFigures


class PartitionedCache:
    """One `RedisCache` a partition, behind the same methods. Thread-safe.

    Args:
        make: the cache of the partition with this stream.
        counts: of all of them together.
    """

    def __init__(
        self, database: str, identity: Identity, make: Callable[[str], RedisCache], counts: CacheCounts, retry_s: float
    ) -> None:
        self._database = database
        self._identity = identity
        self._make = make
        self._parts: dict[str, RedisCache] = {}
        self._keeper = Keeper(identity, retry_s)
        self.counts = counts

    @property
    def reaches(self) -> list[Reach]:
        return [part.reaches[0] for part in list(self._parts.values())]

    def _part(self, stream: str) -> RedisCache:
        # Also of partitions that came with another process's settings. Two threads may make one at once; one is kept.
        found = self._parts.get(stream)
        return found if found is not None else self._parts.setdefault(stream, self._make(stream))

    def _of(self, key: Key) -> RedisCache:
        return self._part(names(self._database, self._identity.partitions, key.domain.name, key.parts).stream)

    def open(self) -> None:
        self._identity.start()
        parts = [self._part(stream) for stream in streams(self._database, self._identity.partitions)]
        for part in parts:
            part.connect()
        if not all(part.reaches[0].is_down for part in parts):
            parts[0].connect(self._identity.renew)
        self._keeper.start(self)

    def confirm(self) -> None:
        for part in list(self._parts.values())[:1]:
            part.confirm()

    def close(self) -> None:
        self._keeper.stop()
        for part in list(self._parts.values()):
            part.close()

    def lease(self, effect: Lease) -> Leased | None:
        return self._of(effect.key).lease(effect)

    def abort(self, effect: Abort) -> None:
        self._of(effect.key).abort(effect)

    def commit(self, effect: Commit) -> None:
        self._of(effect.key).commit(effect)

    def publish(self, effect: Publish) -> None:
        self._of(effect.scope).publish(effect)

    def defer(self, effect: Defer) -> None:
        """What was missed belongs to the partitions of its keys; rows without one, to their own."""
        for part, keys in self._by_part(effect.keys).items():
            part.defer(Defer(keys, effect.published if effect.keys[0] in keys else (), effect.leased_until_s))
        if not effect.keys:
            for change in effect.published:
                self._of(change.record.key).defer(Defer((), (change,)))

    def _by_part(self, keys: Iterable[Key]) -> dict[RedisCache, tuple[Key, ...]]:
        found: dict[RedisCache, tuple[Key, ...]] = {}
        for key in keys:
            part = self._of(key)
            found[part] = (*found.get(part, ()), key)
        return found

    def read(self, effect: CacheRead) -> Record | Right:
        return self._of(effect.key).read(effect)

    def fill(self, effect: Fill) -> None:
        self._of(effect.record.key).fill(effect)

    def figures(self) -> CacheFigures:
        return self.counts.figures()

    def serving(self, born: str) -> Serving:
        return self._part(f"{born[:-1]}s").serving(born)

    def partition_of(self, key: Key) -> str:
        return names(self._database, self._identity.partitions, key.domain.name, key.parts).stream

    def lease_all(self, effect: LeaseAll) -> Leased | None:
        return self._of(effect.keys[0]).lease_all(effect)

    def abort_all(self, effect: AbortAll) -> None:
        self._of(effect.keys[0]).abort_all(effect)

    def commit_all(self, effect: CommitAll) -> None:
        self._of(effect.keys[0]).commit_all(effect)
