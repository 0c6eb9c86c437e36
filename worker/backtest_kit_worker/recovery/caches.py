"""Cache entries that a change made stale. Writers keep the cache right by themselves; this is for writes that went past
it: made in bypass, or by a foreign writer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

import redis

from backtest_kit_mongo.backends.redis.cluster import link_over
from backtest_kit_mongo.backends.redis.link import Script
from backtest_kit_mongo.backends.redis.relay import relay
from backtest_kit_mongo.coherence.keys import Names, entry_pattern, names, parse_entry_name
from backtest_kit_mongo.coherence.record import Domain, Key

Relay: TypeAlias = Callable[[Sequence[tuple[Names, int | None]]], None]
"""Make the cache forget what it holds under these names, if that is older than a revision (None: in any case)."""
_REV_START: Final = 40
_REV_END: Final = 55
"""Where an entry holds its revision, in 16 hexadecimal digits; see `backends/redis/entry.py` of the package."""


class Caches:
    """The shared cache of one database, and through it the near caches.

    Args:
        send: by default the protocol's RELAY.
    """

    def __init__(self, client: redis.Redis, database: str, partitions: int, send: Relay | None = None) -> None:
        self._redis: Any = client
        self._database = database
        self._partitions = partitions
        self._send = send or partial(relay, link_over(client), Script("relay"))
        self.relayed_count = 0

    def names(self, key: Key) -> Names:
        """Redis keys of a document or scope."""
        return names(self._database, self._partitions, key.domain.name, key.parts)

    def relay(self, changes: Sequence[tuple[Key, int | None]]) -> None:
        """Forget entries older than these revisions (None: in any case)."""
        if changes:
            self._send([(self.names(key), rev) for key, rev in dict.fromkeys(changes)])
            self.relayed_count += len(changes)

    def relay_older(self, changes: Sequence[tuple[Key, int]]) -> None:
        """Relay those whose entry is older than the revision, and leave the others' rights to install in peace. In
        normal operation there is nothing to relay: the writer's lease deleted the entry before MongoDB was asked.
        """
        if not changes:
            return
        pipeline = self._redis.pipeline(transaction=False)
        for key, _ in changes:
            pipeline.getrange(self.names(key).entry, _REV_START, _REV_END)
        held = pipeline.execute()
        self.relay([(key, rev) for (key, rev), old in zip(changes, held, strict=True) if old and old < b"%016x" % rev])

    def relay_domain(self, domain: Domain) -> None:
        """Forget every entry of a domain."""
        found = self._redis.scan_iter(match=entry_pattern(self._database), count=1_000)
        keys = [parse_entry_name(name.decode(), self._database, {domain.name: domain}) for name in found]
        self.relay([(key, None) for key in keys if key is not None])
