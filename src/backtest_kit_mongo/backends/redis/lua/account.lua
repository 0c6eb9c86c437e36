-- The account of a stream (A): "bytes most measured-ms chosen". Follows the prelude in scripts that append events, or refuse to write because
-- none could be appended. What is appended is counted; what the stream really holds is measured when the count has come to `most`, when
-- the trimming worker says so, and now and then, since others may append too. `most` lies halfway between what a worker leaves in the
-- stream and maxmemory, so that a feed that nobody works off leaves Redis room for everything else. 0: there is no bound.
local function account(account_key)
  local held, most, at, chosen = string.match(redis.call('GET', account_key) or '', '^(%d+) (%d+) (%d+) (%d+)$')
  return tonumber(held), tonumber(most), tonumber(at), tonumber(chosen) or 0
end

local function keep_account(account_key, held, most, at, chosen)
  -- Refused by a full Redis; then there is none, and the next script measures again.
  redis.pcall('SET', account_key, string.format('%.0f %.0f %.0f %.0f', held, most, at, chosen))
end

-- `chosen`: bytes that all streams together are trimmed to (CC_STREAM_MAX_BYTES), as the worker given; 0: half of maxmemory.
local function measure(stream, account_key, streams_count, now, chosen)
  local info = redis.pcall('INFO', 'memory')
  local limit = type(info) == 'string' and tonumber(string.match(info, '[\r\n]maxmemory:(%d+)')) or 0
  local share, wanted, most = limit / streams_count, chosen / streams_count, 0
  if limit > 0 then
    most = (share + (chosen > 0 and math.min(wanted, 0.8 * share) or share / 2)) / 2
  elseif chosen > 0 then
    most = 1.5 * wanted
  end
  local held = most > 0 and redis.pcall('MEMORY', 'USAGE', stream, 'SAMPLES', 0) or 0
  if type(held) == 'table' then
    held, most = 0, 0 -- This user may not ask: unbounded, as long as the worker does not trim.
  end
  keep_account(account_key, held, most, now, chosen)
  return held, most
end

local function has_room(stream, account_key, streams_count)
  local held, most, at, chosen = account(account_key)
  local now = now_ms()
  -- Measuring walks through the stream: a few milliseconds for each 100 MB. So it is done the less often the more there is.
  local age = at and now - at
  if not held or age < 0 or age > 10000 + held / 16384 or (most > 0 and held > most and age > 100 + held / 65536) then
    held, most = measure(stream, account_key, streams_count, now, chosen)
    at = now
  end
  return most == 0 or held <= most, held, most, at, chosen
end

-- Fails where a write is to be refused rather than its event kept. `streams_count` 0: never.
local function require_room(stream, account_key, streams_count)
  if streams_count > 0 and not has_room(stream, account_key, streams_count) then
    error('BKFULL the change feed has no room for the event of this write')
  end
end

-- Append events, given as header, body, header, body, ... Returns 1; 0 where there is no room for all of them; or an error.
local function append(stream, account_key, streams_count, events)
  if #events == 0 then
    return 1
  end
  local room, held, most, at, chosen = has_room(stream, account_key, streams_count)
  if not room then
    return 0
  end
  for n = 1, #events, 2 do
    -- First of all writes: a Redis that is full refuses a script's first one only.
    local added = redis.pcall('XADD', stream, '*', 'e', events[n], 'p', events[n + 1])
    if added.err then
      -- Full all the same; or somebody has used up the ids, until a worker makes the stream anew.
      local passes = string.find(added.err, 'OOM', 1, true) or string.find(added.err, 'last possible ID', 1, true)
      return passes and 0 or added
    end
    held = held + #events[n] + #events[n + 1] + 64
  end
  keep_account(account_key, held, most, at, chosen)
  return 1
end
