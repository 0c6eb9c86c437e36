"""The newest entries of a stream, without their payloads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import redis

from backtest_kit_mongo.coherence.events import Event, UnknownEvent, decode
from backtest_kit_mongo.feed.positions import EntryId

# Payloads may be megabytes, and XREVRANGE gives whole entries; the headers are all that leaves Redis. Large entries are
# looked at one by one: what a script was given stays in Redis' memory until it ends.
_HEADERS = """
local count_max, bytes_max = tonumber(ARGV[2]), tonumber(ARGV[3])
local heads, last, size = {}, '+', 0
while #heads < count_max and size < bytes_max do
  local count = size < 65536 * #heads and 64 or 1
  local page = redis.call('XREVRANGE', KEYS[1], last, ARGV[1], 'COUNT', math.min(count, count_max - #heads))
  if #page == 0 then break end
  for _, entry in ipairs(page) do
    local head = ''
    for f = 1, #entry[2], 2 do
      size = size + #entry[2][f + 1]
      if entry[2][f] == 'e' then head = entry[2][f + 1] end
    end
    heads[#heads + 1] = { entry[1], head }
    last = '(' .. entry[1]
  end
end
return heads
"""
BYTES_MAX: Final = 8 << 20
"""Of entries that an examination looks at: a blink of Redis' time."""


def newest(
    client: redis.Redis, stream: str, *, count_max: int, since: EntryId | None = None, bytes_max: int | None = None
) -> Iterator[tuple[EntryId, Event | None]]:
    """The newest entries, newest first, none of them older than `since`. Events have an empty body; what this version
    cannot read is None.

    Args:
        bytes_max: not many more than so many bytes of entries are looked at; None: all of `count_max`.

    Raises:
        RedisError: Redis cannot be asked.
    """
    asked: Any = client
    for entry, head in asked.eval(_HEADERS, 1, stream, str(since or "-"), count_max, bytes_max or 2**53):
        yield EntryId.parse(entry), _event(head)


def _event(head: bytes) -> Event | None:
    try:
        return decode({b"e": head, b"p": b""})
    except UnknownEvent:
        return None
