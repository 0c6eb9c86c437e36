"""The newest entries of a stream, without their payloads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import redis

from backtest_kit_mongo.coherence.events import Event, UnknownEvent, decode
from backtest_kit_mongo.feed.positions import EntryId

# Payloads may be megabytes, and XREVRANGE gives whole entries; the headers are all that leaves Redis.
_HEADERS = """
local heads = {}
for n, entry in ipairs(redis.call('XREVRANGE', KEYS[1], '+', ARGV[1], 'COUNT', ARGV[2])) do
  local head = ''
  for f = 1, #entry[2], 2 do
    if entry[2][f] == 'e' then head = entry[2][f + 1] end
  end
  heads[n] = { entry[1], head }
end
return heads
"""


def newest(
    client: redis.Redis, stream: str, *, count_max: int, since: EntryId | None = None
) -> Iterator[tuple[EntryId, Event | None]]:
    """The newest entries, newest first, none of them older than `since`. Events have an empty body; what this version
    cannot read is None.

    Raises:
        RedisError: Redis cannot be asked.
    """
    asked: Any = client
    for entry, head in asked.eval(_HEADERS, 1, stream, str(since or "-"), count_max):
        yield EntryId.parse(entry), _event(head)


def _event(head: bytes) -> Event | None:
    try:
        return decode({b"e": head, b"p": b""})
    except UnknownEvent:
        return None
