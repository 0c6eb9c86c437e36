"""What is asked of streams by scripts: entries by the bytes that they hold, not by their number, and what a stream
holds without the payloads, of which one may have 15 MB. Each script asks for a few entries at a time, so it goes over
its bound by those few at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import redis

Entry: TypeAlias = tuple[str, Mapping[bytes, bytes] | None]
"""An entry's id and its fields; None if it was trimmed while it was pending."""
BYTES_MAX: Final = 8 * 1024 * 1024
"""What is taken from a stream at once; an entry that is larger comes alone."""

_SIZE: Final = """
local function size_of(entry)
  local size = 0
  for _, part in ipairs(entry[2] or {}) do size = size + #part end
  return size
end
"""
READ: Final = (
    _SIZE
    + """
-- KEYS stream   ARGV group consumer from count bytes.   Returns entries, and whether there may be more.
local found, size, step, from, left = {}, 0, 1, ARGV[3], tonumber(ARGV[4])
while left > 0 and size < tonumber(ARGV[5]) do
  step = math.min(step, left)
  local answer = redis.pcall('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', step, 'STREAMS', KEYS[1], from)
  if answer and answer.err then return answer end
  local entries = answer and answer[1] and answer[1][2] or {}
  for _, entry in ipairs(entries) do
    found[#found + 1] = entry
    size = size + size_of(entry)
    if from ~= '>' then from = entry[1] end
  end
  if #entries < step then return { found, 0 } end
  left, step = left - step, math.min(2 * step, 8)
end
return { found, 1 }
"""
)
CLAIM: Final = (
    _SIZE
    + """
-- KEYS stream   ARGV group consumer idle-ms cursor count bytes.
-- Returns where to go on, entries, ids that are trimmed, whether others are.
local found, gone, holes, size, cursor = {}, {}, 0, 0, ARGV[4]
repeat
  local answer = redis.pcall('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], cursor, 'COUNT', 8)
  if answer.err then return answer end
  cursor = answer[1]
  for _, entry in ipairs(answer[2]) do
    if entry and entry[2] then
      found[#found + 1] = entry
      size = size + size_of(entry)
    else
      holes = 1
    end
  end
  for _, id in ipairs(answer[3] or {}) do gone[#gone + 1] = id end
until cursor == '0-0' or #found >= tonumber(ARGV[5]) or size >= tonumber(ARGV[6])
return { cursor, found, gone, holes }
"""
)
HEADS: Final = (
    _SIZE
    + """
-- KEYS stream   ARGV from before count.   Returns id, header and size of each entry.
local heads, from = {}, ARGV[1]
while #heads < tonumber(ARGV[3]) do
  local step = math.min(8, ARGV[3] - #heads)
  local entries = redis.call('XRANGE', KEYS[1], from, ARGV[2], 'COUNT', step)
  for _, entry in ipairs(entries) do
    local head = ''
    for f = 1, #entry[2], 2 do
      if entry[2][f] == 'e' then head = entry[2][f + 1] end
    end
    heads[#heads + 1] = { entry[1], head, size_of(entry) }
    from = '(' .. entry[1]
  end
  if #entries < step then break end
end
return heads
"""
)
INFO: Final = """
-- KEYS stream
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if info.err then return info end
local about = {}
for n = 1, #info, 2 do about[info[n]] = info[n + 1] end
local first, last = about['first-entry'], about['last-entry']
return { about['length'], about['last-generated-id'], first and first[1] or '', last and last[1] or '',
  about['entries-added'] or -1 }
"""
ENSURE: Final = """
-- KEYS stream   ARGV group id.
-- Acknowledging nothing is a first write that needs no memory; after it a full Redis lets the group be made,
-- without which nothing could ever be read and trimmed.
redis.call('XACK', KEYS[1], ARGV[1], '0-1')
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[2], 'MKSTREAM')
return made
"""
REMOVE_IDLE: Final = """
-- KEYS stream   ARGV group idle-ms only.
-- Atomic: a consumer that took entries between a look and the removal would lose them for good.
local removed = {}
local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if consumers.err then return consumers end
for _, fields in ipairs(consumers) do
  local about = {}
  for n = 1, #fields, 2 do about[fields[n]] = fields[n + 1] end
  if about.pending == 0 and about.idle >= tonumber(ARGV[2]) and (ARGV[3] == '' or ARGV[3] == about.name) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], about.name)
    removed[#removed + 1] = about.name
  end
end
return removed
"""


RENEW: Final = (
    _SIZE
    + """
-- KEYS stream   ARGV count bytes.   Make a stream anew whose ids have left the clock: what it holds is appended
-- once more, and each group reads it from the start. Returns how many entries that were, or -1 for too many
-- to do at once.
local entries = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[1] + 1)
local size = 0
for _, entry in ipairs(entries) do size = size + size_of(entry) end
if #entries > tonumber(ARGV[1]) or size > tonumber(ARGV[2]) then return -1 end
local groups = redis.call('XINFO', 'GROUPS', KEYS[1])
redis.call('DEL', KEYS[1])
for _, fields in ipairs(groups) do
  for n = 1, #fields, 2 do
    if fields[n] == 'name' then redis.call('XGROUP', 'CREATE', KEYS[1], fields[n + 1], '0', 'MKSTREAM') end
  end
end
for _, entry in ipairs(entries) do redis.call('XADD', KEYS[1], '*', unpack(entry[2])) end
return #entries
"""
)


class StreamInfo(NamedTuple):
    """XINFO STREAM without the two entries that it shows.

    Attributes:
        last: the last id that was ever added; `last_entry`: of those that are there.
        added_count: entries ever added; None where Redis (6) does not count them.
    """

    length: int
    last: str
    first_entry: str | None
    last_entry: str | None
    added_count: int | None


def stream_info(answer: Sequence[Any]) -> StreamInfo:
    """What `INFO` answers."""
    length, last, first_entry, last_entry, added = answer
    return StreamInfo(
        int(length),
        _text(last),
        _text(first_entry) or None,
        _text(last_entry) or None,
        None if added < 0 else int(added),
    )


def ask_info(client: redis.Redis, stream: str) -> StreamInfo | None:
    """About a stream; None if there is none.

    Raises:
        RedisError: Redis cannot be asked.
    """
    asked: Any = client
    try:
        return stream_info(asked.eval(INFO, 1, stream))
    except redis.ResponseError as cause:
        if "no such key" in str(cause):
            return None
        raise


def entries(answer: Sequence[Any]) -> list[Entry]:
    """Entries as scripts answer them."""
    return [(_text(entry), _fields(fields)) for entry, fields in answer]


def _fields(flat: Sequence[bytes] | None) -> Mapping[bytes, bytes] | None:
    return dict(zip(flat[::2], flat[1::2], strict=True)) if flat else None


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
