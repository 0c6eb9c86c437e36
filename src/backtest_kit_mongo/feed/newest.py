"""The newest entries of a stream, without their payloads; and those after an entry, of chosen domains only."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any, Final

import redis

from backtest_kit_mongo.coherence.events import Event, UnknownEvent, decode
from backtest_kit_mongo.feed.positions import EntryId, text

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
# What is not asked for never leaves Redis: others write megabytes of candles and logs.
_OF_DOMAINS = """
local found, last, seen, size = {}, ARGV[1], 0, 0
while seen < tonumber(ARGV[2]) and size < tonumber(ARGV[3]) do
  local page = redis.call('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', size < 65536 * seen and 64 or 1)
  if #page == 0 then return { last, found, 0 } end
  for _, entry in ipairs(page) do
    local head, body = '', ''
    for f = 1, #entry[2], 2 do
      size = size + #entry[2][f + 1]
      if entry[2][f] == 'e' then head = entry[2][f + 1] elseif entry[2][f] == 'p' then body = entry[2][f + 1] end
    end
    for d = 4, #ARGV do
      if string.find(head, ARGV[d], 1, true) then
        found[#found + 1] = { head, body }
        break
      end
    end
    last, seen = entry[1], seen + 1
  end
end
return { last, found, 1 }
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


def after(
    client: redis.Redis, stream: str, last: str, domains: Collection[str], *, count_max: int = 5_000
) -> tuple[str, list[Event], bool]:
    """Events of some domains that were appended after an entry; what cannot be read is left out.

    Args:
        last: id of the entry.
        count_max: entries looked at, of all domains; not many more than `BYTES_MAX` of them.

    Returns:
        The last entry that was looked at, the events in their order, and whether there may be more.

    Raises:
        RedisError: Redis cannot be asked.
    """
    asked: Any = client
    where, found, more = asked.eval(_OF_DOMAINS, 1, stream, last, count_max, BYTES_MAX, *domains)
    events = []
    for head, body in found:
        with suppress(UnknownEvent):
            event = decode({b"e": head, b"p": body})
            if event.domain in domains:  # Its name may stand in another's key.
                events.append(event)
    return text(where), events, bool(more)


def _event(head: bytes) -> Event | None:
    try:
        return decode({b"e": head, b"p": b""})
    except UnknownEvent:
        return None
