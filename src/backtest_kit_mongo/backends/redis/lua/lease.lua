-- LEASE: nobody may be served the old entry from here on. Returns the entry that it deleted, if asked for and valid.
-- KEYS entry right leases born stream numbers channel account era
-- ARGV expected-era fresh-token lease-ms ttl-ms want-prior longest-lease-ms streams-count (0: never mind the feed)
local i = current(KEYS[9], ARGV[1])
require_room(KEYS[5], KEYS[8], tonumber(ARGV[7]))
local lease_ms, longest = tonumber(ARGV[3]), tonumber(ARGV[6])
local now = now_ms()
local open = see_open(KEYS[4], i, now, longest)
local sole = not leased(KEYS[3], now, longest)
local prior = false
if ARGV[5] == '1' then
  local entry = redis.call('GET', KEYS[1])
  if entry and string.sub(entry, 1, 40) == i then
    prior = entry
  end
end
redis.call('ZADD', KEYS[3], string.format('%.0f', now + lease_ms), ARGV[2])
redis.call('DEL', KEYS[1])
invalidate(KEYS[6], KEYS[7], KEYS[1])
if sole and open then
  redis.call('SET', KEYS[2], i .. ARGV[2], 'PX', ARGV[4])
else
  redis.call('DEL', KEYS[2])
end
return prior
