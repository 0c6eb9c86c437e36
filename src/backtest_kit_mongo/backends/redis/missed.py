"""What a Redis that is away misses, kept in order until it can be delivered. Not thread-safe: its owner has the
lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import redis

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.redis.link import Link, Script
from backtest_kit_mongo.backends.redis.relay import RELAY_MAX
from backtest_kit_mongo.backends.redis.relay import relay as send_relay
from backtest_kit_mongo.coherence.events import Event
from backtest_kit_mongo.coherence.keys import Names, account_name
from backtest_kit_mongo.coherence.record import Key

logger = locks.logger(__name__)

DEFERRED_EVENTS_MAX = 100_000
DEFERRED_BYTES_MAX = 256 * 1024 * 1024
"""Events kept for a Redis that is away. Beyond either bound the oldest are dropped, and said so: their values are in
MongoDB."""
CATCH_UP_MAX = 500
CATCH_UP_BYTES = 1024 * 1024
"""What is delivered in one packet, so that it stays within the command's time bound."""


class Missed:
    """Keys whose entries must go, and events that must be appended, before the cache is used again.

    Args:
        shares: how many of these share the bounds.
    """

    def __init__(self, shares: int = 1) -> None:
        self._events_max = DEFERRED_EVENTS_MAX // shares
        self._bytes_max = DEFERRED_BYTES_MAX // shares
        self.keys: dict[Key, None] = {}
        self.events: list[tuple[str, Event]] = []
        self._bytes = 0
        self._dropped_count = 0

    def __bool__(self) -> bool:
        return bool(self.keys or self.events)

    def add(self, keys: Iterable[Key], events: Iterable[tuple[str, Event]]) -> None:
        """Keep these; the oldest events go if there are too many."""
        self.keys.update(dict.fromkeys(keys))
        for stream, event in events:
            self.events.append((stream, event))
            self._bytes += len(event.body)
        dropped = 0
        was_dropping = self._dropped_count > 0
        while self.events and (len(self.events) - dropped > self._events_max or self._bytes > self._bytes_max):
            self._bytes -= len(self.events[dropped][1].body)
            dropped += 1
        if dropped:
            del self.events[:dropped]
            self._dropped_count += dropped
            if not was_dropping:
                logger.error(
                    "Redis has been away, or its feed full, for too long: the oldest kept change events are dropped; "
                    "a worker finds their changes in MongoDB"
                )

    def deliver(
        self, link: Link, relay: Script, publish: Script, names_of: Callable[[Key], Names], streams_count: int
    ) -> None:
        """Delete the entries and rights, then append the events. What was delivered is forgotten at once, so a failure
        in between repeats one packet at most, which consumers distinguish by its revisions.

        Raises:
            NoRoom: the feed takes no more of them now.
            redis.RedisError, OSError: Redis cannot be used.
        """
        while self.keys:
            keys = list(self.keys)[:RELAY_MAX]
            send_relay(link, relay, [(names_of(key), None) for key in keys])
            for key in keys:
                self.keys.pop(key, None)
        while self.events:
            stream = self.events[0][0]
            count, size = 0, 0
            while (
                count < min(CATCH_UP_MAX, len(self.events))
                and size < CATCH_UP_BYTES
                and self.events[count][0] == stream
            ):
                size += len(self.events[count][1].body)
                count += 1
            if not append(link, publish, stream, [event for _, event in self.events[:count]], streams_count):
                raise NoRoom("the change feed has no room in Redis")
            del self.events[:count]
            self._bytes -= size
        if self._dropped_count:
            logger.error("%d kept change events were dropped in all", self._dropped_count)
            self._dropped_count = 0


def append(link: Link, publish: Script, stream: str, events: Sequence[Event], streams_count: int) -> bool:
    """Append events of one stream, all or none of them; False if the feed has no room for them.

    Raises:
        redis.RedisError, OSError: Redis cannot be used; any of them may have been appended.
    """
    parts = [part for event in events for part in (event.header(), event.body)]
    return bool(link.run(publish, [stream, account_name(stream)], [streams_count, *parts]))


class NoRoom(redis.ResponseError):
    """The feed takes no events now. Nothing was appended."""
