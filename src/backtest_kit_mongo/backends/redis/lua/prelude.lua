-- Shared by all scripts: prepended to each of them. Rules and invariants: coherence/__init__.py; key names: coherence/keys.py.

-- The identity of this Redis memory. master_replid is fresh after a restart and after a failover, unlike run_id, which an old master would
-- bring back when it is promoted a second time. Read here, so that it is the identity of the server that executes the script.
local function incarnation()
  local info = redis.call('INFO', 'replication')
  if string.find(info, 'role:slave', 1, true) then
    error('BKREPLICA this server is a replica; its entries may be old')
  end
  -- Said only where min-replicas-to-write is set. Writers are refused then, and go past this server, perhaps to another that was promoted
  -- meanwhile: what is cached here must not be read any more either.
  if string.find(info, 'min_slaves_good_slaves:0', 1, true) then
    error('BKALONE this server has lost its replicas; another may be the primary')
  end
  return string.match(info, 'master_replid:(%x+)')
end

local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- The incarnation of the cache: the identity of this memory, and the era in which MongoDB and this memory belong together (CLAIM). A client
-- that believes in another era gets that answer, before anything is done.
local function current(era_key, expected)
  local era = string.sub(redis.call('GET', era_key) or '', 1, 16)
  if era ~= expected then
    error('BKOUTDATED this memory is in another era of the database')
  end
  return string.sub(incarnation(), 1, 24) .. era
end

-- Record when this incarnation was first seen; open once a full lease time has passed since (I3, I9). A birth in the future was seen by a
-- clock that has been corrected since: it is now.
local function see_open(born_key, i, now, lease_ms)
  local b = redis.call('GET', born_key)
  local since = b and string.sub(b, 1, 40) == i and tonumber(string.sub(b, 41))
  if since and since <= now then
    return now - since > lease_ms
  end
  redis.call('SET', born_key, i .. string.format('%.0f', now))
  return false
end

-- Drop leases whose deadline has passed; say whether any is left. A deadline further off than a lease lasts was set by a clock that has been
-- corrected since: it is a lease time from now.
local function leased(leases_key, now, lease_ms)
  redis.call('ZREMRANGEBYSCORE', leases_key, '-inf', '(' .. string.format('%.0f', now))
  if redis.call('EXISTS', leases_key) == 0 then
    return false
  end
  local last = string.format('%.0f', now + lease_ms)
  for _, token in ipairs(redis.call('ZRANGEBYSCORE', leases_key, '(' .. last, '+inf')) do
    redis.call('ZADD', leases_key, last, token)
  end
  return true
end

-- Tell near caches that copies of an entry are no longer good. Numbered, so that a listener notices what it has missed.
local function invalidate(numbers_key, channel, entry_key)
  redis.call('PUBLISH', channel, redis.call('INCR', numbers_key) .. ' ' .. entry_key)
end

-- Whether entries are served now: while T lives. `asked` is what somebody was told before he looked for flags and saw none, an incarnation
-- and a time: until D after it nobody writes past this memory. That time is this server's own, and nothing is done if it is too long ago.
local function served(token_key, i, now, serve_ms, asked)
  if serve_ms == 0 then
    return true -- A cache that asks no MongoDB.
  end
  local held = redis.call('GET', token_key)
  local till = held and string.sub(held, 1, 40) == i and tonumber(string.sub(held, 41)) or 0
  if till > now + serve_ms then
    till = 0 -- Set by a clock that has been corrected since.
  end
  local since = string.sub(asked, 1, 40) == i and tonumber(string.sub(asked, 41))
  if since and since <= now and since + serve_ms > now and since + serve_ms > till then
    till = since + serve_ms
    redis.call('DEL', token_key) -- After a write that needs no memory a full Redis lets the next one pass: it serves on.
    redis.call('SET', token_key, i .. string.format('%.0f', till), 'PX', serve_ms)
  end
  return till > now
end
