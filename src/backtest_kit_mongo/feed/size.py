"""How much memory the feed has in Redis, and how much it may have."""

from __future__ import annotations

from typing import Any, Final

import redis

from backtest_kit_mongo.backends.redis.cluster import link_over, servers_of
from backtest_kit_mongo.backends.redis.link import Script
from backtest_kit_mongo.coherence.keys import account_name

SHARE: Final = 0.5
"""Of maxmemory, what the streams of one server may have together unless CC_STREAM_MAX_BYTES says otherwise. The rest is
for leases, entries and what is written while a trim is on its way.
"""
LEFT: Final = 0.9
"""Of what a stream may have, what a trim leaves, so that the next is not due at once."""
UNBOUNDED: Final = 0
_SIZE: Final = Script("size")


def bytes_max(client: redis.Redis, streams_count: int, chosen: int) -> int:
    """What one stream may have in memory; `UNBOUNDED` if neither a setting nor maxmemory says.

    Args:
        chosen: CC_STREAM_MAX_BYTES, for all streams together; 0: half of maxmemory.

    Raises:
        RedisError: Redis cannot be asked.
    """
    if chosen:
        return max(1, chosen // streams_count)
    servers: Any = servers_of(client)
    limits = [int(server.info("memory").get("maxmemory", 0)) for server in servers]
    # In a cluster each server holds some of the streams; at worst, for this purpose, all of them.
    lowest = min(limits, default=0)
    return int(SHARE * lowest) // streams_count if lowest else UNBOUNDED


def stream_bytes(client: redis.Redis, stream: str) -> int:
    """Memory of a stream; 0 if there is none, or if this user may not ask.

    Raises:
        RedisError: Redis cannot be asked.
    """
    asked: Any = client
    try:
        return int(asked.memory_usage(stream, samples=0) or 0)
    except redis.exceptions.NoPermissionError:
        return 0


def measure(client: redis.Redis, stream: str, streams_count: int, chosen: int) -> tuple[int, int]:
    """Measure a stream, and tell its account, by which writers go; returns what it has, and up to what they append
    events.
    0: there is no bound.

    Raises:
        RedisError: Redis cannot be asked, or this user may not.
    """
    held, full = link_over(client).run(_SIZE, [stream, account_name(stream)], [streams_count, chosen])
    return int(held), int(full)


def excess(client: redis.Redis, stream: str, most: int) -> int:
    """By how many bytes a stream should be made smaller; 0 while it has no more than it may."""
    if most == UNBOUNDED:
        return 0
    held = stream_bytes(client, stream)
    return int(held - LEFT * most) if held > most else 0
