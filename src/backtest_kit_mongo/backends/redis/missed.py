"""What a Redis that is away misses, kept in order until it can be delivered. Not thread-safe: its owner has the
lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.redis.link import Link, Script
from backtest_kit_mongo.backends.redis.relay import RELAY_MAX
from backtest_kit_mongo.backends.redis.relay import relay as send_relay
from backtest_kit_mongo.coherence.events import Event
from backtest_kit_mongo.coherence.keys import Names
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

    def __bool__(self) -> bool:
        return bool(self.keys or self.events)

    def add(self, keys: Iterable[Key], events: Iterable[tuple[str, Event]]) -> None:
        """Keep these; the oldest events go if there are too many."""
        self.keys.update(dict.fromkeys(keys))
        for stream, event in events:
            self.events.append((stream, event))
            self._bytes += len(event.body)
        dropped = 0
        while self.events and (len(self.events) - dropped > self._events_max or self._bytes > self._bytes_max):
            self._bytes -= len(self.events[dropped][1].body)
            dropped += 1
        if dropped:
            del self.events[:dropped]
            logger.error("Redis has been away too long: the oldest %d kept change events are dropped", dropped)

    def deliver(self, link: Link, relay: Script, names_of: Callable[[Key], Names]) -> None:
        """Delete the entries and rights, then append the events. What was delivered is forgotten at once, so a failure
        in between repeats one packet at most, which consumers distinguish by its revisions.
        """
        while self.keys:
            keys = list(self.keys)[:RELAY_MAX]
            send_relay(link, relay, [(names_of(key), None) for key in keys])
            for key in keys:
                self.keys.pop(key, None)
        while self.events:
            count, size = 0, 0
            while count < min(CATCH_UP_MAX, len(self.events)) and size < CATCH_UP_BYTES:
                size += len(self.events[count][1].body)
                count += 1
            events = self.events[:count]
            link.execute_many([["XADD", stream, "*", "e", event.header(), "p", event.body] for stream, event in events])
            del self.events[:count]
            self._bytes -= size
